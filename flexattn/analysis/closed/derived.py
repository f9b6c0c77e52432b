"""What closed forms need to know of captured tables: order, runs, first positions of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flexattn.analysis.tiles.values import Array, UnknownNode

SAMPLES = 64
"""Entries compared before a table is read whole: most that do not ascend are found out by them."""

SPREAD = 4
"""Values from the least to the greatest, at most so many an entry, for a table of starts."""


class Derived:
    """Facts about the captured tables of one call, found once each.

    Args:
        captures: The tables.
        lengths: How many positions are read of each table's last dimension, from the first on;
            what lies beyond is no matter. None: all may be read.
    """

    def __init__(self, captures: Sequence[Array], lengths: Sequence[int | None]) -> None:
        self._captures, self._lengths = captures, lengths
        self._changes: dict[int, list[Array] | None] = {}

    def rows(self, capture: int) -> Array:
        """The table as [rows, positions]; what is in use of it."""
        table = self._captures[capture]
        length = table.shape[-1] if table.ndim else 1
        flat: Array = table.reshape(math.prod(table.shape[:-1]), length)
        return flat[:, : self._lengths[capture]]

    def ascends(self, capture: int) -> bool:
        """Whether no entry is less than the one before it."""
        if capture not in self._changes:
            self._changes[capture] = _rises(self.rows(capture))
        return self._changes[capture] is not None

    def is_small(self, capture: int, limit: int) -> bool:
        """Whether all entries lie within ±limit."""
        rows = self.rows(capture)
        if not rows.size:
            return True
        if self._changes.get(capture) is not None:
            rows = rows[:, [0, -1]]
        return -limit < int(rows.min()) and int(rows.max()) < limit

    def has_starts(self, capture: int) -> bool:
        """Whether a table of starts is not much longer than the table itself."""
        rows = self.rows(capture)
        if not rows.size:
            return False
        span = int(rows[:, -1].max()) - int(rows[:, 0].min()) + 2
        return span <= SPREAD * rows.shape[1] + 1024

    def starts(self, capture: int) -> tuple[Array, int]:
        """For each value, least to one above the greatest, its first position; and the least.

        int32, with the table's dimensions before the last. The table must ascend.
        """
        rows, changes = self.rows(capture), self._changes[capture]
        if changes is None:
            raise UnknownNode("a table that does not ascend")
        low, high = int(rows[:, 0].min()), int(rows[:, -1].max())
        found = np.empty((len(rows), high - low + 2), np.int32)
        for row, at, out in zip(rows, changes, found):
            values = np.concatenate(([low - 1], row[:1], row[at], [high + 1])).astype(np.int64)
            first = np.concatenate(([0], at, [len(row)]))
            out[:] = np.repeat(first, np.diff(values))
        leading = self._captures[capture].shape[:-1]
        return found.reshape(*leading, -1), low

    def has_one_run(self, capture: int) -> bool:
        """Whether the true entries of each row of a bool table follow one another."""
        rows = self.rows(capture)
        if not rows.size:
            return False
        rising = np.count_nonzero(rows[:, 1:] > rows[:, :-1], axis=1) + rows[:, 0]
        return bool((rising <= 1).all())

    def runs(self, capture: int) -> Array:
        """Where the run of true entries of each row starts and stops: int32 [..., 2]."""
        rows = self.rows(capture)
        any_ = rows.any(1)
        begin = np.where(any_, rows.argmax(1), 0)
        stop = np.where(any_, rows.shape[1] - rows[:, ::-1].argmax(1), 0)
        leading = self._captures[capture].shape[:-1]
        return np.stack([begin, stop], -1).astype(np.int32).reshape(*leading, 2)


def _rises(rows: Array) -> list[Array] | None:
    """Where each row changes, if all changes are upwards; else None."""
    length = rows.shape[-1]
    if not rows.size or rows.dtype.kind == "f":
        return None
    sample = rows[:, :: max(1, length // SAMPLES)]
    if (sample[:, 1:] < sample[:, :-1]).any():
        return None
    found = []
    for row in rows:
        at = np.flatnonzero(row[1:] != row[:-1]) + 1
        if (row[at] < row[at - 1]).any():
            return None
        found.append(at)
    return found
