"""Checks on a GPU, run by `make gpu` or by themselves: pytest -c tests/gpu/pytest.ini tests/gpu.

With FLEXATTN_GPU_REHEARSAL=1 they run on the CPU with tiny shapes, so that their own code is
checked where there is no GPU.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from on_device import DEVICE, REHEARSAL, poisoned_memory

HERE = Path(__file__).parent
# What is to be known first, when there may be no time for all.
ORDER = [
    f"test_gpu_{name}"
    for name in ("recipes", "gradients", "decode", "graphs", "masks", "errors", "large", "shapes")
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="0/1", help="I/N: every Nth test, from the Ith on")
    parser.addoption("--report", help="file that receives a JSON line per test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if DEVICE.type != "cuda" and not REHEARSAL:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    part, parts = map(int, config.getoption("--part", "0/1").split("/"))
    if parts > 1:
        ours.sort(key=lambda item: ORDER.index(item.path.stem))
        items[:] = ours[part::parts]
    _report({"collected": [item.nodeid for item in items]})
    items[:] = [item for item in items if item.nodeid not in _told]


def pytest_runtest_logstart(nodeid: str) -> None:
    _report({"begun": nodeid})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps what failed or skipped a test, whichever phase that was in."""
    if report.outcome == "passed" and report.when != "call":
        return
    row = {"test": report.nodeid, "outcome": report.outcome, "why": ""}
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        row["why"] = str(report.longrepr[2])
    elif report.outcome == "failed":
        row["why"] = str(report.longrepr)[-3000:]
    if _outcomes.get(report.nodeid, row)["outcome"] != "failed":
        _outcomes[report.nodeid] = row


def pytest_runtest_logfinish(nodeid: str) -> None:
    """One line a test, behind its teardown, which waits for the device."""
    if nodeid in _outcomes:
        _report(_outcomes[nodeid])
    if _lost:
        pytest.exit("the device does not answer any more", returncode=LOST)


LOST = 13  # exit status after which `make gpu` goes on in a new process
_told: set[str] = set()
_outcomes: dict[str, dict[str, Any]] = {}
_file: list[str] = []
_lost: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Goes on where a process before this one was lost: the test it was in failed."""
    name = config.getoption("--report", None)
    if not name:
        return
    _file.append(name)
    if not Path(name).exists():
        return
    whole = [line for line in Path(name).read_text().splitlines(True) if line.endswith("\n")]
    rows = [json.loads(line) for line in whole]
    Path(name).write_text("".join(whole))
    _told.update(row["test"] for row in rows if "test" in row)
    for test in {row["begun"] for row in rows if "begun" in row} - _told:
        _told.add(test)
        _report({"test": test, "outcome": "failed", "why": "the process died in it"})


def _report(row: dict[str, Any]) -> None:
    for name in _file:
        with Path(name).open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers of its own for each test, and NaN in all memory that nobody has written."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    torch.manual_seed(seed)
    with poisoned_memory(monkeypatch):
        yield
    if DEVICE.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:  # an error on the device stays until the process ends
            _lost.append(request.node.nodeid)
            pytest.fail(f"the device is lost: {error}")
