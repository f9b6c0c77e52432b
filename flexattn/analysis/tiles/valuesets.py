"""Whether two intervals have a value in common: by order where that decides, else by sets."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.values import Array

Guards: TypeAlias = "tuple[Array | None, Array | None]"

_PAIRS = 1 << 22  # interval pairs of which a matrix is made
_FLAGS = 1 << 24  # (interval, value) pairs marked in a table instead of sorted
_JOINED = 1 << 23  # (row, column, value) triples listed


def some_equal(
    frame: Frame, sides: tuple[Array, Array], guards: Guards, overlap: Array
) -> tuple[Array, Array]:
    """Where some f(q) may equal some g(kv), and where one certainly does.

    Args:
        overlap: Where the ranges of the values meet.
    """
    f, g = sides
    if _same_order(f, g, guards) or (_dense(f, guards[0]) and _dense(g, guards[1])):
        return overlap, overlap
    if len(frame.q) * len(frame.kv) > _PAIRS or not overlap.any():
        return overlap, np.zeros_like(overlap)
    heads = np.broadcast_shapes(*(x.shape[:2] for x in (*sides, *guards) if x is not None))
    found = np.zeros((*heads, len(frame.q), len(frame.kv)), bool)
    for at in np.ndindex(*heads):
        rows = _of_interval(frame.q, f, guards[0], at)
        cols = _of_interval(frame.kv, g, guards[1], at)
        if not _join(rows, cols, found[at]):
            return overlap, np.zeros_like(overlap)
    equal = found if frame.tiles is None else _pick(found, frame.tiles)
    return equal, equal


def _same_order(f: Array, g: Array, guards: Guards) -> bool:
    """Whether both sides are one ascending table: then ranges that meet share a value."""
    p, r = guards
    if f.shape != g.shape or f.shape[-1] == 1 or not np.array_equal(f, g):
        return False
    if p is None or r is None:
        return p is r and bool((f[..., 1:] >= f[..., :-1]).all())
    return np.array_equal(p, r) and _survivors_step(f, p, 0, None)


def _dense(values: Array, guard: Array | None) -> bool:
    """Whether values go on by steps of 0 and 1 (or 0 and -1), so that none between is left out."""
    if guard is not None:
        return _survivors_step(values, guard, 0, 1) or _survivors_step(values, guard, -1, 0)
    steps = values[..., 1:] - values[..., :-1]
    return bool(((steps >= 0) & (steps <= 1)).all() or ((steps <= 0) & (steps >= -1)).all())


def _survivors_step(values: Array, guard: Array, low: int, high: int | None) -> bool:
    if values.shape[:2] != (1, 1) or guard.shape[:2] != (1, 1):
        return False
    length = max(values.shape[-1], guard.shape[-1])
    left = np.broadcast_to(values[0, 0], length)[np.broadcast_to(guard[0, 0], length)]
    steps = np.diff(left)
    return bool((steps >= low).all() and (high is None or (steps <= high).all()))


def _of_interval(
    axis: Axis, values: Array, guard: Array | None, at: tuple[int, ...]
) -> tuple[Array, Array, int]:
    """(interval, value) of each surviving position, and the number of intervals."""
    length = int(axis.edges[-1])
    mine, owner = _slice(values, at, length), axis.owner()
    if guard is not None:
        kept = _slice(guard, at, length)
        mine, owner = mine[kept], owner[kept]
    return owner, mine, len(axis)


def _slice(values: Array, at: tuple[int, ...], length: int) -> Array:
    b, h = (i if size > 1 else 0 for i, size in zip(at, values.shape[:2]))
    return np.broadcast_to(values[b, h], length)


def _join(rows: tuple[Array, Array, int], cols: tuple[Array, Array, int], found: Array) -> bool:
    """Mark in ``found`` [rows, cols] where a value occurs on both sides; False if too costly."""
    if not rows[1].size or not cols[1].size:
        return True
    low = max(int(rows[1].min()), int(cols[1].min()))
    high = min(int(rows[1].max()), int(cols[1].max()))
    if low > high:
        return True
    if high - low >= 1 << 20:
        return False
    span = high - low + 1
    (v_row, row), (v_col, col) = (_pairs(*side, low, span) for side in (rows, cols))
    n_row, n_col = (np.bincount(v, minlength=span) for v in (v_row, v_col))
    triples = int((n_row * n_col).sum())
    common = int(((n_row > 0) & (n_col > 0)).sum())
    if common * found.size <= 64 * triples and common * sum(found.shape) <= _FLAGS:
        place = np.cumsum((n_row > 0) & (n_col > 0)) - 1
        bits_row = _bits(row, place[v_row], n_col[v_row] > 0, (found.shape[0], common))
        bits_col = _bits(col, place[v_col], n_row[v_col] > 0, (found.shape[1], common))
        for word_row, word_col in zip(bits_row, bits_col):
            found |= (word_row[:, None] & word_col) != 0
        return True
    if triples <= _JOINED:
        # Column pairs are sorted by value: those of value v start at first[v].
        first = np.cumsum(n_col) - n_col
        times = n_col[v_row]
        ends = np.cumsum(times)
        within = np.arange(triples) - np.repeat(ends - times, times)
        found[np.repeat(row, times), col[np.repeat(first[v_row], times) + within]] = True
        return True
    return False


def _bits(interval: Array, value: Array, chosen: Array, shape: tuple[int, int]) -> Array:
    """Which values occur in each interval, 64 to a word: uint64 [words, intervals]."""
    flags = np.zeros((shape[0], -(-shape[1] // 64) * 64), bool)
    flags[interval[chosen], value[chosen]] = True
    return np.ascontiguousarray(np.packbits(flags, axis=1).view(np.uint64).T)


def _pairs(owner: Array, values: Array, count: int, low: int, span: int) -> tuple[Array, Array]:
    """Each (value - low, interval) that occurs, once, sorted by value."""
    inside = (values >= low) & (values < low + span)
    keys = (values[inside] - low) * count + owner[inside]
    if span * count <= _FLAGS:
        flags = np.zeros(span * count, bool)
        flags[keys] = True
        keys = np.flatnonzero(flags)
    else:
        keys = np.unique(keys)
    return keys // count, keys % count


def _pick(found: Array, tiles: tuple[Array, ...]) -> Array:
    b, h = (i if size > 1 else np.zeros_like(i) for i, size in zip(tiles[:2], found.shape[:2]))
    return found[b, h, tiles[2], tiles[3]]
