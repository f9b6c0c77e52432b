"""Block structure in compact form: for each row of blocks, runs of columns of one class.

This is what analysis hands to `masks`, and what a BlockMask keeps. Its size follows the number of
runs, not of blocks: a causal mask of a million tokens has two runs a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray

EMPTY, PARTIAL, FULL = 0, 1, 2
"""Classes of blocks: nothing kept; the mask_mod decides; everything kept."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The blocks that a mask lists.

    Row ``r`` of slice ``s`` has the runs ``first[s * rows + r]`` up to ``first[s * rows + r + 1]``,
    ascending by ``start``. A run is the columns [start, stop); where ``count`` is given it is
    repeated ``count`` times, ``period`` columns apart. No column is in two runs of a row.
    Without repetition the form is canonical: neighbours of one class are one run.

    Attributes:
        rows: Rows of blocks in a slice.
        cols: Columns of blocks.
        slices: int32 [B, H]; the slice of each batch and head. B (H) is 1 where all share it;
            batches and heads that are alike share a slice.
        first: int64 [slices * rows + 1].
        start: int32 [runs].
        stop: int32 [runs].
        full: bool [runs]; full blocks, or partial ones.
        period: int32 [runs], or None where nothing is repeated.
        count: int32 [runs], 1 or more, or None likewise.
    """

    rows: int
    cols: int
    slices: Array
    first: Array
    start: Array
    stop: Array
    full: Array
    period: Array | None = None
    count: Array | None = None

    def part(self, begin: int, end: int) -> Runs:
        """The rows [begin, end) of every slice."""
        if begin == 0 and end == self.rows:
            return self
        ends = self.first[:-1].reshape(-1, self.rows)[:, begin:end]
        sizes = np.diff(self.first).reshape(-1, self.rows)[:, begin:end]
        first = np.concatenate(([0], np.cumsum(sizes)))
        at = np.repeat((ends - first[:-1].reshape(ends.shape)).ravel(), sizes.ravel())
        at += np.arange(len(at))
        picked = [None if x is None else x[at] for x in (self.period, self.count)]
        return Runs(
            *(end - begin, self.cols, self.slices, first),
            *(self.start[at], self.stop[at], self.full[at], *picked),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.slices, self.first, self.start, self.stop, self.full)
        return sum(x.nbytes for x in (*arrays, self.period, self.count) if x is not None)


class RowSource(Protocol):
    """Runs that are made when rows are asked for: of masks that list too many to be kept."""

    @property
    def rows(self) -> int:
        """Rows of blocks in a slice."""
        ...

    @property
    def cols(self) -> int:
        """Columns of blocks."""
        ...

    @property
    def slices(self) -> Array:
        """As in `Runs`."""
        ...

    def part(self, begin: int, end: int) -> Runs:
        """The rows [begin, end) of every slice."""
        ...


def from_classes(classes: Array, slices: Array | None = None) -> Runs:
    """Runs of uint8 [slices, rows, cols]; ``slices`` as in `Runs`, one slice for all by default."""
    count, rows, cols = classes.shape
    padded = np.zeros((count * rows, cols + 1), np.uint8)
    padded[:, :cols] = classes.reshape(count * rows, cols)
    flat = padded.ravel()
    changes = np.empty(flat.size + 1, bool)
    changes[0], changes[-1] = flat[:1].any(), False
    np.not_equal(flat[1:], flat[:-1], out=changes[1:-1])
    at = np.flatnonzero(changes)
    value = flat[at]
    run = value != EMPTY  # what is not the start of a run ends one
    begin = at[run]
    nexts = np.append(at[1:], flat.size)[run]
    row = begin // (cols + 1)
    first = np.zeros(count * rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=count * rows), out=first[1:])
    base = row * (cols + 1)
    return Runs(
        rows,
        cols,
        np.zeros((1, 1), np.int32) if slices is None else slices,
        first,
        (begin - base).astype(np.int32),
        (nexts - base).astype(np.int32),
        value[run] == FULL,
    )


def to_classes(runs: Runs) -> Array:
    """uint8 [slices, rows, cols] of runs: dense, for masks known to be small."""
    rows = len(runs.first) - 1
    row = np.repeat(np.arange(rows), np.diff(runs.first))
    start, stop, full = runs.start.astype(np.int64), runs.stop.astype(np.int64), runs.full
    if runs.count is not None and runs.period is not None:
        n = runs.count.astype(np.int64)
        turn = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
        shift = turn * np.repeat(runs.period, n)
        row, start, stop, full = (np.repeat(x, n) for x in (row, start, stop, full))
        start, stop = start + shift, stop + shift
    value = np.where(full, FULL, PARTIAL).astype(np.int8)
    change = np.zeros((rows, runs.cols + 1), np.int8)
    np.add.at(change, (row, start), value)
    np.subtract.at(change, (row, stop), value)
    classes = np.cumsum(change[:, :-1], axis=1, dtype=np.int8).view(np.uint8)
    slices = rows // runs.rows if runs.rows else int(runs.slices.max(initial=-1)) + 1
    return classes.reshape(slices, runs.rows, runs.cols)
