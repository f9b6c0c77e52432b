"""The CPU suites on tiny problems: what their rows say, and that noise is said."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from flexattn.__main__ import main
from flexattn.bench import ceilings, charts, cpu, mods, shapes, suites
from flexattn.bench.shapes import Shape
from flexattn.bench.timing import Timing

FILL = Path(__file__).parents[2] / "docs" / "fill_figures.py"
SMALL = (Shape(2, 96, 32, torch.bfloat16, True), Shape(2, 64, 32, torch.float32, False))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SHAPES", SMALL)
    monkeypatch.setattr(cpu, "DECODES", ((torch.float32, 32, 1), (torch.bfloat16, 64, 3)))
    monkeypatch.setattr(cpu, "KEYS", 512)
    monkeypatch.setattr(ceilings, "ROUNDS", 1000)
    monkeypatch.setattr(ceilings, "READ_BYTES", 1 << 16)
    monkeypatch.setattr(mods, "LONG", 256)


def rows_of(capsys: Any, suite: str) -> list[dict[str, Any]]:
    assert main(["bench", suite, "--json", "--rounds", "3", "--no-peers"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


@pytest.mark.parametrize("suite", ["cpu-forward", "cpu-backward"])
def test_rates_and_ceilings(suite: str, capsys: Any) -> None:
    rows = rows_of(capsys, suite)
    assert [(row["dtype"], row["S"]) for row in rows] == [("bfloat16", 96), ("float32", 64)]
    for row in rows:
        assert row["ours_gflops"] > 0 and row["sdpa_gflops"] > 0
        assert {"over_sdpa", "of_gemm", "of_peak"} <= set(row)
    told = runpy.run_path(str(FILL))["summary"](rows)
    assert {row["dtype"] for row in told} == {"bfloat16", "float32"} and "of_peak" in told[0]


@pytest.mark.parametrize("suite", ["cpu-forward", "cpu-decode", "mods", "latency", "threads"])
def test_a_picture(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [mods.Problem("odd", Shape(2, 100, 32, torch.float32, True))]
    monkeypatch.setattr(mods, "problems", lambda dtype: odd)
    path = tmp_path / "picture.png"
    options = ["--rounds", "2", "--no-peers", "--plot", str(path)]
    assert main(["bench", suite, *options]) == 0
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_every_suite_has_something_to_draw() -> None:
    folder = FILL.parent / "benchmarks"
    for suite in suites.SUITES:
        row = json.loads((folder / f"{suite}.json").read_text())["rows"][0]
        drawn = any(key == bar or key.endswith(f"_{bar}") for key in row for bar in charts.BARS)
        assert drawn or "torch_ms" in row, suite


def test_what_cannot_be_written_is_told_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(suites, "SUITES", {"latency": (None, 1)})  # measuring would raise
    for options, says in (
        (["--output", str(tmp_path / "no" / "a.json")], "there is no folder"),
        (["--output", str(tmp_path)], "cannot be written"),
        (["--plot", str(tmp_path / "a.bmp")], "ends in neither of .png, .svg"),
        (["--plot", str(tmp_path / "no" / "a.png")], "there is no folder"),
        (["--rounds", "1"], "not a whole number of 2 or more"),
        (["--rounds", "-3"], "not a whole number of 2 or more"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["bench", "latency", *options])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
    assert main(["bench", "gpu", "--plot", str(tmp_path / "a.png")]) == 1
    assert "name that folder with --out" in capsys.readouterr().err


def test_decoding_against_the_rate_of_reads(capsys: Any) -> None:
    rows = rows_of(capsys, "cpu-decode")
    assert [row["queries"] for row in rows] == [1, 3]
    assert all(row["ours_gbytes"] > 0 and "of_read" in row for row in rows)


def test_one_thread_beside_all(capsys: Any) -> None:
    before = torch.get_num_threads()
    rows = rows_of(capsys, "threads")
    assert [row["direction"] for row in rows] == ["forward", "with backward"]
    assert all(row["one_thread_ms"] > 0 and row["threads"] == before for row in rows)
    assert torch.get_num_threads() == before


def test_mods_are_compared_with_the_plain_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(2, 128, 32, torch.float32, True)
    chosen = [*mods._with_mods(shape), *mods._sparse(Shape(2, 256, 32, torch.float32, True))]
    odd = mods.Problem("odd", Shape(2, 100, 32, torch.float32, True), base=shape)
    monkeypatch.setattr(mods, "problems", lambda dtype: [*chosen, odd])
    monkeypatch.setattr(mods, "DTYPES", (torch.float32,))
    rows = list(mods.mods(2, True, lambda: None))
    assert [row["problem"] for row in rows][:2] == ["alibi", "document score"]
    assert all(row["ours_ms"] > 0 and "cost" in row for row in rows)
    assert rows[0]["kept"] == pytest.approx(129 / 256)  # causal of 128
    assert rows[-1]["kept"] == pytest.approx(101 / 200)


def test_every_problem_is_listed_once() -> None:
    names = [(p.name, p.shape.D, p.shape.S) for p in mods.problems(torch.float32)]
    assert len(set(names)) == len(names) == mods.steps() // len(mods.DTYPES)


def test_noise_is_said_instead_of_a_ratio() -> None:
    quiet, noisy = Timing(1.0, 0.01, 7), Timing(2.0, 0.6, 7)
    assert shapes.ratio(Timing(2.0, 0.01, 7), quiet) == 2.0
    assert shapes.ratio(noisy, quiet) is None and shapes.ratio(quiet, noisy) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_ceilings_do_what_they_count(dtype: torch.dtype) -> None:
    call, operations = ceilings.multiply_adds(dtype)
    assert operations >= 1000 * 16 * 2 and call() == operations
    call, size = ceilings.read()
    assert call() is None and size == 1 << 16


def test_the_naive_contestant_is_right() -> None:
    for shape in SMALL:
        tensors = shapes.inputs(shape)
        want = shapes.sdpa(shape, *tensors)()
        torch.testing.assert_close(shapes.naive(shape, *tensors)(), want, atol=2e-2, rtol=2e-2)


def test_the_suites_of_the_command_line() -> None:
    assert {"cpu-forward", "cpu-backward", "cpu-decode", "mods", "masks", "latency"} <= set(
        suites.SUITES
    )
