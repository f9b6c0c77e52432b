"""The GPU suite rehearsed on the CPU: every row function runs, and nothing is left out silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flexattn.__main__ import main
from flexattn.bench import gpu, gpu_cases, gpu_rows, gpu_warm
from flexattn.bench.gpu import Budget, Job, Plan, Suite
from flexattn.bench.gpu_cases import Case, cases
from flexattn.bench.gpu_contest import Contest, Place, hold, warm
from flexattn.bench.gpu_variants import VARIANTS, Mods, Shape, Variant

ROOT = Path(__file__).parent.parent.parent
HERE = Place(torch.device("cpu"), "cpp", True)
# What cannot be had on the CPU, and is recorded there as failed.
NOT_HERE = {"torch_flex", "sdpa_cudnn"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """torch warns that its flex_attention is not compiled, which is what a rehearsal wants."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"flex_attention called without")
        yield


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_every_row_runs(name: str, tmp_path: Path) -> None:
    assert (
        main(["bench", "gpu", "--rehearse", "--no-checks", "--only", name, "--out", str(tmp_path)])
        == 0
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rehearsal"] and found["rows"]
    for row in found["rows"]:
        assert "skipped" not in row and "wrong" not in row
        assert set(row.get("failed", {})) <= NOT_HERE, row["failed"]
        case = next(case for case in cases() if case.name == row["case"])
        if case.contest is not None:
            assert row["ours_ms"] > 0 and row["group"] == case.contest.group
            assert all(f"over_{extra}" in row for extra in case.contest.extra)


def _suite(tmp_path: Path, **plan: Any) -> Suite:
    return Suite(Plan(tmp_path, 5, True, **plan), HERE, Budget(300))


def test_rows_without_time_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = _suite(tmp_path, only="forward causal B1")
    suite.budget.total = 0.0
    suite.measure()
    assert suite.rows and all(row["skipped"] == "the time was over" for row in suite.rows)
    assert suite.finish() == 0
    assert "left out, the time was over" in (tmp_path / "gpu.md").read_text()


def _broken(place: Place) -> Any:
    raise ZeroDivisionError("of purpose")


def test_a_row_that_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = Case("ceiling fine", 0, measure=lambda place: [{"group": "ceiling", "what": "copy"}])
    monkeypatch.setattr(gpu, "cases", lambda: (Case("launch bad", 0, measure=_broken), fine))
    suite = _suite(tmp_path)
    suite.measure()
    assert [row["case"] for row in suite.rows] == ["launch bad", "ceiling fine"]
    assert "ZeroDivisionError: of purpose" in suite.rows[0]["failed"]["ours"]
    assert "ours failed" in capsys.readouterr().err


def test_a_wrong_result_fails_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contest = Contest("forward", "causal", Shape(1, 2, 2, 8192, 8192, 128), peers=("sdpa_flash",))
    right = VARIANTS["causal"]
    without_mask = Variant(lambda shape, device: Mods(peers={"causal": True}), right.pairs)
    monkeypatch.setitem(VARIANTS, "causal", without_mask)
    monkeypatch.setattr(gpu, "cases", lambda: (Case("c", 0, contest),))
    suite = _suite(tmp_path)
    suite.measure()
    assert "differs from every other library" in suite.rows[0]["wrong"]
    assert suite.finish() == 1


def test_barred_contestants_do_not_enter(tmp_path: Path) -> None:
    contest = Contest("forward", "causal", Shape(1, 2, 2, 8192, 8192, 128))
    row = hold(contest, HERE, {"torch_flex": "its kernel was not compiled in time"})
    assert row["absent"]["torch_flex"] == "its kernel was not compiled in time"
    assert "torch_flex_ms" not in row and "sdpa_flash_ms" in row


def test_peers_that_were_not_compiled_in_time_are_barred(tmp_path: Path) -> None:
    suite = _suite(tmp_path)
    suite.plan = Plan(tmp_path, 5, False)
    contest = Contest("forward", "causal", Shape(1, 2, 2, 8192, 8192, 128))
    case = Case(contest.name, 0, contest)
    suite.warm = {(contest.name, "sdpa_cudnn"): {"failed": "no"}}
    assert suite._barred(case) == {
        "sdpa_cudnn": "no", "torch_flex": "its kernel was not compiled in time",
    }  # fmt: skip
    suite.warm[contest.name, "torch_flex"] = {"seconds": 3.0}
    assert suite._barred(case) == {"sdpa_cudnn": "no"}


def test_compiling_ahead_reports_each_contestant() -> None:
    contest = Contest("forward", "soft-cap", Shape(1, 2, 2, 8192, 8192, 128),
                      {"plain": ("causal", Shape(1, 2, 2, 8192, 8192, 128))},
                      ("torch_flex", "sdpa_cudnn", "flash_attn"))  # fmt: skip
    rows = {row["contestant"]: row for row in warm(contest, HERE)}
    assert set(rows) == {"ours", "plain", "torch_flex"}  # the others have no such variant
    assert all(row["contest"] == contest.name and row["seconds"] > 0 for row in rows.values())


def test_compiling_ahead_is_a_process_that_reports(tmp_path: Path) -> None:
    report = tmp_path / "warm.jsonl"
    words = ["0", "1", "cpu", "cpp", "True", str(report), "full B2 H8 D256"]
    assert gpu_warm.main(words) == 0
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    rows = [row for row in lines if "contestant" in row]
    found = {(row["contest"].split()[0], row["contestant"]): row for row in rows}
    assert ("forward", "ours") in found and ("backward", "ours") in found
    assert "failed" in found["backward", "torch_flex"]  # it has none on the CPU
    assert "failed" not in found["backward", "ours"]


def test_missing_checks_are_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CHECKS", tmp_path / "nowhere")
    suite = _suite(tmp_path)
    suite.prepare()
    assert suite.finish() == 1
    assert "nothing was checked" in (tmp_path / "gpu.md").read_text()


def test_checks_are_read_line_by_line(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    code = f"""
import json, sys
with open({str(report)!r}, "w") as file:
    for row in ({{"collected": ["a", "b", "c", "d"]}},
                {{"test": "a", "outcome": "passed", "why": ""}},
                {{"test": "b", "outcome": "failed", "why": "no"}},
                {{"test": "c", "outcome": "skipped", "why": "later"}}):
        file.write(json.dumps(row) + "\\n")
    file.write('{{"test": "d", "outc')
sys.exit(4)
"""
    job = Job(["-c", code], report, dict(os.environ))
    job.process.wait()
    suite = _suite(tmp_path)
    suite._read_checks([job])
    assert suite.checks["passed"] == 1 and suite.checks["not_run"] == ["d"]
    assert [f["test"] for f in suite.checks["failed"]] == ["b", "pytest itself"]
    assert suite.checks["skipped"] == [{"test": "c", "why": "later"}]
    assert suite.finish() == 1


def test_rows_are_measured_in_a_process_of_their_own(tmp_path: Path) -> None:
    suite = _suite(tmp_path)
    names = ["ceiling copy", "mask causal 8192", "forward causal B2 H16 D128 8192"]
    suite.measure_apart(names)
    assert [row["case"] for row in suite.rows] == names
    assert all("failed" not in row for row in suite.rows[:2]) and suite.rows[2]["ours_ms"] > 0


class DyingJob(Job):
    """A stand-in for the measuring process that dies in the second of its rows."""

    CODE = """
import json, os, sys
task = json.load(open(sys.argv[1]))
with open(task["report"], "a") as report:
    for number, name in enumerate(task["names"]):
        print(json.dumps({"begun": name}), file=report, flush=True)
        if number == 1:
            print("illegal memory access", file=sys.stderr, flush=True)
            os.abort()
        rows = [{"group": "mask", "case": name}]
        print(json.dumps({"case": name, "rows": rows}), file=report, flush=True)
"""

    def __init__(self, command: list[str], report: Path, environment: dict[str, str]) -> None:
        super().__init__(["-c", self.CODE, command[-1]], report, environment)


def test_a_lost_process_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Job", DyingJob)
    suite = _suite(tmp_path)
    names = [case.name for case in cases() if case.name.startswith("mask")][:4]
    suite.measure_apart(list(names))
    assert [row["case"] for row in suite.rows] == names
    lost = [row["case"] for row in suite.rows if "failed" in row]
    assert lost == [names[1], names[3]]
    assert "illegal memory access" in suite.rows[1]["failed"]["ours"]
    assert suite.finish() == 1


def test_checks_go_on_behind_a_lost_process(tmp_path: Path) -> None:
    """A test that was begun and not ended failed; those that ended are not repeated."""
    report = tmp_path / "report.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "tests/gpu/pytest.ini",
               "tests/gpu/test_gpu_errors.py", "--report", str(report)]  # fmt: skip
    environment = os.environ | {"FLEXATTN_GPU_REHEARSAL": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    lines = report.read_text().splitlines(True)
    ended = [line for line in lines if '"outcome"' in line]
    names = [json.loads(line)["test"] for line in ended]
    begun = json.dumps({"begun": names[1]}) + "\n"
    report.write_text("".join([lines[0], ended[0], begun, '{"test": "half']))
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    outcomes = [(row["test"], row["outcome"]) for row in rows if "outcome" in row]
    assert sorted(name for name, _ in outcomes) == sorted(names)
    assert (names[1], "failed") in outcomes and len(outcomes) == len(names)


def test_a_job_can_be_stopped(tmp_path: Path) -> None:
    job = Job(["-c", "import time; time.sleep(60)"], tmp_path / "r", dict(os.environ))
    assert job.running
    job.stop()
    job.go_on()
    assert not job.running and job.code is None


def test_a_job_that_died_goes_on(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import os, pathlib; m = pathlib.Path({str(mark)!r})\nif not m.exists():\n"
    code += "    m.touch()\n    os.abort()"
    job = Job(["-c", code], tmp_path / "r", dict(os.environ))
    job.process.wait()
    assert job.code is not None and job.code < 0
    job.go_on()
    job.process.wait()
    assert job.code == 0


def test_checks_of_a_part_run_and_report(tmp_path: Path) -> None:
    """A sample of the checks, on C++ kernels; tests/interpreted runs another, interpreted."""
    report = tmp_path / "report.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "tests/gpu/pytest.ini", "tests/gpu",
               "--part", "3/61", "--report", str(report)]  # fmt: skip
    environment = os.environ | {"FLEXATTN_GPU_REHEARSAL": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    first, *rest = (json.loads(line) for line in report.read_text().splitlines())
    rows = [row for row in rest if "outcome" in row]
    assert sorted(first["collected"]) == sorted(row["test"] for row in rows)
    assert {row["outcome"] for row in rows} <= {"passed", "skipped"}


def test_no_gpu_is_said_clearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "gpu", "--out", str(tmp_path)]) == 1
    assert "finds no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_triton_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert gpu.obstacle() == "Triton is not installed beside torch: pip install triton"


def test_the_order_of_rows_is_that_of_importance() -> None:
    names = [case.name for case in gpu_cases.cases()]
    assert names[0].startswith("ceiling")
    assert names.index("forward causal B1 H16 D128 16384") < names.index(
        "forward full B2 H16 D128 8192"
    )


def test_a_row_begun_too_late_is_no_wrong_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite's time ends in nearly every run within a row, which is then left out."""
    monkeypatch.setattr(gpu_rows, "LEAST", 0.01)
    late = Case("launch late", 0, measure=lambda place: time.sleep(20) or [])
    assert gpu_rows.rows_of(late, HERE, {}, 0.2)[0]["skipped"] == "the time was over"
    monkeypatch.setattr(gpu_rows, "ONE_CASE", 0.2)
    assert "took longer" in gpu_rows.rows_of(late, HERE, {}, 30.0)[0]["failed"]["ours"]


def test_rows_behind_the_end_of_time_start_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "Job", None)
    suite = _suite(tmp_path)
    suite.budget.total = -1.0
    names = [case.name for case in cases()][:3]
    suite.measure_apart(list(names))
    assert [row["case"] for row in suite.rows] == names
    assert all(row["skipped"] == "the time was over" for row in suite.rows)
    assert suite.finish() == 0


def test_a_process_that_dies_in_silence_is_not_started_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmentation fault writes nothing."""
    silent = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(gpu, "Job", lambda command, *rest: Job(["-c", silent], *rest))
    suite = _suite(tmp_path)
    suite.measure_apart([cases()[0].name])
    assert suite.rows[0]["failed"]["ours"] == "ended with exit status -9: "


@pytest.mark.parametrize("code", ["import sys; sys.exit('No module named pytest')", "1 / 0"])
def test_checks_that_collect_nothing_are_no_pass(tmp_path: Path, code: str) -> None:
    job = Job(["-c", code], tmp_path / "report.jsonl", dict(os.environ))
    job.process.wait()
    suite = _suite(tmp_path)
    suite._read_checks([job])
    assert suite.checks["failed"][0]["test"] == "pytest itself"
    assert suite.finish() == 1


def test_compiling_goes_on_behind_a_lost_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_warm, "warm", lambda contest, place: [{"contestant": contest.name}])
    report = tmp_path / "warm.jsonl"
    words = ["0", "1", "cpu", "cpp", "True", str(report), "full B2 H8 D256"]
    monkeypatch.setattr(gpu_warm, "answers", lambda place: False)
    for lines in (2, 4):
        assert gpu_warm.main(words) == gpu_rows.LOST
        assert len(report.read_text().splitlines()) == lines
    assert gpu_warm.main(words) == 0
