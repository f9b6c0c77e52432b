"""Fills the disk caches for part of the GPU suite: `python -m flexattn.bench.gpu_warm`.

Kernels of ours and of torch's flex_attention are compiled here, by several processes while the
results are checked, so that the measuring process only loads them. Each line of the output file
is one contestant that can enter, or how it failed; before them stands the contest that was begun.
After a mistake that costs the device the process ends, and one started anew goes on behind it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from flexattn.bench.gpu_cases import cases
from flexattn.bench.gpu_contest import Place, Row, short, warm
from flexattn.bench.gpu_peers import compile_alone
from flexattn.bench.gpu_rows import LOST, answers


def main(argv: Sequence[str]) -> int:
    """Arguments: part, parts, device, backend, whether a rehearsal, output file, part of names."""
    part, parts = int(argv[0]), int(argv[1])
    place = Place(torch.device(argv[2]), argv[3], argv[4] == "True")
    compile_alone()
    only = argv[6] if len(argv) > 6 else ""
    contests = [case.contest for case in cases() if case.contest and only in case.name]
    report = Path(argv[5])
    begun = _begun(report)
    with report.open("a") as file:
        for contest in contests[part::parts]:
            if contest.name in begun:
                continue
            file.write(json.dumps({"begun": contest.name}) + "\n")
            file.flush()
            try:
                rows: Iterable[Row] = warm(contest, place)
                for row in rows:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
            except Exception as error:  # out of memory for the inputs: the next may fit
                failed = {"contest": contest.name, "contestant": "all", "failed": short(error)}
                file.write(json.dumps(failed) + "\n")
            file.flush()
            if not answers(place):
                return LOST
    return 0


def _begun(report: Path) -> set[str]:
    """Contests that a process before this one began."""
    if not report.exists():
        return set()
    whole = [line for line in report.read_text().splitlines(True) if line.endswith("\n")]
    report.write_text("".join(whole))
    return {row["begun"] for row in map(json.loads, whole) if "begun" in row}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
