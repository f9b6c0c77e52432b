"""Whether two intervals have a value in common: by order where that decides, else by sets."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.values import Array

Guards: TypeAlias = "tuple[Line | None, Line | None]"

_PAIRS = 1 << 22  # interval pairs of which a matrix is made
_FLAGS = 16  # (interval, value) pairs marked in a table instead of sorted, for each position
_WORDS = 10  # words of bits combined in the time of listing one triple
_BITS = 1 << 18  # words of bits made
_JOINED = 1 << 23  # (row, column, value) triples listed


def some_equal(
    facts: Facts, frame: Frame, sides: tuple[Line, Line], guards: Guards, overlap: Array
) -> tuple[Array, Array]:
    """Where some f(q) may equal some g(kv), and where one certainly does.

    Args:
        overlap: Where the ranges of the values meet.
    """
    if _is_decided_by_order(facts, sides, guards):
        return overlap, overlap
    nothing = np.zeros_like(overlap)
    # Sets of many positions have most values, so they are for the finest tiles alone.
    if frame.q.finer or frame.kv.finer or not overlap.any():
        return overlap, nothing
    if len(frame.q) * len(frame.kv) > _PAIRS:
        return overlap, nothing
    key = ("sets", frame.q, frame.kv, *sides, *guards)
    if key not in facts.made:
        facts.made[key] = _matrix(facts, frame, sides, guards)
    equal = facts.made[key]
    if equal is None:
        return overlap, nothing
    if frame.tiles is not None:
        equal = _pick(equal, frame.tiles)
    return equal, equal


def _is_decided_by_order(facts: Facts, sides: tuple[Line, Line], guards: Guards) -> bool:
    key = ("order", *sides, *guards)
    if key not in facts.made:
        (f, g), (p, r) = sides, guards
        facts.made[key] = _same_order(f, g, guards) or (_dense(f, p) and _dense(g, r))
    found: bool = facts.made[key]
    return found


def _same_order(f: Line, g: Line, guards: Guards) -> bool:
    """Whether both sides are one ascending table: then ranges that meet share a value."""
    p, r = guards
    if f.values.shape[-1] == 1 or not _are_equal(f, g):
        return False
    if p is None or r is None:
        return p is r and f.rises and g.rises
    return f.places is g.places and _are_equal(p, r) and _survivors_step(f, p, 0, None)


def _are_equal(f: Line, g: Line) -> bool:
    """Whether both have the same value at each position, and positions in common."""
    if f.node is not None and f.node is g.node:
        return f.places.start < g.places.stop and g.places.start < f.places.stop
    return f.places is g.places and np.array_equal(f.values, g.values)


def _steps(values: Array, low: int, high: int | None) -> bool:
    """Whether each value differs from the one before by ``low`` to ``high``, at most 1."""
    if not values.size:
        return True
    for row in values.reshape(-1, values.shape[-1]):  # one by one: less memory
        before, after = row[:-1], row[1:]
        if (low == 0 and not (after >= before).all()) or (high == 0 and (after > before).any()):
            return False
        if high is not None:  # differences that wrap around have the wrong sign: seen above
            steps = after - before
            if not ((steps >= low) & (steps <= high)).all():
                return False
    return True


def _dense(line: Line, guard: Line | None) -> bool:
    """Whether values go on by steps of 0 and 1 (or 0 and -1), so that none between is left out."""
    if guard is not None:
        return _survivors_step(line, guard, 0, 1) or _survivors_step(line, guard, -1, 0)
    return _steps(line.values, 0, 1) or _steps(line.values, -1, 0)


def _survivors_step(line: Line, guard: Line, low: int, high: int | None) -> bool:
    values, kept = line.values, guard.values
    if values.shape[:2] != (1, 1) or kept.shape[:2] != (1, 1):
        return False
    length = max(values.shape[-1], kept.shape[-1])
    left = np.broadcast_to(values[0, 0], length)[np.broadcast_to(kept[0, 0], length)]
    return _steps(left, low, high)


def _matrix(facts: Facts, frame: Frame, sides: tuple[Line, Line], guards: Guards) -> Array | None:
    """Where intervals share a value: bool [B, H, rows, cols]; None if that is too costly."""
    lines = [line for line in (*sides, *guards) if line is not None]
    heads = np.broadcast_shapes(*(line.values.shape[:2] for line in lines))
    if heads[0] * heads[1] * len(frame.q) * len(frame.kv) > 4 * _PAIRS:
        return None
    found = np.zeros((*heads, len(frame.q), len(frame.kv)), bool)
    for at in np.ndindex(*heads):
        rows = _members(facts, frame.q, sides[0], guards[0], at)
        cols = _members(facts, frame.kv, sides[1], guards[1], at)
        if not _join(rows, cols, found[at]):
            return None
    return found


def _members(
    facts: Facts, axis: Axis, line: Line, guard: Line | None, at: tuple[int, ...]
) -> tuple[Array, Array]:
    """Each (value, interval) of the surviving positions, once, sorted by value."""
    values, kept = line.on(axis), None if guard is None else guard.on(axis)
    place = tuple(i if size > 1 else 0 for i, size in zip(at, values.shape[:2]))
    inner = () if kept is None else tuple(i if n > 1 else 0 for i, n in zip(at, kept.shape[:2]))
    key = ("members", axis, line, guard, place, inner)
    if key not in facts.made:
        owner = axis.owner()
        mine = np.broadcast_to(values[place], len(owner))
        if kept is not None:
            left = np.broadcast_to(kept[inner], len(owner))
            mine, owner = mine[left], owner[left]
        facts.made[key] = _distinct(mine, owner, len(axis))
    found: tuple[Array, Array] = facts.made[key]
    return found


def _distinct(values: Array, owner: Array, count: int) -> tuple[Array, Array]:
    if not values.size:
        return values, owner
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    if span * count <= _FLAGS * values.size:
        flags = np.zeros(span * count, bool)
        flags[(values - low) * count + owner] = True
        keys = np.flatnonzero(flags)
        return keys // count + low, keys % count
    if span >= 1 << 40:
        order = np.lexsort((owner, values))
        values, owner = values[order], owner[order]
    else:
        keys = (values.astype(np.int64) - low) * count + owner
        keys.sort()
        values, owner = keys // count + low, keys % count
    new = np.ones(len(values), bool)
    new[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    return values[new], owner[new]


def _join(rows: tuple[Array, Array], cols: tuple[Array, Array], found: Array) -> bool:
    """Mark in ``found`` [rows, cols] where a value occurs on both sides; False if too costly."""
    (v_row, row), (v_col, col), common = _ranked(rows, cols)
    if not common:
        return True
    n_row, n_col = (np.bincount(v, minlength=common) for v in (v_row, v_col))
    triples = int((n_row * n_col).sum())
    words = -(-common // 64)
    if words * found.size <= _WORDS * triples and words * sum(found.shape) <= _BITS:
        bits = zip(
            _bits(row, v_row, found.shape[0], words), _bits(col, v_col, found.shape[1], words)
        )
        for word_row, word_col in bits:
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


def _ranked(
    rows: tuple[Array, Array], cols: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array], int]:
    """Both sides with values numbered among those they have in common; the others are left out."""
    if not len(rows[0]) or not len(cols[0]):
        return rows, cols, 0
    mine, others = (v[np.append(True, v[1:] != v[:-1])] for v, _ in (rows, cols))
    common: Array = np.intersect1d(mine, others, assume_unique=True)
    sides = []
    for values, owner in (rows, cols):
        rank = np.searchsorted(common, values)
        shared = np.zeros(len(values), bool)
        inside = rank < len(common)
        shared[inside] = common[rank[inside]] == values[inside]
        sides.append((rank[shared], owner[shared]))
    return sides[0], sides[1], len(common)


def _bits(interval: Array, value: Array, count: int, words: int) -> Array:
    """Which values occur in each interval, 64 to a word: uint64 [words, intervals]."""
    flags = np.zeros((count, words * 64), bool)
    flags[interval, value] = True
    return np.ascontiguousarray(np.packbits(flags, axis=1).view(np.uint64).T)


def _pick(found: Array, tiles: tuple[Array, ...]) -> Array:
    b, h = (i if size > 1 else 0 for i, size in zip(tiles[:2], found.shape[:2]))
    return np.asarray(found[b, h, tiles[2], tiles[3]])
