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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flexattn.bench import gpu_report
from flexattn.bench.gpu_cases import Case, cases
from flexattn.bench.gpu_contest import Place, Row
from flexattn.bench.gpu_machine import ROOT
from flexattn.bench.gpu_peers import compile_alone
from flexattn.bench.gpu_rows import LEAST, LOST, ONE_CASE, group_of, rows_of

CHECKS = ROOT / "tests" / "gpu"
FIRST_PHASE = 0.4  # share of the time for checks and compiling
LAST_SECONDS = 15.0  # kept for writing and for a row that takes longer than the others
NO_TESTS = 5  # pytest's exit status when a process that went on found nothing left
GRACE = 30.0  # seconds beyond its limit that a row may take to end by itself


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
                for job in running:
                    job.go_on()
                if self.budget.spent > said + 10:
                    said = self.budget.spent
                    done = sum("outcome" in row for job in checks for row in job.lines())
                    ready = sum("contestant" in row for job in compiling for row in job.lines())
                    self.say(f"{done} checks done, {ready} contestants compiled")
            for job in running:
                job.stop()
            self._read_checks(checks)
            for job in compiling:
                for row in job.lines():
                    if "contestant" in row:
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
        parts = 1 if self.plan.rehearsal else max(1, min(8, (os.cpu_count() or 1) // 2))
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
        parts = max(1, min(6, (os.cpu_count() or 1) * 3 // 8))
        jobs = []
        for part in range(parts):
            report = folder / f"warm-{part}.jsonl"
            words = [part, parts, self.place.device, self.place.backend, False, report]
            words += [self.plan.only] if self.plan.only else []
            command = ["-m", "flexattn.bench.gpu_warm", *map(str, words)]
            jobs.append(Job(command, report, dict(os.environ)))
        return jobs

    def _read_checks(self, jobs: Sequence[Job]) -> None:
        found: dict[str, Any] = self.checks
        for job in jobs:
            wanted: list[str] | None = None
            for row in job.lines():
                if "collected" in row:
                    wanted = row["collected"] if wanted is None else wanted
                if "test" not in row:
                    continue
                if wanted and row["test"] in wanted:
                    wanted.remove(row["test"])
                if row["outcome"] == "passed":
                    found["passed"] += 1
                else:
                    found[row["outcome"]].append({"test": row["test"], "why": row["why"]})
            found["not_run"] += wanted or []
            # A Python without pytest ends with 1, as failing tests do, but has collected nothing.
            if wanted is None or job.code not in (0, 1, NO_TESTS, LOST, None):
                found["failed"].append({"test": "pytest itself", "why": job.last_words()})
        found["seconds"] = self.budget.spent

    # Second phase -----------------------------------------------------------------------------

    def measure(self) -> None:
        """Every row: here in a rehearsal, and else in a process that may be lost and replaced."""
        chosen = [case for case in cases() if self.plan.only in case.name]
        if self.plan.rehearsal:
            for case in chosen:
                self._took(rows_of(case, self.place, self._barred(case), self._left))
        else:
            self.measure_apart([case.name for case in chosen])
        self.write()

    @property
    def _left(self) -> float:
        return self.budget.left - LAST_SECONDS

    def _took(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.rows.append(row)
            self.say(f"{row['case']}: {line(row)}")
        self.write()

    def measure_apart(self, names: list[str]) -> None:
        """Rows by name, each process going on behind the row at which the one before was lost."""
        named = {case.name: case for case in cases()}
        barred = {name: self._barred(named[name]) for name in names}
        while names and self._left >= LEAST:
            with tempfile.TemporaryDirectory() as folder:
                done, lost = self._one_process(Path(folder), names, barred)
            names = names[done:]
            if lost and names:
                group = group_of(named[names[0]])
                self._took([{"group": group, "case": names[0], "failed": {"ours": lost}}])
                names = names[1:]
        for name in names:
            self._took(rows_of(named[name], self.place, {}, 0.0))

    def _one_process(
        self, folder: Path, names: list[str], barred: dict[str, dict[str, str]]
    ) -> tuple[int, str]:
        """(rows done, how the next one was lost or "")."""
        report, task = folder / "rows.jsonl", folder / "task.json"
        told = {"names": names, "barred": barred, "seconds": self._left, "report": str(report)}
        told |= {"device": str(self.place.device), "backend": self.place.backend}
        task.write_text(json.dumps(told | {"rehearsal": self.plan.rehearsal}))
        job = Job(["-m", "flexattn.bench.gpu_rows", str(task)], report, dict(os.environ))
        done, seen, heard = 0, 0, time.monotonic()
        while True:
            running = job.running  # before the lines are read: none comes after
            lines = job.lines()
            if len(lines) > seen:
                heard = time.monotonic()
            for row in lines[seen:]:
                if "rows" in row:
                    done += 1
                    self._took(row["rows"])
            seen = len(lines)
            if not running:
                return done, "" if job.process.returncode in (0, LOST) else job.last_words()
            if time.monotonic() - heard > ONE_CASE + GRACE or self.budget.left < 0:
                job.stop()
                return done, f"it did not return in {time.monotonic() - heard:.0f} s"
            time.sleep(0.2)

    def _barred(self, case: Case) -> dict[str, str]:
        """Contestants whose compiling did not end, or failed, while there was time for it."""
        contest = case.contest
        if contest is None:
            return {}
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
        """0 when every check ran and passed, and every row that was begun had a right result."""
        wrong = [row["case"] for row in self.rows if "wrong" in row]
        wrong += [row["case"] for row in self.rows if "ours" in row.get("failed", {})]
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
        self.report, self.command, self.environment = report, command, environment
        self.log = report.with_suffix(".log")
        self.stopped = False
        self._start()

    def _start(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def go_on(self) -> None:
        """Start again if the process died or lost its device; what it reported is not repeated."""
        code = self.process.poll()
        if code is not None and (code < 0 or code == LOST) and not self.stopped:
            self._start()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> int | None:
        """Exit status; None when it had to be stopped."""
        return None if self.stopped else self.process.returncode

    def stop(self) -> None:
        self.stopped = self.stopped or self.running
        if self.running:
            self.process.kill()
        self.process.wait()

    def lines(self) -> list[Any]:
        if not self.report.exists():
            return []
        whole = [line for line in self.report.read_text().splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def last_words(self) -> str:
        """How it ended, for one that ended before its work was done; never empty."""
        code = self.process.returncode
        how = "stopped" if self.stopped or code is None else f"ended with exit status {code}"
        return f"{how}: {self.log.read_text()[-1500:].strip()}"


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
