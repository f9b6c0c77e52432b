"""From the ranges of a closed form to the runs of each row of blocks, exactly.

A row of blocks holds consecutive positions of the given index. Of a range whose ends never fall,
the first and the last of them tell which blocks some position reaches, and which all of them fill.
Where that is not certain (ranges that leave gaps, or that fill a block only together) the
positions of the row are looked at one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from flexattn.analysis.closed import repeats
from flexattn.analysis.closed.bound import BoundForm
from flexattn.analysis.closed.pieces import BEGIN, END, Piece
from flexattn.analysis.closed.segments import (
    Segments,
    by_row,
    chosen,
    joined,
    of_ordered,
    of_several,
    stand_apart,
)
from flexattn.analysis.closed.shape import Shape, shapes_of
from flexattn.analysis.runs import FULL, PARTIAL, Runs, from_classes
from flexattn.analysis.tiles.pieces import share
from flexattn.analysis.tiles.values import Array, UnknownNode, Values

MOST_ROWS = 1 << 12
"""Rows of blocks looked at together: what is computed on the way stays in the cache."""

MOST_CELLS = 1 << 21
"""Blocks, or positions, looked at one by one at once."""


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
    own = block if bound.form.solved == "kv_idx" else block[::-1]
    try:
        if any(piece.repeat is not None for piece in bound.form.pieces):
            return _Finder(bound, own).find_repeated()
        return _find(bound, own)
    except UnknownNode:
        return None


def _find(bound: BoundForm, block: tuple[int, int]) -> Rows:
    """The runs of a form without repeats, some batches or some rows at a time.

    Args:
        block: Positions of the given and of the solved index in a block.
    """
    batch, heads = bound.shape[:2]
    rows = -(-bound.given_length // block[0])
    if batch * heads == 1:
        parts = [{"rows": part} for part in _split(rows, MOST_ROWS)]
    else:
        parts = [{"batches": p} for p in _split(batch, max(1, MOST_ROWS // (rows * heads)))]
    found = [_Finder(bound, block, **part).find() for part in parts]
    counts, start, stop, full = (np.concatenate(x) for x in zip(*(p.runs for p in found)))
    first = np.zeros(batch * heads * rows + 1, np.int64)
    np.cumsum(counts, out=first[1:])
    slices = np.arange(batch * heads, dtype=np.int32).reshape(batch, heads)
    cols = -(-bound.solved_length // block[1])
    runs = Runs(rows, cols, slices, first, start, stop, full)
    return Rows(share(runs), all(p.by_ends for p in found), sum(p.looked for p in found))


def _split(length: int, most: int) -> list[range]:
    return [range(at, min(at + most, length)) for at in range(0, length, most)] or [range(0)]


@dataclass(frozen=True)
class _Part:
    """``Rows`` of a part: runs as (runs of each row, start, stop, full)."""

    runs: Segments
    by_ends: bool
    looked: int


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
    """The runs of some batches, or some rows of blocks.

    Args:
        block: Positions of the given and of the solved index in a block.
        batches: Those looked at; all by default.
        rows: Rows of blocks looked at; all by default.
    """

    def __init__(
        self,
        bound: BoundForm,
        block: tuple[int, int],
        *,
        batches: range | None = None,
        rows: range | None = None,
    ) -> None:
        self.bound, self.block = bound, block
        self.given, self.length = bound.given_length, bound.solved_length
        all_rows = range(-(-self.given // block[0]))
        self.batches = range(bound.shape[0]) if batches is None else batches
        self.frame = len(self.batches), bound.shape[1]
        rows = all_rows if rows is None else rows
        self.first = np.arange(rows.start, rows.stop, dtype=np.int32) * block[0]
        self.last = np.minimum(self.first + (block[0] - 1), self.given - 1)
        self.ragged = rows.stop == all_rows.stop and self.given % block[0] != 0
        self.rows, self.cols = len(rows), -(-self.length // block[1])
        self.slices = self.frame[0] * self.frame[1]
        self._everywhere: Values | None = None
        self.filled = False  # whether pieces fill a block that none fills alone

    def find(self) -> _Part:
        pieces = self.bound.form.pieces
        shapes = shapes_of(self.bound.form, self._own_captures())
        values = self._at_ends()
        found = [self._ends(piece, shape, values) for piece, shape in zip(pieces, shapes)]
        del values  # and what it holds
        unsure = np.zeros((self.slices, self.rows), bool)
        for ends in found:
            if not ends.sure.all():
                unsure |= ~ends.sure & (ends.low_min < ends.high_max)
        open_ = unsure.ravel()
        parts = self._segments(found, open_)
        looked = int(np.count_nonzero(open_))
        by_ends = all(ends.plain for ends in found) and not self.filled
        if looked:
            guess = by_row([chosen(part, open_[part[0]]) for part in parts])
            seen = joined(list(self._look(open_)))
            by_ends &= all(map(np.array_equal, guess, seen))
            parts = [*(chosen(part, ~open_[part[0]]) for part in parts), seen]
        row, start, stop, full = by_row(parts)
        counts = np.bincount(row, minlength=len(open_)).astype(np.int32)
        return _Part((counts, start, stop, full), by_ends, looked)

    def find_repeated(self) -> Rows | None:
        """The runs of one piece with a repeat."""
        if len(self.bound.form.pieces) != 1 or self.bound.form.pieces[0].when is not None:
            return None
        (piece,) = self.bound.form.pieces
        frame = (self.slices, self.rows)
        first, last = (
            np.broadcast_to(x, frame).ravel().astype(np.int64) for x in (self.first, self.last)
        )
        found = repeats.moving(self.bound, piece, first, last)
        if found is None:
            (shape,) = shapes_of(self.bound.form, self._own_captures())
            ends = self._ends(piece, shape, self._at_ends())
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
        slices = np.arange(self.slices, dtype=np.int32).reshape(self.bound.shape[:2])
        return Rows(replace(runs, slices=slices), False, 0)

    def _segments(self, found: Sequence[_Ends], open_: Array) -> list[Segments]:
        """The runs of all pieces in one or two parts; opens rows that marks do not settle."""
        if not found:
            nothing = np.zeros(0, np.int32)
            return [(nothing, nothing, nothing, np.zeros(0, bool))]
        marks = np.empty((self.slices, self.rows, len(found), 4), np.int32)
        # In the order in which they begin in the last row, where most have moved apart.
        for place, ends in enumerate(sorted(found, key=lambda ends: int(ends.low_min[-1, -1]))):
            self._mark(ends, marks[:, :, place])
        stacked = marks.reshape(-1, len(found), 4)
        if len(found) == 1:
            return [of_ordered(stacked)]
        apart = stand_apart(stacked)
        if apart.all():
            return [of_ordered(stacked)]
        mixed = np.flatnonzero(~apart)
        segments, left, self.filled = of_several(stacked[mixed], mixed, partial(self._told, found))
        open_[left] = True
        stacked[mixed] = 0
        return [of_ordered(stacked), segments]

    def _told(self, found: Sequence[_Ends], row: Array, block: Array) -> Array:
        """PARTIAL where the first or last position of a row leaves out some of its block.

        FULL where what all positions keep covers it; 0 where neither is so.
        """
        begin = block * self.block[1]
        end = np.minimum(begin + self.block[1], self.length)
        # [pieces, 3, blocks]: at the first position, at the last one, and what all have in common
        low, high = (
            np.array([[getattr(ends, name).ravel()[row] for name in names] for ends in found])
            for names in (("low_min", "low_max", "low_max"), ("high_min", "high_max", "high_min"))
        )
        order = np.argsort(low, axis=0)
        low, high = (np.take_along_axis(side, order, 0) for side in (low, high))
        reach = np.broadcast_to(begin, low.shape[1:])  # how far ranges, from the lowest on, cover
        for piece_low, piece_high in zip(low, high):
            reach = np.where(piece_low <= reach, np.maximum(reach, piece_high), reach)
        at_first, at_last, always = reach >= end
        whole = (end - begin == self.block[1]) & ~(self.ragged & (row % self.rows == self.rows - 1))
        told = np.where(always, np.where(whole, FULL, PARTIAL), 0)
        if all(ends.plain for ends in found):
            told = np.where(at_first & at_last, told, PARTIAL)
        return told

    def _own_captures(self) -> int:
        return len(self.bound.captures) - len(self.bound.form.tables)

    # Ends of one piece ------------------------------------------------------------------------

    def _at_ends(self) -> Values:
        return self.bound.grid(np.concatenate([self.first, self.last]), self.batches)

    def _ends(self, piece: Piece, shape: Shape, values: Values) -> _Ends:
        rising = shape.rising is not None and all(map(self.bound.derived.ascends, shape.rising))
        if not rising or piece.when is not None:
            return self._ends_of_all(piece)
        low, high = self._range(values, piece, 2 * self.rows)
        low0, low1 = low[:, : self.rows], low[:, self.rows :]
        high0, high1 = high[:, : self.rows], high[:, self.rows :]
        sure = self._touching(shape)
        if not sure.all():
            sure = sure | (low1 <= high0) | (low0 == low1) | (high0 == high1)
        return _Ends(low0, low1, high0, high1, sure, True)

    def _touching(self, shape: Shape) -> Array:
        """Whether each range holds its own position: bool [slices, 1], or one for all."""
        if shape.touching is None:
            return np.zeros((1, 1), bool)
        if shape.uniform:
            return np.full((1, 1), all(self.bound.number(n) >= 0 for n in shape.touching))
        return self.bound.never_negative(shape.touching, self.batches)

    def _range(self, values: Values, piece: Piece, count: int) -> tuple[Array, Array]:
        """The piece at ``count`` positions, cut to the length: int32 [slices, count]."""
        ends, frame = [], (*self.frame, count)
        for node, bare in ((piece.low, BEGIN), (piece.high, END)):
            if node is bare:
                end = np.full(frame, 0 if bare is BEGIN else self.length, np.int32)
            else:
                end = np.maximum(values(node), 0)
                end = np.minimum(end, self.length).astype(np.int32, copy=False)
                end = np.broadcast_to(end, frame) if end.size < math.prod(frame) else end
            ends.append(end.reshape(-1, count))
        return ends[0], ends[1]

    def _ends_of_all(self, piece: Piece) -> _Ends:
        begin, count = int(self.first[0]), int(self.last[-1] - self.first[0]) + 1
        if self._everywhere is None:
            positions = np.arange(begin, begin + count, dtype=np.int32)
            self._everywhere = self.bound.grid(positions, self.batches)
        low, high = self._range(self._everywhere, piece, count)
        there = low < high
        if piece.when is not None:
            when = np.broadcast_to(self._everywhere(piece.when), (*self.frame, count))
            there = there & when.reshape(-1, count)
        low_in, high_in = np.where(there, low, self.length), np.where(there, high, 0)
        at = self.first - begin
        low_min = np.minimum.reduceat(low_in, at, -1)
        high_max = np.maximum.reduceat(high_in, at, -1)
        # With the ranges that are there alone: do all share a position, or touch in one?
        low_top = np.maximum.reduceat(np.where(there, low, 0), at, -1)
        high_low = np.minimum.reduceat(np.where(there, high, self.length), at, -1)
        low_max = np.maximum.reduceat(low_in, at, -1)
        high_min = np.minimum.reduceat(high_in, at, -1)
        return _Ends(low_min, low_max, high_min, high_max, low_top <= high_low, False)

    def _mark(self, ends: _Ends, marks: Array) -> None:
        """Write the columns where blocks begin to be reached and filled, and cease to.

        Begin, full begin, full end, end, each no less than the one before, into ``marks`` int32
        [slices, rows, 4]. Where none is filled, the middle two are the end.
        """
        reached = ends.low_min < ends.high_max
        begin = np.where(reached, self._block(ends.low_min), 0)
        end = np.where(reached, self._block(ends.high_max + (self.block[1] - 1)), 0)
        full_begin = self._block(ends.low_max + (self.block[1] - 1))
        full_end = self._block(ends.high_min)
        if self.ragged:
            full_end[:, -1] = 0  # a row that sticks out is never full
        some = full_begin < full_end
        marks[..., 0], marks[..., 3] = begin, end
        marks[..., 1], marks[..., 2] = (
            np.where(some, full_begin, end),
            np.where(some, full_end, end),
        )

    def _block(self, positions: Array) -> Array:
        """The block of each position."""
        size = self.block[1]
        if size & (size - 1) == 0:
            return positions >> (size.bit_length() - 1)
        return positions // size

    # Positions one by one ---------------------------------------------------------------------

    def _look(self, open_: Array) -> Iterator[Segments]:
        """The runs of the rows in ``open_`` [slices * rows]."""
        which = np.flatnonzero(open_)
        step = max(1, MOST_CELLS // max(self.cols + 1, self.block[0]))
        for start in range(0, len(which), step):
            part = which[start : start + step]
            runs = from_classes(self._classes(part)[None])
            row = np.repeat(part, np.diff(runs.first))
            yield row, runs.start, runs.stop, runs.full

    def _classes(self, part: Array) -> Array:
        """uint8 [rows, cols] of the rows numbered ``part`` in slices * rows."""
        heads = self.frame[1]
        slice_, row = part // self.rows, part % self.rows
        q = self.first[row, None] + np.arange(self.block[0])
        q = np.minimum(q, self.given - 1)  # again the last one, which changes nothing
        b, h = slice_ // heads + self.batches.start, slice_ % heads
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
        if self.ragged:
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
