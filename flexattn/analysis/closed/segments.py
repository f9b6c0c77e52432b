"""Runs as they are found: from the columns where pieces begin and end, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from flexattn.analysis.runs import FULL
from flexattn.analysis.tiles.values import Array

Segments: TypeAlias = "tuple[Array, Array, Array, Array]"
"""Runs as they are found: row in slices * rows, start, stop, full."""


Tell: TypeAlias = Callable[[Array, Array], Array]


def of_ordered(marks: Array) -> Segments:
    """The runs of pieces [rows, pieces, 4] that stand one behind the other."""
    flat = marks.reshape(-1)
    longer = np.empty(len(flat), bool)
    np.greater(flat[1:], flat[:-1], out=longer[:-1])
    longer[3::4] = False  # from one piece to the next
    at = np.flatnonzero(longer)
    start, stop, full = flat[at], flat[at + 1], at & 3 == 1
    each = 4 * marks.shape[1]
    if each & (each - 1) == 0:
        at >>= each.bit_length() - 1
    else:
        at //= each
    return at, start, stop, full


def of_several(marks: Array, rows: Array, tell: Tell) -> tuple[Segments, Array, bool]:
    """The same of pieces in any order, the rows left open, and whether ``tell`` filled a block.

    Where several pieces reach a block and none fills it, they may do so together.

    Args:
        tell: Of (row, block) whether it is PARTIAL or FULL; 0 where that is not known.
    """
    cuts = np.sort(marks.reshape(len(marks), -1), axis=1)
    start, stop = cuts[:, :-1], cuts[:, 1:]
    reached = np.zeros(start.shape, np.int8)
    full = np.zeros(start.shape, bool)
    for piece in range(marks.shape[1]):
        begin, full_begin, full_end, end = marks[:, piece, :, None].swapaxes(0, 1)
        reached += (begin <= start) & (start < end)
        full |= (full_begin <= start) & (start < full_end)
    there = (stop > start) & (reached > 0)
    row, part = np.nonzero(there & (reached > 1) & ~full)
    told = np.zeros(len(row), np.int8)
    single = stop[row, part] - start[row, part] == 1
    told[single] = tell(rows[row[single]], start[row, part][single])
    full[row, part] = told == FULL
    left = rows[row[told == 0]]
    row, part = np.nonzero(there)
    start, stop, full = start[row, part], stop[row, part], full[row, part]
    same = np.zeros(len(row), bool)
    same[1:] = (row[1:] == row[:-1]) & (start[1:] == stop[:-1]) & (full[1:] == full[:-1])
    begins = np.flatnonzero(~same)
    ends = np.append(begins[1:], len(row)) - 1
    segments = rows[row[begins]], start[begins], stop[ends], full[begins]
    return segments, left, bool((told == FULL).any())


def stand_apart(marks: Array) -> Array:
    """The rows in which each piece begins beyond the end of those before, so that no runs touch.

    A piece that is not there stands nowhere.
    """
    apart = np.ones(len(marks), bool)
    reach = marks[:, 0, 3]
    for piece in range(1, marks.shape[1]):
        begin, end = marks[:, piece, 0], marks[:, piece, 3]
        apart &= (begin > reach) | (begin == end)
        reach = np.maximum(reach, end)
    return apart


def chosen(segments: Segments, which: Array | slice) -> Segments:
    row, start, stop, full = segments
    return row[which], start[which], stop[which], full[which]


def joined(parts: Sequence[Segments]) -> Segments:
    """Segments of several parts, one after the other."""
    row, start, stop, full = (np.concatenate(x) for x in zip(*parts))
    return row, start, stop, full


def by_row(parts: Sequence[Segments]) -> Segments:
    """Segments of several parts, each sorted by row, as one."""
    parts = [part for part in parts if len(part[0])] or [parts[0]]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        at = int(np.searchsorted(first[0], second[0][0]))
        if at == len(first[0]) or first[0][at] > second[0][-1]:
            before, after = chosen(first, slice(at)), chosen(first, slice(at, None))
            return joined([before, second, after])
    found = joined(parts)
    return chosen(found, np.argsort(found[0], kind="stable"))
