"""Runs as they are found: from the columns where pieces begin and end, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from flexattn.analysis.tiles.values import Array

Segments: TypeAlias = "tuple[Array, Array, Array, Array]"
"""Runs as they are found: row in slices * rows, start, stop, full."""


def of_ordered(marks: Array) -> Segments:
    """The runs of pieces [rows, pieces, 4] that stand one behind the other."""
    flat = marks.reshape(-1)
    longer = np.empty(len(flat), bool)
    np.greater(flat[1:], flat[:-1], out=longer[:-1])
    longer[3::4] = False  # from one piece to the next
    at = np.flatnonzero(longer)
    row = (at >> 2) // marks.shape[1] if marks.shape[1] > 1 else at >> 2
    return row, flat[at], flat[at + 1], at & 3 == 1


def of_several(marks: Array, rows: Array) -> tuple[Segments, tuple[Array, Array]]:
    """The same of pieces in any order, and (row, block) where they may fill one only together.

    A block of -1 stands for several.
    """
    cuts = np.sort(marks.reshape(len(marks), -1), axis=1)
    start, stop = cuts[:, :-1], cuts[:, 1:]
    reached = np.zeros(start.shape, np.int8)
    full = np.zeros(start.shape, bool)
    for begin, full_begin, full_end, end in np.moveaxis(marks, 0, 2)[..., None]:
        reached += (begin <= start) & (start < end)
        full |= (full_begin <= start) & (start < full_end)
    there = (stop > start) & (reached > 0)
    asked, part = np.nonzero(there & (reached > 1) & ~full)
    block = np.where(stop[asked, part] - start[asked, part] == 1, start[asked, part], -1)
    row, part = np.nonzero(there)
    start, stop, full = start[row, part], stop[row, part], full[row, part]
    same = np.zeros(len(row), bool)
    same[1:] = (row[1:] == row[:-1]) & (start[1:] == stop[:-1]) & (full[1:] == full[:-1])
    begins = np.flatnonzero(~same)
    ends = np.append(begins[1:], len(row)) - 1
    return (rows[row[begins]], start[begins], stop[ends], full[begins]), (rows[asked], block)


def in_order(marks: Sequence[Array]) -> tuple[Sequence[Array], Array]:
    """Pieces in the order in which they begin in the last row, and the rows where they stand so.

    There each begins beyond the end of the one before, so that no two runs touch. A piece that is
    not there stands nowhere.
    """
    marks = sorted(marks, key=lambda mark: int(mark[-1, 0]))
    apart = np.ones(len(marks[0]), bool)
    reach = marks[0][:, 3]
    for mark in marks[1:]:
        begin, end = mark[:, 0], mark[:, 3]
        apart &= (begin > reach) | (begin == end)
        reach = np.maximum(reach, end)
    return marks, apart


def chosen(segments: Segments, which: Array) -> Segments:
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
    found = joined(parts)
    return chosen(found, np.argsort(found[0], kind="stable"))
