"""Runs of masks that list too many tiles to be kept: strips of rows, proved when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from flexattn.analysis.runs import Runs
from flexattn.analysis.tiles.values import Array


@dataclass
class Strips:
    """A `RowSource` that makes a strip of rows at a time, and keeps the last one.

    Attributes:
        rows: Rows of tiles in a slice.
        cols: Columns.
        slices: int32 [B, H], the slice of each batch and head.
        make: The rows [begin, end) of every slice, slices as here or fewer.
        step: Rows of a strip.
    """

    rows: int
    cols: int
    slices: Array
    make: Callable[[int, int], Runs]
    step: int
    _last: tuple[int, Runs] | None = field(default=None, repr=False)

    def part(self, begin: int, end: int) -> Runs:
        """The rows [begin, end) of every slice."""
        first = begin // self.step
        parts = []
        for strip in range(first, max(first + 1, -(-end // self.step))):
            start = strip * self.step
            runs = self._strip(strip)
            parts.append(runs.part(max(begin - start, 0), min(end - start, runs.rows)))
        return stack(parts, self.slices, self.cols)

    def _strip(self, strip: int) -> Runs:
        last = self._last
        if last is not None and last[0] == strip:
            return last[1]
        start = strip * self.step
        made = self.make(start, min(start + self.step, self.rows))
        self._last = strip, made
        return made


def stack(parts: list[Runs], slices: Array, cols: int) -> Runs:
    """Runs of consecutive rows, one part below the other, with one slice per batch and head."""
    if len(parts) == 1 and np.array_equal(parts[0].slices, slices):
        return parts[0]
    fields: list[list[Array]] = [[], [], []]
    for s in range(slices.size):
        for part in parts:
            own = int(part.slices.flat[s]) * part.rows
            at = slice(int(part.first[own]), int(part.first[own + part.rows]))
            for found, values in zip(fields, (part.start, part.stop, part.full)):
                found.append(values[at])
    sizes = [np.diff(part.first).reshape(-1, part.rows)[part.slices.ravel()] for part in parts]
    first = np.append(0, np.cumsum(np.concatenate(sizes, axis=1).ravel()))
    start, stop, full = (np.concatenate(found) for found in fields)
    return Runs(sum(part.rows for part in parts), cols, slices, first, start, stop, full)
