"""From the ranges of a closed form to the runs of each row of blocks, exactly.

A row of blocks holds consecutive positions of the given index. Of a range whose ends never fall,
the first and the last of them tell which blocks some position reaches, and which all of them fill.
Where that is not certain (ranges that leave gaps, or that fill a block only together) the
positions of the row are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from flexattn.analysis.closed import repeats
from flexattn.analysis.closed.bound import BoundForm
from flexattn.analysis.closed.pieces import BEGIN, END, Piece
from flexattn.analysis.closed.shape import Shape, shapes_of
from flexattn.analysis.runs import FULL, Runs, from_classes
from flexattn.analysis.tiles.values import Array, UnknownNode, Values

MOST_CELLS = 1 << 21
"""Blocks, or positions, looked at one by one at once."""


Segments: TypeAlias = "tuple[Array, Array, Array, Array]"
"""Runs as they are found: row in slices * rows, start, stop, full."""


@dataclass(frozen=True)
class Rows:
    """Runs, and how they were found.

    Attributes:
        runs: The runs.
        by_ends: Whether all followed from first and last positions: then a kernel that has the
            form alone finds the same.
        looked: Rows of blocks whose positions were looked at one by one.
    """

    runs: Runs
    by_ends: bool
    looked: int


def rows_of(bound: BoundForm, block: tuple[int, int]) -> Rows | None:
    """The runs of a form; None where its repeats follow no rule of `repeats.py`.

    A form solved for q_idx gives the runs of each column of blocks: rows and columns change roles.

    Args:
        block: (queries, keys) of a block.
    """
    form = bound.form
    try:
        finder = _Finder(bound, block if form.solved == "kv_idx" else block[::-1])
        if any(piece.repeat is not None for piece in form.pieces):
            return finder.find_repeated()
        return finder.find()
    except UnknownNode:
        return None


@dataclass(frozen=True)
class _Ends:
    """Ends of one piece over the positions of each row of blocks: int32 [slices, rows] each.

    Attributes:
        sure: Whether the ranges of the row, together, are [low_min, high_max) without a gap.
        plain: Whether first and last position decided.
    """

    low_min: Array
    low_max: Array
    high_min: Array
    high_max: Array
    sure: Array
    plain: bool


class _Finder:
    """Args: ``block`` holds the positions of the given and of the solved index in a block."""

    def __init__(self, bound: BoundForm, block: tuple[int, int]) -> None:
        self.bound, self.block = bound, block
        self.given, self.length = bound.given_length, bound.solved_length
        self.first = np.arange(0, self.given, block[0])
        self.last = np.minimum(self.first + (block[0] - 1), self.given - 1)
        self.rows, self.cols = len(self.first), -(-self.length // block[1])
        self.ends = bound.grid(np.concatenate([self.first, self.last]))
        self._everywhere: Values | None = None

    def find(self) -> Rows:
        pieces = self.bound.form.pieces
        shapes = shapes_of(self.bound.form, self._own_captures())
        found = [self._ends(piece, shape) for piece, shape in zip(pieces, shapes)]
        slices = np.arange(self._slices()).reshape(self.bound.shape[:2]).astype(np.int32)
        open_ = np.zeros((self._slices(), self.rows), bool)
        for ends in found:
            if not ends.sure.all():
                open_ |= ~ends.sure & (ends.low_min < ends.high_max)
        open_ = open_.ravel()
        parts = self._segments(found, open_)
        looked = int(np.count_nonzero(open_))
        by_ends = all(ends.plain for ends in found)
        if looked:
            guess = _by_row([_chosen(part, open_[part[0]]) for part in parts])
            seen = [np.concatenate(x) for x in zip(*self._look(open_))]
            by_ends &= all(map(np.array_equal, guess, seen))
            parts = [*(_chosen(part, ~open_[part[0]]) for part in parts), seen]
        row, start, stop, full = _by_row(parts)
        first = np.zeros(self._slices() * self.rows + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=len(first) - 1), out=first[1:])
        runs = Runs(
            *(self.rows, self.cols, slices, first),
            *(start, stop, full),
        )
        return Rows(runs, by_ends, looked)

    def find_repeated(self) -> Rows | None:
        """The runs of one piece with a repeat."""
        if len(self.bound.form.pieces) != 1 or self.bound.form.pieces[0].when is not None:
            return None
        (piece,) = self.bound.form.pieces
        frame = (self._slices(), self.rows)
        first, last = (np.broadcast_to(x, frame).ravel() for x in (self.first, self.last))
        found = repeats.moving(self.bound, piece, first, last)
        if found is None:
            (shape,) = shapes_of(self.bound.form, self._own_captures())
            ends = self._ends(piece, shape)
            if not ends.sure.all():
                return None
            sides = (ends.low_min, ends.low_max, ends.high_min, ends.high_max)
            flat = [np.broadcast_to(x, frame).ravel().astype(np.int64) for x in sides]
            found = repeats.fixed(self.bound, piece, (flat[0], flat[1], flat[2], flat[3]))
        if found is None:
            return None
        sticks_out = last - first + 1 < self.block[0]
        runs = repeats.runs_of(found, self.rows, self.block[1], self.length, sticks_out)
        if runs is None:
            return None
        slices = np.arange(self._slices(), dtype=np.int32).reshape(self.bound.shape[:2])
        return Rows(replace(runs, slices=slices), False, 0)

    def _segments(self, found: Sequence[_Ends], open_: Array) -> list[Segments]:
        """The runs of all pieces in one or two parts; opens rows that marks do not settle."""
        marks: Sequence[Array] = [self._marks(ends) for ends in found]
        if not marks:
            return [(*[np.zeros(0, np.int32)] * 3, np.zeros(0, bool))]
        if len(marks) == 1:
            return [_of_ordered(marks[0][:, None])]
        marks, apart = _in_order(marks)
        stacked = np.stack(marks, axis=1)
        if apart.all():
            return [_of_ordered(stacked)]
        mixed = np.flatnonzero(~apart)
        segments, (row, block) = _of_several(stacked[mixed], mixed)
        open_[row[~self._surely_partial(found, row, block)]] = True
        stacked[mixed] = 0
        return [_of_ordered(stacked), segments]

    def _surely_partial(self, found: Sequence[_Ends], row: Array, block: Array) -> Array:
        """Whether the first or the last position of each row leaves out some of its ``block``.

        A block of -1 stands for several, of which that would have to be asked one by one.
        """
        if not all(ends.plain for ends in found):
            return np.zeros(len(row), bool)
        left_out = np.zeros(len(row), bool)
        begin = block * self.block[1]
        end = np.minimum(begin + self.block[1], self.length)
        for low_of, high_of in (("low_min", "high_min"), ("low_max", "high_max")):
            low, high = (
                np.stack([getattr(ends, name).ravel()[row] for ends in found])
                for name in (low_of, high_of)
            )
            order = np.argsort(low, axis=0)
            low, high = (np.take_along_axis(side, order, 0) for side in (low, high))
            reach = begin.copy()  # how far the ranges, from the lowest on, cover the block
            for piece_low, piece_high in zip(low, high):
                reach = np.where(piece_low <= reach, np.maximum(reach, piece_high), reach)
            left_out |= reach < end
        return left_out & (block >= 0)

    def _own_captures(self) -> int:
        return len(self.bound.captures) - len(self.bound.form.tables)

    def _slices(self) -> int:
        return self.bound.shape[0] * self.bound.shape[1]

    # Ends of one piece ------------------------------------------------------------------------

    def _ends(self, piece: Piece, shape: Shape) -> _Ends:
        rising = shape.rising is not None and all(map(self.bound.derived.ascends, shape.rising))
        if not rising or piece.when is not None:
            return self._ends_of_all(piece)
        low, high = self._range(self.ends, piece, 2 * self.rows)
        low0, low1 = low[:, : self.rows], low[:, self.rows :]
        high0, high1 = high[:, : self.rows], high[:, self.rows :]
        if shape.touching is not None and all(self.bound.number(n) >= 0 for n in shape.touching):
            sure = np.ones((1, 1), bool)
        else:
            sure = (low1 <= high0) | (low0 == low1) | (high0 == high1)
        return _Ends(low0, low1, high0, high1, sure, True)

    def _range(self, values: Values, piece: Piece, count: int) -> tuple[Array, Array]:
        """The piece at ``count`` positions, cut to the length: int32 [slices, count]."""
        ends = []
        for node, bare in ((piece.low, BEGIN), (piece.high, END)):
            if node is bare:
                end = np.full((1, 1, 1), 0 if bare is BEGIN else self.length, np.int32)
            else:
                end = np.minimum(np.maximum(values(node), 0), self.length).astype(np.int32)
            frame = (*self.bound.shape[:2], count)
            ends.append(np.broadcast_to(end, frame).reshape(-1, count))
        return ends[0], ends[1]

    def _ends_of_all(self, piece: Piece) -> _Ends:
        if self._everywhere is None:
            self._everywhere = self.bound.grid(np.arange(self.given))
        low, high = self._range(self._everywhere, piece, self.given)
        there = low < high
        if piece.when is not None:
            when = np.broadcast_to(
                self._everywhere(piece.when), (*self.bound.shape[:2], self.given)
            )
            there = there & when.reshape(-1, self.given)
        low_in, high_in = np.where(there, low, self.length), np.where(there, high, 0)
        at = self.first
        low_min = np.minimum.reduceat(low_in, at, -1)
        high_max = np.maximum.reduceat(high_in, at, -1)
        # With the ranges that are there alone: do all share a position, or touch in one?
        low_top = np.maximum.reduceat(np.where(there, low, 0), at, -1)
        high_low = np.minimum.reduceat(np.where(there, high, self.length), at, -1)
        low_max = np.maximum.reduceat(low_in, at, -1)
        high_min = np.minimum.reduceat(high_in, at, -1)
        return _Ends(low_min, low_max, high_min, high_max, low_top <= high_low, False)

    def _marks(self, ends: _Ends) -> Array:
        """Columns where blocks begin to be reached and filled, and cease to: [slices * rows, 4].

        Begin, full begin, full end, end, each no less than the one before. Where none is filled,
        the middle two are the end.
        """
        size = self.block[1]
        reached = ends.low_min < ends.high_max
        begin = np.where(reached, ends.low_min // size, 0)
        end = np.where(reached, (ends.high_max + (size - 1)) // size, 0)
        full_begin, full_end = (ends.low_max + (size - 1)) // size, ends.high_min // size
        if self.given % self.block[0]:
            full_end[:, -1] = 0  # a row that sticks out is never full
        some = full_begin < full_end
        marks = np.empty((self._slices(), self.rows, 4), np.int32)
        marks[..., 0], marks[..., 3] = begin, end
        marks[..., 1], marks[..., 2] = (
            np.where(some, full_begin, end),
            np.where(some, full_end, end),
        )
        return marks.reshape(-1, 4)

    # Positions one by one ---------------------------------------------------------------------

    def _look(self, open_: Array) -> Iterator[Segments]:
        """The runs of the rows in ``open_`` [slices * rows]."""
        which = np.flatnonzero(open_)
        step = max(1, MOST_CELLS // max(self.cols + 1, self.block[0]))
        for start in range(0, len(which), step):
            part = which[start : start + step]
            runs = from_classes(self._classes(part)[None])
            yield (
                np.repeat(part, np.diff(runs.first)),
                runs.start,
                runs.stop,
                runs.full,
            )

    def _classes(self, part: Array) -> Array:
        """uint8 [rows, cols] of the rows numbered ``part`` in slices * rows."""
        heads = self.bound.shape[1]
        slice_, row = part // self.rows, part % self.rows
        q = self.first[row, None] + np.arange(self.block[0])
        q = np.minimum(q, self.given - 1)  # again the last one, which changes nothing
        b, h = slice_ // heads, slice_ % heads
        values = self.bound.at(b[:, None], h[:, None], q)
        ranges = [self._range_at(values, piece, q.shape) for piece in self.bound.form.pieces]
        low, high = (np.stack(side) for side in zip(*ranges))
        order = np.argsort(low, axis=0)
        low, high = (np.take_along_axis(side, order, 0) for side in (low, high))
        reached = self._touched(low, high)
        # Gaps lie between the end of all that began before and where the next begins.
        before = np.concatenate([np.zeros((1, *q.shape), np.int64), np.maximum.accumulate(high)])
        after = np.concatenate([low, np.full((1, *q.shape), self.length)])
        full = reached & ~self._touched(before, after)
        if self.length % self.block[1]:
            full[:, -1] = False
        if self.given % self.block[0]:
            full[row == self.rows - 1] = False
        return np.asarray(reached, np.uint8) + np.asarray(full, np.uint8) * (FULL - 1)

    def _range_at(
        self, values: Values, piece: Piece, shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        low = np.zeros(shape, np.int64) if piece.low is BEGIN else values(piece.low)
        high = np.full(shape, self.length) if piece.high is END else values(piece.high)
        low, high = np.maximum(low, 0), np.minimum(high, self.length)
        there = low < high
        if piece.when is not None:
            there = there & values(piece.when)
        low, high = np.where(there, low, self.length), np.where(there, high, 0)
        return np.broadcast_to(low, shape), np.broadcast_to(high, shape)

    def _touched(self, low: Array, high: Array) -> Array:
        """Which blocks some range [pieces, rows, positions] meets: bool [rows, cols]."""
        change = np.zeros((low.shape[1], self.cols + 1), np.int32)
        there = low < high
        row = np.broadcast_to(np.arange(low.shape[1])[:, None], low.shape)[there]
        np.add.at(change, (row, low[there] // self.block[1]), 1)
        np.subtract.at(change, (row, -(-high[there] // self.block[1])), 1)
        found: Array = np.cumsum(change, axis=1)[:, :-1] > 0
        return found


def _of_ordered(marks: Array) -> Segments:
    """The runs of pieces [rows, pieces, 4] that stand one behind the other."""
    flat = marks.reshape(-1)
    longer = np.empty(len(flat), bool)
    np.greater(flat[1:], flat[:-1], out=longer[:-1])
    longer[3::4] = False  # from one piece to the next
    at = np.flatnonzero(longer)
    row = (at >> 2) // marks.shape[1] if marks.shape[1] > 1 else at >> 2
    return row, flat[at], flat[at + 1], at & 3 == 1


def _of_several(marks: Array, rows: Array) -> tuple[Segments, tuple[Array, Array]]:
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


def _in_order(marks: Sequence[Array]) -> tuple[Sequence[Array], Array]:
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


def _chosen(segments: Segments, which: Array) -> Segments:
    row, start, stop, full = segments
    return row[which], start[which], stop[which], full[which]


def _by_row(parts: Sequence[Sequence[Array]]) -> Sequence[Array]:
    """Segments of several parts, each sorted by row, as one."""
    parts = [part for part in parts if len(part[0])] or [parts[0]]
    if len(parts) == 1:
        return parts[0]
    found = [np.concatenate(x) for x in zip(*parts)]
    order = np.argsort(found[0], kind="stable")
    return [x[order] for x in found]
