"""Measures rows of the GPU suite in a process of its own: `python -m flexattn.bench.gpu_rows`.

A kernel that reads outside its memory takes the whole process with it, one that never ends keeps
it. So one process measures, and another looks on, and starts a new one behind the row at fault.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from flexattn.bench.gpu_cases import Case, cases
from flexattn.bench.gpu_contest import Place, Row, hold, short
from flexattn.bench.gpu_peers import compile_alone
from flexattn.bench.gpu_timing import OverdueError, limit

ONE_CASE = 60.0  # seconds a row may take at most
LEAST = 5.0  # seconds below which no row is begun
LOST = 13  # exit status when the device does not answer any more

Barred = Mapping[str, str]


def group_of(case: Case) -> str:
    return case.contest.group if case.contest else case.name.split()[0]


def rows_of(case: Case, place: Place, barred: Barred, seconds: float) -> list[Row]:
    """The rows of a case; if it fails or has no time left, one that says so."""
    over = [{"group": group_of(case), "case": case.name, "skipped": "the time was over"}]
    if seconds < LEAST:
        return over
    end = time.monotonic() + seconds
    try:
        with limit(min(seconds, ONE_CASE)):
            if case.contest is not None:
                rows = [hold(case.contest, place, barred)]
            else:
                assert case.measure is not None
                rows = list(case.measure(place))
    except Exception as error:
        if isinstance(error, OverdueError) and time.monotonic() >= end:
            return over  # of no fault of its own: it began too late
        rows = [{"group": group_of(case), "failed": {"ours": short(error)}}]
    return [{**row, "case": case.name} for row in rows]


def main(argv: Sequence[str]) -> int:
    """Argument: a file with names of cases, device, backend, seconds, barred, report."""
    task = json.loads(Path(argv[0]).read_text())
    compile_alone()
    place = Place(torch.device(task["device"]), task["backend"], task["rehearsal"])
    end = time.monotonic() + task["seconds"]
    named = {case.name: case for case in cases()}
    with Path(task["report"]).open("a") as report:

        def tell(row: Row) -> None:
            report.write(json.dumps(row) + "\n")
            report.flush()

        for name in task["names"]:
            tell({"begun": name})
            barred = task["barred"].get(name, {})
            tell(
                {"case": name, "rows": rows_of(named[name], place, barred, end - time.monotonic())}
            )
            if not answers(place):
                return LOST
    return 0


def answers(place: Place) -> bool:
    """Whether the device still works: an error on it stays until the process ends."""
    if place.device.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
