"""Measures the building of a block mask: time, memory, and by what its blocks were decided."""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flexattn.analysis.runs import Runs
from flexattn.analysis.tiles.census import Census
from flexattn.bench.timing import Timing, summary
from flexattn.masks.block_mask import BlockMask
from flexattn.op import symbolic
from flexattn.op.programs import Bound
from flexattn.op.structure import structure
from flexattn.runtime.counters import clear_cache

Build = Callable[[], Any]

STAGES = {  # of a census, and what they are called here
    "form": "closed form",
    **{stage: stage for stage in ("proof", "witness", "segments", "evaluation")},
}
LONGEST = 10.0  # seconds after which no further round is begun

PAIR_BYTES = 10.0
"""What PyTorch's builder holds at once for each (query, key): 10.6 GB at 32,768 tokens."""

MOST_BYTES = 12e9
"""PyTorch's builder is left out where it would need more."""


def fresh_timing(builds: Iterator[Build], rounds: int) -> Timing:
    """Each build once, made before its clock starts: no mask is built twice."""
    seconds: list[float] = []
    for _ in range(rounds):
        build = next(builds)
        start = time.perf_counter()
        build()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > LONGEST:
            break
    return summary(seconds)


@contextmanager
def empty_caches() -> Iterator[None]:
    """Nothing traced, proved or compiled before is there, in this process or on disk."""
    before = os.environ.get("FLEXATTN_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLEXATTN_CACHE_DIR"] = folder
        clear_cache()
        try:
            yield
        finally:
            if before is None:
                del os.environ["FLEXATTN_CACHE_DIR"]
            else:
                os.environ["FLEXATTN_CACHE_DIR"] = before


def first_seconds(build: Build) -> float:
    """A build with nothing cached."""
    with empty_caches():
        start = time.perf_counter()
        build()
        return time.perf_counter() - start


def traced_peak(build: Build) -> int:
    """Most bytes that Python and NumPy held at once for a build beyond what they held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        build()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def resident_peak(build: Build) -> int | None:
    """Most bytes that the process grew by during a build, torch's included; None if unknown.

    To some megabytes: memory that was freed before may be used again unseen.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, on Linux
        before = _status("VmRSS")
        build()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def stored_bytes(mask: BlockMask) -> int | None:
    """Bytes of a mask's blocks as they are kept; None if they are made on demand."""
    given = mask._given
    if isinstance(given, Runs):
        return given.nbytes
    if isinstance(given, tuple):
        return sum(table.untyped_storage().nbytes() for table in given)
    return None


def peer_fits(shape: tuple[int, int, int, int]) -> bool:
    """Whether PyTorch's builder has the memory it needs."""
    batch, heads, queries, keys = shape
    need = PAIR_BYTES * batch * heads * queries * keys
    return need <= MOST_BYTES and need <= _available()


def _available() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return float("inf")  # no such file: the bound above has to do


def shares(
    mask_mod: Callable[..., Any], shape: tuple[int, int, int, int], block: tuple[int, int]
) -> dict[str, float]:
    """The part of a mask's tiles decided by its closed form, and at each stage of the proof.

    By what ``create_block_mask`` itself asks.
    """
    bound: Bound = symbolic.bind_mask(mask_mod)
    census = Census()
    structure(bound, shape, block, torch.device("cpu"), None, census)
    return {name: census.share(stage) for stage, name in STAGES.items()}
