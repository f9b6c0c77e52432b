"""Intervals of integers on every tile, where q and kv mix in no simpler form.

One row per operation: arrays (low, high) of the arguments to those of the result. A rule raises
UnknownNode where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Frame
from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.ir.nodes import BOOL, INTS, Apply, Node

Interval: TypeAlias = "tuple[Array, Array]"

_LIMIT = 1 << 61
"""Sums of two numbers below this do not overflow."""


def _size(a: Interval) -> int:
    return max(-int(a[0].min(initial=0)), int(a[1].max(initial=0)))


def _mul(a: Interval, b: Interval) -> Interval:
    if _size(a) * _size(b) >= _LIMIT:
        raise UnknownNode("a product that may overflow")
    corners = [x * y for x in a for y in b]
    return np.minimum.reduce(np.broadcast_arrays(*corners)), np.maximum.reduce(
        np.broadcast_arrays(*corners)
    )


def _abs(a: Interval) -> Interval:
    low, high = a
    return np.maximum(np.maximum(low, -high), 0), np.maximum(-low, high)


def _scalar(a: Interval) -> int:
    low, high = int(a[0].min()), int(a[1].max())
    if low != high or low <= 0:
        raise UnknownNode("a divisor that varies, or is not positive")
    return low


def _floordiv(a: Interval, b: Interval) -> Interval:
    by = _scalar(b)
    return a[0] // by, a[1] // by


def _mod(a: Interval, b: Interval) -> Interval:
    by = _scalar(b)
    once = a[0] // by == a[1] // by
    return np.where(once, a[0] % by, 0), np.where(once, a[1] % by, by - 1)


def _shr(a: Interval, b: Interval) -> Interval:
    count = int(b[0].min())
    if count != int(b[1].max()) or not 0 <= count < 64:
        raise UnknownNode("a shift count that varies")
    return a[0] >> count, a[1] >> count


def _bits(a: Interval, b: Interval) -> Interval:
    """Of two numbers that are not negative, & gives at most the smaller."""
    if int(a[0].min()) < 0 or int(b[0].min()) < 0:
        raise UnknownNode("bits of negative numbers")
    return np.zeros_like(a[0]), np.minimum(a[1], b[1])


def _where(c: Interval, a: Interval, b: Interval) -> Interval:
    """Either branch, unless the condition is decided."""
    yes, no = c[0] > 0, c[1] == 0
    low, high = np.minimum(a[0], b[0]), np.maximum(a[1], b[1])
    return (
        np.where(yes, a[0], np.where(no, b[0], low)),
        np.where(yes, a[1], np.where(no, b[1], high)),
    )


def _same(a: Interval) -> Interval:
    return a


RULES: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _mul,
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _abs,
    "minimum": lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])),
    "maximum": lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])),
    "floordiv": _floordiv,
    "mod": _mod,
    "shr": _shr,
    "and": _bits,
    "where": _where,
    "to_i64": _same,
    "to_int": _same,
    "detach": _same,
}

ORDER: dict[str, Callable[[Interval, Interval], tuple[Array, Array]]] = {
    # (may hold, may fail)
    "lt": lambda a, b: (a[0] < b[1], a[1] >= b[0]),
    "le": lambda a, b: (a[0] <= b[1], a[1] > b[0]),
    "gt": lambda a, b: (a[1] > b[0], a[0] <= b[1]),
    "ge": lambda a, b: (a[1] >= b[0], a[0] < b[1]),
    "eq": lambda a, b: (
        (a[0] <= b[1]) & (b[0] <= a[1]),
        (a[0] != a[1]) | (b[0] != b[1]) | (a[0] != b[0]),
    ),
    "ne": lambda a, b: (
        (a[0] != a[1]) | (b[0] != b[1]) | (a[0] != b[0]),
        (a[0] <= b[1]) & (b[0] <= a[1]),
    ),
}


class Bounds:
    """Intervals of nodes on the tiles of one frame; ``truth`` gives those of bools."""

    def __init__(self, facts: Facts, frame: Frame, truth: Callable[[Node], Truth]) -> None:
        self.facts, self.frame, self._truth = facts, frame, truth
        self._known: dict[Node, Interval] = {}

    def __call__(self, node: Node) -> Interval:
        """The interval of ``node``: arrays that broadcast over the tiles."""
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self._checked(self._find(node))
        return found

    def _find(self, node: Node) -> Interval:
        reads = self.facts.forms.reads(node)
        if node.dtype == BOOL:
            truth = self._truth(node)
            return (~truth.may_not).astype(np.int64), truth.may.astype(np.int64)
        if node.dtype not in INTS:
            raise UnknownNode("a float of both positions")
        if KV not in reads:
            line, axis, place = self.facts.row(node), self.frame.q, self.frame.rows
        elif Q not in reads:
            line, axis, place = self.facts.col(node), self.frame.kv, self.frame.cols
        elif isinstance(node, Apply) and node.op in RULES:
            return RULES[node.op](*map(self, node.args))
        else:
            raise UnknownNode(type(node).__name__)
        low, high = line.extremes(axis)
        return place(low.astype(np.int64)), place(high.astype(np.int64))

    def _checked(self, found: Interval) -> Interval:
        if _size(found) >= _LIMIT:
            raise UnknownNode("numbers that may overflow")
        return found

    def compare(self, op: str, a: Node, b: Node) -> Truth:
        """The truth of a comparison of integers."""
        may, may_not = ORDER[op](self(a), self(b))
        return Truth(may, may_not, ~may_not, ~may)
