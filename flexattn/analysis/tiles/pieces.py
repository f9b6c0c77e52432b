"""Collects runs of tiles found at several sizes of tiles, and puts them together as `Runs`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from flexattn.analysis.runs import EMPTY, FULL, Runs
from flexattn.analysis.tiles.values import Array


@dataclass
class Pieces:
    """Runs of the finest tiles in any order: each in a row, of one class.

    Rows are numbered over all slices, slice by slice. No tile is in two pieces.

    Attributes:
        slices: How many batches and heads are told apart: (B, H).
        rows: Rows of a slice.
        cols: Columns.
    """

    slices: tuple[int, int]
    rows: int
    cols: int
    _found: list[Array] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._found)

    def forget(self, since: int) -> None:
        """Take back what was added since the length was ``since``."""
        del self._found[since:]

    def add_dense(self, classes: Array, offset: int, tile: tuple[int, int]) -> None:
        """Add tiles that are ``tile`` finest ones high and wide.

        Args:
            classes: uint8 [slices, rows, cols] of whole slices; what is neither PARTIAL nor FULL
                is left out.
            offset: Number of the first slice.
        """
        line, start, stop, full = _runs_of(classes.reshape(-1, classes.shape[2]))
        self._add(line + offset * classes.shape[1], start, stop, full, classes.shape[1], tile)

    def add_patches(
        self,
        classes: Array,
        at: tuple[Array, Array, Array],
        rows: int,
        tile: tuple[int, int],
    ) -> None:
        """Add tiles, ``tile`` finest ones high and wide, in patches of some rows and columns.

        Args:
            classes: uint8 [patches, high, wide], as in `add_dense`; EMPTY where there is no tile.
            at: Of each patch its slice, first row and first column.
            rows: Rows of tiles of this size in a slice.
        """
        _, high, wide = classes.shape
        line, start, stop, full = _runs_of(classes.reshape(-1, wide))
        patch = line // high
        of, row, col = (index[patch] for index in at)
        self._add(of * rows + row + line % high, col + start, col + stop, full, rows, tile)

    def add_cells(
        self, at: tuple[Array, Array, Array], full: Array, rows: int, tile: tuple[int, int]
    ) -> None:
        """Add tiles, ``tile`` finest ones high and wide, by number.

        Args:
            at: (slice, row, col) of each tile.
            full: Which are FULL; the others are PARTIAL.
            rows: Rows of tiles of this size in a slice.
        """
        if not len(full):
            return
        wide = -(-self.cols // tile[1]) + 1
        key = ((at[0].astype(np.int64) * rows + at[1]) * wide + at[2]) * 2 + full
        key.sort()
        new = np.ones(len(key), bool)
        np.not_equal(key[1:], key[:-1] + 2, out=new[1:])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(key)) - 1
        begin, end = key[first] // 2, key[last] // 2 + 1
        line = begin // wide
        base = line * wide
        self._add(line, begin - base, end - base, key[first] % 2 == 1, rows, tile)

    def _add(
        self,
        line: Array,
        start: Array,
        stop: Array,
        full: Array,
        rows: int,
        tile: tuple[int, int],
    ) -> None:
        """Runs of tiles of one size as runs of the finest ones.

        Args:
            line: slice * rows + row of each, for ``rows`` rows to a slice.
        """
        high, wide = tile
        of, row = line // rows, line % rows
        start, stop = start * wide, np.minimum(stop * wide, self.cols)
        if high > 1:
            times = np.minimum(self.rows - row * high, high)
            again = np.repeat(np.arange(len(row)), times)
            turn = np.arange(len(again)) - np.repeat(np.cumsum(times) - times, times)
            of, start, stop, full = of[again], start[again], stop[again], full[again]
            row = row[again] * high + turn
        self._found.append(self._pack(of * self.rows + row, start, stop, full))

    @property
    def _width(self) -> int:
        """Bits of a column."""
        return self.cols.bit_length()

    def _pack(self, row: Array, start: Array, stop: Array, full: Array) -> Array:
        """One int64 a piece, that sorts by row and start."""
        w = self._width
        return ((row << w | start) << w | (stop - start)) << 1 | full

    def _unpack(self, pieces: Array) -> tuple[Array, Array, Array, Array]:
        w = self._width
        low = (1 << w) - 1
        start = pieces >> (w + 1) & low
        return pieces >> (2 * w + 1), start, start + (pieces >> 1 & low), (pieces & 1).astype(bool)

    def runs(self, ragged: tuple[bool, bool]) -> Runs:
        """All that was added; slices that are alike are one.

        Args:
            ragged: Whether tiles of the last row, and of the last column, stick out: they are
                not FULL, whatever they were called.
        """
        found = np.concatenate(self._found) if self._found else np.zeros(0, np.int64)
        found = self._lowered(found, ragged)
        found.sort()
        row, start, stop, full = self._unpack(found)
        new = np.ones(len(found), bool)
        new[1:] = (start[1:] != stop[:-1]) | (row[1:] != row[:-1]) | (full[1:] != full[:-1])
        if not new.all():
            first = np.flatnonzero(new)
            last = np.append(first[1:], len(found)) - 1
            row, start, stop, full = row[first], start[first], stop[last], full[first]
        count = self.slices[0] * self.slices[1] * self.rows
        ends = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=count), out=ends[1:])
        slices = np.arange(self.slices[0] * self.slices[1], dtype=np.int32).reshape(self.slices)
        made = Runs(
            *(self.rows, self.cols, slices, ends),
            *(start.astype(np.int32), stop.astype(np.int32), full),
        )
        return share(made)

    def _lowered(self, pieces: Array, ragged: tuple[bool, bool]) -> Array:
        """With PARTIAL for the tiles that stick out."""
        if not any(ragged) or not len(pieces):
            return pieces
        row, start, stop, full = self._unpack(pieces)
        if ragged[0]:
            full &= row % self.rows != self.rows - 1
        if not ragged[1]:
            return self._pack(row, start, stop, full)
        out = full & (stop == self.cols)
        last = self._pack(row[out], stop[out] - 1, stop[out], np.zeros(int(out.sum()), bool))
        stop = stop - out
        pieces = self._pack(row, start, stop, full)
        return np.concatenate((pieces[start < stop], last))


def _runs_of(classes: Array) -> tuple[Array, Array, Array, Array]:
    """Line, start, stop, and whether FULL, of each run in uint8 [lines, n]."""
    lines, n = classes.shape
    padded = np.zeros((lines, n + 1), np.uint8)
    np.copyto(padded[:, :n], classes)
    padded[padded > FULL] = EMPTY
    flat = padded.ravel()
    at = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        at = np.concatenate(([0], at))
    value = flat[at]
    run = value != EMPTY
    begin, end = at[run], np.append(at[1:], flat.size)[run]
    line = begin // (n + 1)
    return line, begin - line * (n + 1), end - line * (n + 1), value[run] == FULL


def share(runs: Runs) -> Runs:
    """The same runs with one slice for all batches and heads that are alike."""
    count = runs.slices.size
    if count <= 1:
        return runs
    known: dict[bytes, int] = {}
    number = np.empty(count, np.int32)
    kept: list[int] = []
    sizes = np.diff(runs.first)
    for s in range(count):
        rows = slice(s * runs.rows, (s + 1) * runs.rows)
        at = slice(int(runs.first[rows.start]), int(runs.first[rows.stop]))
        parts = (sizes[rows], runs.start[at], runs.stop[at], runs.full[at])
        digest = hashlib.blake2b(b"".join(part.tobytes() for part in parts)).digest()
        number[s] = known.setdefault(digest, len(known))
        if len(known) > len(kept):
            kept.append(s)
    if len(kept) == count:
        return runs
    at = np.concatenate([np.arange(s * runs.rows, (s + 1) * runs.rows) for s in kept])
    sizes = sizes[at]
    first = np.append(0, np.cumsum(sizes))
    picked = np.repeat(runs.first[:-1][at] - first[:-1], sizes) + np.arange(first[-1])
    return Runs(
        *(runs.rows, runs.cols, number.reshape(runs.slices.shape), first),
        *(runs.start[picked], runs.stop[picked], runs.full[picked]),
    )
