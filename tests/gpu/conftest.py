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
    _report(config, {"collected": [item.nodeid for item in items]})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line a test: what failed or skipped it, whichever phase that was in."""
    if report.when != "call" and report.outcome == "passed":
        return
    if report.when == "teardown" and report.nodeid in _told:
        return
    _told.add(report.nodeid)
    why = ""
    if report.outcome == "skipped":
        why = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
    elif report.outcome == "failed":
        why = str(report.longrepr)[-3000:]
    _report(None, {"test": report.nodeid, "outcome": report.outcome, "why": why,
                   "seconds": report.duration})  # fmt: skip


_told: set[str] = set()
_file: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--report", None)
    if name:
        _file.append(name)


def _report(config: Any, row: dict[str, Any]) -> None:
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
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
