"""The GPU suite, `make gpu`: results on the device first, then speed, within a few minutes.

    checks, in a few processes  ┐ at once, until 40% of the time is over
    compiling for the contests  ┘
    rows, one by one            the most important first; what is left over is named as left out

``gpu.json`` and ``gpu.md`` are written after every row.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flexattn.bench import gpu_report
from flexattn.bench.gpu_cases import Case, cases
from flexattn.bench.gpu_contest import Place, Row, hold, short
from flexattn.bench.gpu_machine import ROOT
from flexattn.bench.gpu_peers import compile_alone
from flexattn.bench.gpu_timing import limit

CHECKS = ROOT / "tests" / "gpu"
FIRST_PHASE = 0.4  # share of the time for checks and compiling
LAST_SECONDS = 10.0  # kept for writing and for a row that takes longer than the others
ONE_CASE = 60.0  # seconds a row may take at most


@dataclass
class Budget:
    """Seconds that are left."""

    total: float
    start: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        return self.total - self.spent


@dataclass(frozen=True)
class Plan:
    """What one run is to do.

    Attributes:
        rehearsal: On the CPU with tiny shapes, so that the suite's own code runs without a GPU.
        only: Part of the names of the rows to measure; "" for all.
    """

    out: Path
    minutes: float
    rehearsal: bool
    only: str = ""
    checks: bool = True
    peers: bool = True


def obstacle() -> str | None:
    """Why the suite cannot run on this machine."""
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no CUDA device (torch.cuda.is_available() is False). "
            "Name another Python with `make gpu PYTHON=...`, or see the suite run without one: "
            "python -m flexattn bench gpu --rehearse --out DIR"
        )
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed beside torch: pip install triton"
    return None


def run(plan: Plan) -> int:
    """The whole suite; 1 when a result was wrong or unchecked, or when there is no GPU."""
    if not plan.rehearsal and (problem := obstacle()) is not None:
        print(f"bench gpu: {problem}", file=sys.stderr)
        return 1
    compile_alone()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    device = torch.device("cpu" if plan.rehearsal else "cuda")
    backend = "triton" if interpreted or not plan.rehearsal else "cpp"
    budget = Budget(60 * plan.minutes)
    suite = Suite(plan, Place(device, backend, plan.rehearsal), budget)
    suite.prepare()
    suite.measure()
    return suite.finish()


class Suite:
    """One run of the suite."""

    def __init__(self, plan: Plan, place: Place, budget: Budget) -> None:
        self.plan, self.place, self.budget = plan, place, budget
        self.rows: list[Row] = []
        self.warm: dict[tuple[str, str], Row] = {}
        self.checks: dict[str, Any] = {
            "passed": 0, "failed": [], "skipped": [], "not_run": [], "seconds": 0.0, "notes": [],
        }  # fmt: skip
        self.facts = gpu_report.device_facts(place.device)

    def say(self, text: str) -> None:
        print(f"[{self.budget.spent:4.0f} s] {text}", file=sys.stderr, flush=True)

    def write(self) -> None:
        result = {
            "suite": "gpu", "rehearsal": self.plan.rehearsal, "device": self.facts,
            "seconds": self.budget.spent, "checks": self.checks,
            "compiled": list(self.warm.values()), "rows": self.rows,
        }  # fmt: skip
        gpu_report.write(self.plan.out, result)

    # First phase ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Checks and compiling, side by side; both end when their share of the time is over."""
        end = self.budget.total * FIRST_PHASE
        with tempfile.TemporaryDirectory() as folder:
            checks = self._start_checks(Path(folder))
            compiling = self._start_compiling(Path(folder))
            running = [*checks, *compiling]
            said = 0.0
            while any(job.running for job in running) and self.budget.spent < end:
                time.sleep(0.1)
                if self.budget.spent > said + 10:
                    said = self.budget.spent
                    done, ready = (sum(len(j.lines()) for j in js) for js in (checks, compiling))
                    self.say(f"{done} checks done, {ready} contestants compiled")
            for job in running:
                job.stop()
            self._read_checks(checks)
            for job in compiling:
                for row in job.lines():
                    self.warm[row["contest"], row["contestant"]] = row
        counts = {k: v if isinstance(v, int) else len(v) for k, v in self.checks.items()
                  if k in ("passed", "failed", "skipped", "not_run")}  # fmt: skip
        self.say("checks: " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in counts.items()))
        for failure in self.checks["failed"]:
            self.say(f"FAILED {failure['test']}")
        self.write()

    def _start_checks(self, folder: Path) -> list[Job]:
        if not self.plan.checks:
            self.checks["notes"].append("left out by --no-checks")
            return []
        if not CHECKS.is_dir():
            self.checks["notes"].append(f"{CHECKS} is not there: nothing was checked")
            self.checks["not_run"].append("all")
            return []
        parts = 1 if self.plan.rehearsal else max(1, min(10, (os.cpu_count() or 1) * 5 // 8))
        environment = os.environ | {"FLEXATTN_GPU_REHEARSAL": "1" if self.plan.rehearsal else ""}
        jobs = []
        for part in range(parts):
            report = folder / f"checks-{part}.jsonl"
            command = ["-m", "pytest", "-q", "-c", str(CHECKS / "pytest.ini"), str(CHECKS)]
            command += ["--part", f"{part}/{parts}", "--report", str(report)]
            jobs.append(Job(command, report, environment))
        return jobs

    def _start_compiling(self, folder: Path) -> list[Job]:
        if not self.plan.peers or self.plan.rehearsal:
            return []
        parts = max(1, min(4, (os.cpu_count() or 1) // 4))
        jobs = []
        for part in range(parts):
            report = folder / f"warm-{part}.jsonl"
            words = [part, parts, self.place.device, self.place.backend, False, report]
            command = ["-m", "flexattn.bench.gpu_warm", *map(str, words)]
            jobs.append(Job(command, report, dict(os.environ)))
        return jobs

    def _read_checks(self, jobs: Sequence[Job]) -> None:
        found: dict[str, Any] = self.checks
        for job in jobs:
            wanted: list[str] = []
            for row in job.lines():
                wanted += row.get("collected", [])
                if "test" not in row:
                    continue
                wanted.remove(row["test"])
                if row["outcome"] == "passed":
                    found["passed"] += 1
                else:
                    found[row["outcome"]].append({"test": row["test"], "why": row["why"]})
            found["not_run"] += wanted
            if job.code not in (0, 1, None):
                found["failed"].append({"test": "pytest itself", "why": job.tail()})
        found["seconds"] = self.budget.spent

    # Second phase -----------------------------------------------------------------------------

    def measure(self) -> None:
        for case in cases():
            if self.plan.only not in case.name:
                continue
            left = self.budget.left - LAST_SECONDS
            if left < 5:
                group = case.contest.group if case.contest else case.name.split()[0]
                row = {"group": group, "case": case.name, "skipped": "the time was over"}
                self.rows.append(row)
                continue
            self._one(case, min(ONE_CASE, left))
            if self.place.device.type == "cuda":
                torch.cuda.empty_cache()
        self.write()

    def _one(self, case: Case, seconds: float) -> None:
        group = case.contest.group if case.contest else case.name.split()[0]
        try:
            with limit(seconds):
                rows: Iterable[Row]
                if case.contest is not None:
                    rows = [hold(case.contest, self.place, self._barred(case))]
                else:
                    assert case.measure is not None
                    rows = list(case.measure(self.place))
        except Exception as error:
            rows = [{"group": group, "failed": {"ours": short(error)}}]
        for row in rows:
            self.rows.append({**row, "case": case.name})
            self.say(f"{case.name}: {line(row)}")
        self.write()

    def _barred(self, case: Case) -> dict[str, str]:
        """Contestants whose compiling did not end, or failed, while there was time for it."""
        contest = case.contest
        assert contest is not None
        if not self.plan.peers:
            return dict.fromkeys(contest.peers, "left out by --no-peers")
        if self.plan.rehearsal or not self.warm:
            return {}
        barred = {}
        for name in contest.peers:
            row = self.warm.get((case.name, name))
            if row is not None and "failed" in row:
                barred[name] = row["failed"]
            elif row is None and name == "torch_flex":
                barred[name] = "its kernel was not compiled in time"
        return barred

    def finish(self) -> int:
        """0 when every check ran and passed, and no measured result was wrong."""
        wrong = [row["case"] for row in self.rows if "wrong" in row]
        bad = bool(self.checks["failed"] or self.checks["not_run"] or wrong)
        for name in wrong:
            self.say(f"WRONG {name}")
        for row in gpu_report.targets(self.rows):
            if row["measured"] is not None and not self.plan.rehearsal:
                met = "met" if row["met"] else "MISSED"
                self.say(f"{met}: {row['target']}: {row['measured']:.3g} ({row['wanted']})")
        self.write()
        self.say(f"written to {self.plan.out}/gpu.md and gpu.json; {'FAILED' if bad else 'done'}")
        return int(bad)


class Job:
    """A Python process that reports by appending JSON lines to a file."""

    def __init__(self, command: Sequence[str], report: Path, environment: dict[str, str]) -> None:
        self.report = report
        self.log = report.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> int | None:
        """Exit status; None when it had to be stopped."""
        code = self.process.returncode
        return None if code is not None and code < 0 else code

    def stop(self) -> None:
        if self.running:
            self.process.kill()
        self.process.wait()

    def lines(self) -> list[Any]:
        if not self.report.exists():
            return []
        whole = [line for line in self.report.read_text().splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def tail(self) -> str:
        return self.log.read_text()[-2000:]


def line(row: Row) -> str:
    """A row in a few words; everything else is in the files."""
    words = []
    for key, value in row.items():
        told = key.startswith(("ours_", "over_")) or "ours_ms" not in row
        if isinstance(value, float) and told and not key.endswith("_spread"):
            words.append(f"{key} {value:.4g}")
    words += [f"{who} failed ({_first(why)})" for who, why in row.get("failed", {}).items()]
    words += [f"WRONG: {row['wrong']}"] if "wrong" in row else []
    return ", ".join(words)


def _first(text: str) -> str:
    return text.splitlines()[0][:100]
