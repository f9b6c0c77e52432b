"""Counts what was traced, compiled and loaded, so that "nothing recompiled" can be asserted."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NamedTuple


class CacheInfo(NamedTuple):
    """What happened in this process since it began, or since ``clear_cache()``.

    Attributes:
        traces: Mods traced (two for a call with score_mod and mask_mod).
        kernels_built: Kernels compiled and stored by this process.
        disk_hits: Kernels loaded from the cache on disk.
        memory_hits: Kernels asked for again that were loaded already.
        compiler_runs: Times the C++ compiler was started, failures included.
    """

    traces: int = 0
    kernels_built: int = 0
    disk_hits: int = 0
    memory_hits: int = 0
    compiler_runs: int = 0


# The counters are the one piece of mutable state of this module; `_lock` guards them.
_counts: dict[str, int] = dict.fromkeys(CacheInfo._fields, 0)
_lock = threading.Lock()
_clearers: list[Callable[[], None]] = []


def add(name: str, amount: int = 1) -> None:
    """Raise the counter ``name``, a field of ``CacheInfo``."""
    with _lock:
        _counts[name] += amount


def cache_info() -> CacheInfo:
    """The counters as they stand."""
    with _lock:
        return CacheInfo(**_counts)


def on_clear(clear: Callable[[], None]) -> Callable[[], None]:
    """Register a function that empties one in-memory cache; usable as a decorator."""
    _clearers.append(clear)
    return clear


def clear_cache() -> None:
    """Forget every kernel and every prepared call of this process and zero the counters.

    The cache on disk stays: ``python -m flexattn cache --clear`` empties that.
    """
    for clear in _clearers:
        clear()
    with _lock:
        for name in _counts:
            _counts[name] = 0


def _renew_lock() -> None:
    # Another thread of the parent may have held it at the fork.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
