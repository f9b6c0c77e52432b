"""Measures tiles on the GPU at hand, when asked to, and remembers the fastest on disk.

``FLEXATTN_AUTOTUNE=1`` switches it on. What was measured is used with or without it. The file is
``tiles.json`` of the cache directory: one line per GPU, kernel, dtype, head dims, block of the mask
and cost of the mods.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from flexattn import knobs
from flexattn.errors import CompilerFailedError
from flexattn.kernel.targets import Target
from flexattn.kernel.triton_tiles import Tile, candidates, choose_tile
from flexattn.runtime import cache, counters

FILE = "tiles.json"
ROUNDS = 5

_lock = threading.Lock()
_known: dict[Path, dict[str, Tile]] = {}


def tuned_tile(
    kernel: str,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    *,
    block: tuple[int, int] | None = None,
    cost: str = "plain",
    device: str = "",
    measure: Callable[[Tile], float] | None = None,
) -> Tile:
    """The fastest tile known for this GPU, measured now if that is wanted and was not done.

    Args:
        kernel: Name of a spec, as all arguments up to ``cost`` those of ``choose_tile``.
        device: Name of the GPU, as torch tells it.
        measure: Runs the kernel with a tile, and tells how long it took in any unit.
    """
    plain = choose_tile(kernel, target, dtype, D, DV, block=block, cost=cost)
    if not device:
        return plain
    blocks = "" if block is None else f" blocks {block[0]}x{block[1]}"
    key = f"{device}: {kernel} {dtype} {D},{DV}{blocks} {cost}"
    found = _read().get(key)
    if found is not None:
        return found
    if measure is None or not knobs.get("FLEXATTN_AUTOTUNE"):
        return plain
    times = {
        tile: _time(measure, tile)
        for tile in candidates(kernel, target, dtype, D, DV, block=block, cost=cost)
    }
    best = min(times, key=lambda tile: times[tile])
    if not math.isfinite(times[best]):
        return plain
    _remember(key, best)
    return best


def time_on_gpu(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds that ``run`` keeps the current stream busy, the median of a few rounds."""
    run()  # compiles, and fills caches
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
        with torch.cuda.device(device):
            begin.record()
            run()
            end.record()
            end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def _time(measure: Callable[[Tile], float], tile: Tile) -> float:
    try:
        return measure(tile)
    except (CompilerFailedError, RuntimeError):  # too much shared memory, say
        return math.inf


def _read() -> dict[str, Tile]:
    path = cache.directory() / FILE
    with _lock:
        if path not in _known:
            _known[path] = _parse(path)
        return _known[path]


def _parse(path: Path) -> dict[str, Tile]:
    """The tiles in a file; none where there is no file, or one that is damaged."""
    try:
        stored = json.loads(path.read_text())
        tiles = {str(key): Tile(*map(int, numbers)) for key, numbers in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {key: tile for key, tile in tiles.items() if min(tile.bm, tile.bn) >= 16}


def _remember(key: str, tile: Tile) -> None:
    path = cache.directory() / FILE
    with _lock, contextlib.suppress(OSError):  # measured again next time
        # Other processes write too: what they have found since is kept.
        tiles = _known[path] = {**_parse(path), **_known.get(path, {}), key: tile}
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {
            name: [each.bm, each.bn, each.num_warps, each.num_stages]
            for name, each in sorted(tiles.items())
        }
        descriptor, written = tempfile.mkstemp(prefix=FILE, dir=path.parent)
        with open(descriptor, "w") as file:
            json.dump(rows, file, indent=1)
        os.replace(written, path)


counters.on_clear(_known.clear)
