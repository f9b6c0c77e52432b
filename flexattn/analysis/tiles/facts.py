"""What is known of a mask's sub-expressions, made once and used on tiles of every size."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from flexattn.analysis.tiles.distance import Distances
from flexattn.analysis.tiles.forms import KV, Forms, Q, Sum
from flexattn.analysis.tiles.frame import Axis
from flexattn.analysis.tiles.lines import Line, Places, three
from flexattn.analysis.tiles.rewrites import Signed
from flexattn.analysis.tiles.values import Array, Ranges, UnknownNode, Values
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Node, rewrite
from flexattn.ir.ranges import Range

_SMALL = 1 << 58
"""Sums of a few terms below this do not overflow."""

_POSITION = Input(Q, I64)


class Facts:
    """Lines of both indices, conditions on the distance, and values at chosen pairs.

    Args:
        rows: The queries to cover, (first, end).
        keys: How many keys there are.
        b: Values of b to cover, int64 [B].
        h: Values of h to cover, int64 [H].
        numbers: Values of the lifted numbers by name.
        captures: See `Values`.
    """

    def __init__(
        self,
        rows: tuple[int, int],
        keys: int,
        heads: tuple[Array, Array],
        numbers: Mapping[str, Any],
        captures: Sequence[Array],
    ) -> None:
        self.keys, self.heads = keys, heads
        self.numbers, self.captures = numbers, captures
        self.ranges = _input_ranges(heads, numbers, captures)
        self.kv = self._places(0, keys)
        zero, b, h = np.zeros((), np.int32), *_grid(heads, 3)
        inputs = {"b": b, "h": h, **numbers}
        origin = Ranges({**self.ranges, Q: (0, 0), KV: (0, 0)}, captures)
        self.forms = Forms(
            Values(inputs, captures, Ranges(self.ranges, captures)),
            Values({**inputs, Q: zero, KV: zero}, captures, origin),
        )
        self.plans: dict[Hashable, Any] = {}
        self._renamed: dict[Node, Node] = {}
        self._cover(rows)

    def _cover(self, rows: tuple[int, int]) -> None:
        self.rows = rows
        self.q = self.kv if rows == (0, self.keys) else self._places(*rows)
        self.made: dict[Hashable, Any] = {}
        self.used: tuple[dict[Line, None], dict[Line, None]] = ({}, {})

    def of_rows(self, rows: tuple[int, int]) -> Facts:
        """The facts of other queries; values of keys are shared."""
        other = copy.copy(self)
        other.kv = self.kv.again()
        other._cover(rows)
        return other

    def _places(self, start: int, stop: int) -> Places:
        return Places(start, stop, self.heads, self.numbers, self.captures, self.ranges)

    def row(self, node: Node) -> Line:
        """A node that does not read kv_idx."""
        return self._use(0, node)

    def col(self, node: Node) -> Line:
        """A node that does not read q_idx."""
        return self._use(1, node)

    def _use(self, axis: int, node: Node) -> Line:
        line = self.line(axis, node)
        self.used[axis].setdefault(line)
        return line

    def line(self, axis: int, node: Node) -> Line:
        """A node that does not read the other position."""
        if axis == 0:
            return self.q.line(node)
        renamed = self._renamed.get(node)
        if renamed is None:
            renamed = self._renamed[node] = rewrite(node, _as_query)
        return self.kv.line(renamed)

    def joint(self, axis: int, parts: Sequence[Signed], over: Axis) -> Line:
        """All of ``parts``, conditions on one index; it has values on the intervals ``over``."""
        line = self._use(axis, _all(parts))
        line.extremes(over)
        return line

    def single(self, node: Node) -> Array:
        """A node that reads no position: [B, H], or 1 along what it does not read."""
        return three(self.forms.values(node))[..., 0]

    def distances(self, parts: Sequence[Signed]) -> Distances:
        """All of ``parts``, conditions on the distance."""
        key = ("distances", *parts)
        if key not in self.made:
            self.made[key] = Distances(parts, self.forms, (*self.rows, self.keys), self._far)
        found: Distances = self.made[key]
        return found

    def _far(self) -> Values:
        """Values at every distance, ascending, as those of queries to key 0."""
        if "far" not in self.made:
            first, last = self.rows[0] - self.keys + 1, self.rows[1] - 1
            ranges = Ranges({**self.ranges, Q: (first, last), KV: (0, 0)}, self.captures)
            narrow = ranges.is_narrow(_POSITION)
            far = np.arange(first, last + 1, dtype=np.int32 if narrow else np.int64)
            b, h = _grid(self.heads, 3)
            inputs = {"b": b, "h": h, Q: far, KV: np.zeros((), far.dtype), **self.numbers}
            self.made["far"] = Values(inputs, self.captures, ranges)
        found: Values = self.made["far"]
        return found

    def sides(self, form: Sum) -> tuple[Line, Line]:
        """f and g of the form f(q) - g(kv)."""
        return self._sum(form.q, 0), self._sum(form.kv, 1)

    def _sum(self, terms: tuple[tuple[int, Node], ...], axis: int) -> Line:
        read = (self.row, self.col)[axis]
        total: Node | None = None
        for c, node in terms:
            c = c if axis == 0 else -c
            low, high = self._span(read(node))
            if max(abs(low), abs(high), 1) * abs(c) * len(terms) >= _SMALL:
                raise UnknownNode("a sum that may overflow")
            term = node if c == 1 else Apply("mul", (node, Const(c, I64)), I64)
            total = term if total is None else Apply("add", (total, term), I64)
        return read(Const(0, I64) if total is None else total)

    def _span(self, line: Line) -> tuple[int, int]:
        """Least and greatest value, or what the ranges of the inputs say of them."""
        assert line.node is not None
        found = line.places.ranges(line.node)
        if found is not None and max(abs(found[0]), abs(found[1])) < 1 << 40:
            return found
        key = ("span", line)
        if key not in self.made:
            values = line.values
            self.made[key] = int(values.min()), int(values.max())
        span: tuple[int, int] = self.made[key]
        return span

    def at(self, node: Node, b: Array, h: Array, q: Array, kv: Array) -> Array:
        """The value at single pairs; the indices broadcast against one another."""
        inputs = {"b": self.heads[0][b], "h": self.heads[1][h], Q: q, KV: kv, **self.numbers}
        ends = {Q: (0, max(self.rows[1], 1)), KV: (0, max(self.keys, 1))}
        found = Pairs(self, inputs, Ranges({**self.ranges, **ends}, self.captures), (b, h, q, kv))
        return np.broadcast_to(
            found(node), np.broadcast_shapes(b.shape, h.shape, q.shape, kv.shape)
        )


class Pairs(Values):
    """Values at single pairs, looked up where an expression of one index is known everywhere."""

    def __init__(
        self, facts: Facts, inputs: Mapping[str, Any], ranges: Ranges, at: tuple[Array, ...]
    ) -> None:
        super().__init__(inputs, facts.captures, ranges)
        self._facts, self._at = facts, at
        self._count = max(at[2].size, at[3].size)

    def _value(self, node: Node) -> Array:
        if node.args:
            reads = self._facts.forms.reads(node) & {Q, KV}
            if reads == {Q}:
                return self._look_up(
                    node, self._facts.line(0, node), self._at[2] - self._facts.rows[0]
                )
            if reads == {KV}:
                return self._look_up(node, self._facts.line(1, node), self._at[3])
        return super()._value(node)

    def _look_up(self, node: Node, line: Line, place: Array) -> Array:
        length = line.places.stop - line.places.start
        if not line.is_known and place.size * 2 < length:
            return super()._value(node)
        values = line.values
        b, h = (i if size > 1 else 0 for i, size in zip(self._at[:2], values.shape[:2]))
        if values.shape[:2] == (1, 1):
            return values[0, 0].take(place)
        return np.asarray(values[b, h, place])


def _grid(heads: tuple[Array, Array], ndim: int) -> tuple[Array, Array]:
    ones = (1,) * (ndim - 2)
    return heads[0].reshape(-1, 1, *ones), heads[1].reshape(1, -1, *ones)


def _as_query(node: Node) -> Node:
    return _POSITION if isinstance(node, Input) and node.name == KV else node


def _all(parts: Sequence[Signed]) -> Node:
    nodes = [node if holds else Apply("not", (node,), BOOL) for node, holds in parts]
    total = nodes[0]
    for node in nodes[1:]:
        total = Apply("and", (total, node), BOOL)
    return total


def _input_ranges(
    heads: tuple[Array, Array], numbers: Mapping[str, Any], captures: Sequence[Array]
) -> dict[str, Range]:
    found = {name: (int(values[0]), int(values[-1])) for name, values in zip(("b", "h"), heads)}
    found |= {name: (n, n) for name, n in numbers.items() if isinstance(n, int)}
    for c, table in enumerate(captures):
        found |= {f"size{c}_{d}": (size, size) for d, size in enumerate(table.shape)}
    return found
