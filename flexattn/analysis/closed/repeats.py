"""Runs of a range of which every so-manieth stretch is kept, as runs that repeat themselves.

Two kinds of stretches are known: fixed ones, ``(kv + c) % m < w``, and ones that move with the
given index, ``(kv - q + c) % m < w`` in a range whose ends move likewise. In x, which is kv or
kv - q, a stretch is ``j m + s <= x < j m + s + w``. All positions of a row of blocks together reach
from its first x, seen from the first position, to its last, seen from the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flexattn.analysis.closed.bound import BoundForm
from flexattn.analysis.closed.linear import linear
from flexattn.analysis.closed.pieces import BEGIN, END, Piece
from flexattn.analysis.runs import Runs
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import I64, Input, Node, walk

MOST_RUNS = 1 << 22
"""Runs listed; a mask that needs more has none of these."""


@dataclass(frozen=True)
class Stretches:
    """The stretches of a piece, as each row of blocks sees them; arrays are int64 [rows].

    Attributes:
        period: m.
        start: s.
        width: w.
        low_min: First x that some position of the row may keep.
        low_max: First x from which on all may.
        high_min: End of what all may keep.
        high_max: End of what some may.
        first: What to add to x to get the column seen from the row's first position.
        last: The same from its last position.
    """

    period: int
    start: int
    width: int
    low_min: Array
    low_max: Array
    high_min: Array
    high_max: Array
    first: Array
    last: Array


def moving(bound: BoundForm, piece: Piece, first: Array, last: Array) -> Stretches | None:
    """Stretches that move with the given index; None for others.

    Args:
        first: First position of each row of blocks.
        last: Last position.
    """
    shift = _offset(bound, piece.repeat.shift if piece.repeat else BEGIN, -1)
    low = _offset(bound, piece.low, 1) if piece.low is not BEGIN else -(1 << 40)
    high = _offset(bound, piece.high, 1) if piece.high is not END else 1 << 40
    if shift is None or low is None or high is None:
        return None
    begin, end = np.maximum(low, -last), np.minimum(high, bound.solved_length - first)
    return _stretches(bound, piece, shift, (begin, begin, end, end), (first, last))


def fixed(
    bound: BoundForm, piece: Piece, ends: tuple[Array, Array, Array, Array]
) -> Stretches | None:
    """Stretches that do not move; None for others.

    Args:
        ends: low_min, low_max, high_min, high_max of each row of blocks; together its positions
            reach all from low_min to high_max.
    """
    shift = _offset(bound, piece.repeat.shift if piece.repeat else BEGIN, 0)
    if shift is None:
        return None
    nothing = np.zeros_like(ends[0])
    return _stretches(bound, piece, shift, ends, (nothing, nothing))


def _stretches(
    bound: BoundForm,
    piece: Piece,
    shift: int,
    ends: tuple[Array, Array, Array, Array],
    seen: tuple[Array, Array],
) -> Stretches | None:
    assert piece.repeat is not None
    repeat = piece.repeat
    if not all(map(_is_number, (repeat.period, repeat.begin, repeat.end))):
        return None
    period, begin, end = map(bound.number, (repeat.period, repeat.begin, repeat.end))
    return Stretches(period, begin - shift, end - begin, *ends, *seen)


def _is_number(node: Node) -> bool:
    return all(n.name[0] == "n" for n in walk(node) if isinstance(n, Input))


def _offset(bound: BoundForm, node: Node, times: int) -> int | None:
    """``c`` where ``node`` is ``times`` the given index plus a number c; else None."""
    given = Input(bound.form.given, I64)
    whole = linear(node)
    rest = {atom: by for atom, by in whole.terms.items() if atom is not given}
    if whole.terms.get(given, 0) != times or not all(map(_is_number, rest)):
        return None
    return sum(by * bound.number(atom) for atom, by in rest.items()) + whole.constant


def runs_of(found: Stretches, rows: int, size: int, length: int, sticks_out: Array) -> Runs | None:
    """The runs of a piece; None where stretches neither stay apart nor close up.

    Args:
        rows: Rows of blocks of a slice.
        size: Columns of positions in a block.
        length: Positions there are.
        sticks_out: Rows of which no block is full.
    """
    cols = -(-length // size)
    if found.width >= found.period:
        return None  # all of the range is kept
    parts: list[tuple[Array, ...]] = []
    if found.width > 0:
        spread = found.last - found.first
        gaps = found.period - found.width - spread  # between what two stretches reach
        if gaps.min(initial=2 * size) >= 2 * size:
            listed = _apart(found, size, length, sticks_out)
            if listed is None:
                return None
            parts += listed
        elif gaps.max() < size and found.width - spread.min() < size:
            parts.append(_closed_up(found, size, cols))
        else:
            return None
    nothing = np.zeros(0, np.int64)
    parts.append((nothing, nothing, nothing, np.zeros(0, bool), nothing, nothing))
    row, start, stop, full, period, count = (np.concatenate(x) for x in zip(*parts))
    order = np.lexsort((start, row))
    row, start, stop, full, period, count = (
        x[order] for x in (row, start, stop, full, period, count)
    )
    total = len(found.low_min)
    first = np.zeros(total + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=total), out=first[1:])
    slices = np.arange(total // rows, dtype=np.int32).reshape(-1, 1)
    start, stop, period, count = (x.astype(np.int32) for x in (start, stop, period, count))
    if not (count > 1).any():
        return Runs(rows, cols, slices, first, start, stop, full)
    return Runs(rows, cols, slices, first, start, stop, full, period, count)


def _closed_up(found: Stretches, size: int, cols: int) -> tuple[Array, ...]:
    """One partial run a row: from where the first stretch begins to where the last one ends."""
    first, last = _numbers(found)
    there = (first <= last) & (found.low_min < found.high_max)
    begin = np.maximum(first * found.period + found.start, found.low_min) + found.first
    end = np.minimum(last * found.period + found.start + found.width, found.high_max) + found.last
    row = np.flatnonzero(there)
    start = np.clip(begin[row] // size, 0, cols)
    stop = np.clip((end[row] - 1) // size + 1, 0, cols)
    ones = np.ones(len(row), np.int64)
    return row, start, stop, np.zeros(len(row), bool), ones, ones


def _numbers(found: Stretches) -> tuple[Array, Array]:
    """The first and the last stretch of which some position may keep something."""
    first = (found.low_min - found.start - found.width) // found.period + 1
    last = (found.high_max - 1 - found.start) // found.period
    return first, last


def _apart(
    found: Stretches, size: int, length: int, sticks_out: Array
) -> Iterator[tuple[Array, ...]] | None:
    """The stretches one by one at the ends of a row, and those between as runs that repeat."""
    first, last = _numbers(found)
    last = np.where(found.low_min < found.high_max, last, first - 1)
    # Between, a stretch is whole for all positions, and what it reaches lies inside the columns.
    cols = -(-length // size)
    begin = np.maximum(found.low_max, -found.first)
    end = np.minimum(found.high_min, cols * size - found.last)
    whole0 = -((found.start - begin) // found.period)
    whole1 = (end - found.width - found.start) // found.period
    whole0 = np.clip(whole0, first, last + 1)
    whole1 = np.clip(whole1, whole0 - 1, last)
    turns = size // math.gcd(found.period, size)  # stretches until blocks and stretches meet again
    between = whole1 - whole0 + 1
    edges = int((last - first + 1 - between).sum())
    listed = int(np.minimum(between, turns).sum())
    if edges + listed > MOST_RUNS // 3:
        return None
    numbers, rows, counts = [], [], []
    for begin, end in ((first, whole0), (whole1 + 1, last + 1)):
        row, number = _each(begin, end)
        rows.append(row)
        numbers.append(number)
        counts.append(np.ones(len(row), np.int64))
    row, number = _each(whole0, whole0 + np.minimum(between, turns))
    rows.append(row)
    numbers.append(number)
    counts.append(-((number - whole0[row] - between[row]) // turns))
    period = turns * found.period // size
    at = np.concatenate(rows), np.concatenate(numbers), np.concatenate(counts)
    return _segments(found, at, period, size, length, sticks_out)


def _each(begin: Array, end: Array) -> tuple[Array, Array]:
    """(row, number) of every number in [begin, end) of each row."""
    sizes = np.maximum(end - begin, 0)
    row = np.repeat(np.arange(len(begin)), sizes)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begin[row]


def _segments(
    found: Stretches,
    at: tuple[Array, Array, Array],
    period: int,
    size: int,
    length: int,
    sticks_out: Array,
) -> Iterator[tuple[Array, ...]]:
    """The partial, full and partial blocks of each listed stretch."""
    row, number, count = at
    cols = -(-length // size)
    start = number * found.period + found.start
    begin = np.maximum(start, found.low_min[row])
    end = np.minimum(start + found.width, found.high_max[row])
    reach = np.clip((begin + found.first[row]) // size, 0, cols)
    reach_end = np.clip((end - 1 + found.last[row]) // size + 1, 0, cols)
    begin = np.maximum(start, found.low_max[row]) + found.last[row]
    end = np.minimum(start + found.width, found.high_min[row]) + found.first[row]
    full = np.clip(-(-begin // size), reach, reach_end)
    full_end = np.minimum(np.clip(end // size, full, reach_end), length // size)
    none = (full_end <= full) | sticks_out[row]
    full, full_end = np.where(none, reach_end, full), np.where(none, reach_end, full_end)
    for a, z, is_full in (
        (reach, full, False),
        (full, full_end, True),
        (full_end, reach_end, False),
    ):
        there = np.flatnonzero(a < z)
        kinds = np.full(len(there), is_full)
        periods = np.where(count[there] > 1, period, 0)
        yield row[there], a[there], z[there], kinds, periods, count[there]
