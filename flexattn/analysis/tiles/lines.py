"""Expressions of one index: their values at every position, and their extremes on intervals.

Both indices are called ``q_idx`` here, so that the same expression of queries and of keys is
worked out once where the lengths agree. What rises or falls with the index is known from the
two ends of an interval; only other expressions are worked out at every position.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexattn.analysis.tiles.direction import Directions
from flexattn.analysis.tiles.frame import Axis
from flexattn.analysis.tiles.values import Array, Ranges, Values
from flexattn.ir.nodes import Input, Node
from flexattn.ir.ranges import Range

POSITION = "q_idx"

_FIRST = 1 << 12  # positions looked at first: what does not rise mostly shows it there


class Places:
    """The positions start … stop - 1 of one index, for given batches and heads.

    Args:
        b: Values of b to cover, int64 [B].
        h: Values of h to cover, int64 [H].
        numbers: Values of the lifted numbers by name.
        captures: See `Values`.
        ranges: Of all inputs but the position.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        heads: tuple[Array, Array],
        numbers: Mapping[str, Any],
        captures: Sequence[Array],
        ranges: Mapping[str, Range],
    ) -> None:
        self.start, self.stop = start, stop
        self.captures, self.numbers = captures, numbers
        b, h = heads
        self._heads = {"b": b.reshape(-1, 1, 1), "h": h.reshape(1, -1, 1)}
        self.ranges = Ranges({**ranges, POSITION: (start, max(start, stop - 1))}, captures)
        self.directions = Directions(self.ranges)
        narrow = self.ranges.is_narrow(Input(POSITION, "i64"))
        self._dtype = np.int32 if narrow else np.int64
        self._all: Values | None = None
        self._lines: dict[Node, Line] = {}
        self._ends: dict[Axis, tuple[Values, Values]] = {}

    @property
    def everywhere(self) -> Values:
        """Values at every position: arrays that broadcast to [B, H, positions]."""
        if self._all is None:
            positions = np.arange(self.start, self.stop, dtype=self._dtype)
            self._all = self.at(positions, {"b": 0, "h": 1, POSITION: 2})
        return self._all

    def again(self) -> Places:
        """The same positions, of which nothing but values is remembered."""
        assert self.everywhere
        other = copy.copy(self)
        other._lines, other._ends = {}, {}
        return other

    def at(self, positions: Array, steps: Mapping[str, int] | None = None) -> Values:
        """Values at ``positions`` [n]: arrays that broadcast to [B, H, n]."""
        inputs = {**self._heads, POSITION: positions.astype(self._dtype, copy=False)}
        return Values({**inputs, **self.numbers}, self.captures, self.ranges, steps, ndim=3)

    def ends(self, axis: Axis) -> tuple[Values, Values]:
        """Values at the first and at the last position of each interval."""
        found = self._ends.get(axis)
        if found is None:
            found = self._ends[axis] = self.at(axis.first), self.at(axis.last)
        return found

    def line(self, node: Node) -> Line:
        """The expression ``node``, which reads no other position than ``q_idx``."""
        found = self._lines.get(node)
        if found is None:
            found = self._lines[node] = Line(self, node)
        return found


class Line:
    """An expression along an index.

    Attributes:
        places: Where.
        node: What; None where the values were given.
    """

    def __init__(self, places: Places, node: Node | None, values: Array | None = None) -> None:
        self.places, self.node, self._values = places, node, values
        self._rises: bool | None = None
        self._extremes: dict[tuple[Axis, Line | None], tuple[Array, Array]] = {}

    @property
    def is_known(self) -> bool:
        """Whether the values have been worked out."""
        return self._values is not None

    @property
    def values(self) -> Array:
        """The value at every position: [B, H, positions], or 1 along what it does not read."""
        if self._values is None:
            assert self.node is not None
            self._values = three(self.places.everywhere(self.node))
        return self._values

    @property
    def rises(self) -> bool:
        """Whether no value lies below the one before, as in a list of documents."""
        if self._rises is None:
            values = self.values
            whole = values.shape[-1] > 1 and values.dtype.kind == "i"
            self._rises = whole and _rises(values[0, 0, :_FIRST]) and _rises(values)
        return self._rises

    def on(self, axis: Axis) -> Array:
        """The values at the positions that ``axis`` covers."""
        if axis.size:
            return self.values
        return self.near(axis.places)

    def near(self, places: Array) -> Array:
        """The values at given positions, numbered from the first one on: [B, H, *places.shape].

        [B, H, 1] where the position is not read.
        """
        if self.is_known or self.node is None:
            values = self.values
            return values if values.shape[-1] == 1 else np.take(values, places, axis=-1)
        values = three(self.places.at(places.ravel() + self.places.start)(self.node))
        if values.shape[-1] == 1:
            return values
        return values.reshape(*values.shape[:2], *places.shape)

    def extremes(self, axis: Axis, guard: Line | None = None) -> tuple[Array, Array]:
        """Least and greatest value of each interval, over the positions where ``guard`` holds.

        [B, H, intervals] each. Where the guard holds nowhere they mean nothing.
        """
        found = self._extremes.get((axis, guard))
        if found is None:
            found = self._extremes[axis, guard] = self._find(axis, guard)
        return found

    def _find(self, axis: Axis, guard: Line | None) -> tuple[Array, Array]:
        if guard is None and self.node is not None:
            direction = self.places.directions(self.node)
            if direction is not None:
                first, last = (
                    np.broadcast_to(value, (*value.shape[:2], len(axis)))
                    for value in (three(ends(self.node)) for ends in self.places.ends(axis))
                )
                return (last, first) if direction < 0 else (first, last)
        if guard is None and axis.size and self.rises:
            at = (end - self.places.start for end in (axis.first, axis.last))
            low, high = (np.take(self.values, places, axis=-1) for places in at)
            return low, high
        if axis.finer is not None:
            low, high = self.extremes(axis.finer, guard)
            return axis.join(np.minimum, low), axis.join(np.maximum, high)
        low = high = self.on(axis)
        if guard is not None:
            low, high = _surviving(low, guard.on(axis))
        if low.shape[-1] == 1:
            low = high = np.broadcast_to(low, (*low.shape[:2], len(axis)))
            return low, high
        return axis.reduce(np.minimum, low), axis.reduce(np.maximum, high)


def _rises(values: Array) -> bool:
    # Row by row: a comparison of all at once would need memory for all.
    rows = values.reshape(-1, values.shape[-1])
    return all(bool((row[1:] >= row[:-1]).all()) for row in rows)


def _surviving(values: Array, guard: Array) -> tuple[Array, Array]:
    """Values with the highest, and the lowest, where the guard does not hold."""
    if values.dtype.kind == "b":
        return values | ~guard, values & guard
    if values.dtype.kind == "f":
        return np.where(guard, values, np.inf), np.where(guard, values, -np.inf)
    info = np.iinfo(values.dtype)
    return np.where(guard, values, info.max), np.where(guard, values, info.min)


def three(value: Array) -> Array:
    """With leading axes of 1, so that there are three."""
    return value.reshape((1,) * (3 - value.ndim) + value.shape) if value.ndim < 3 else value
