"""Exact values per position, made once for a mask and reduced over tiles many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexattn.analysis.tiles.forms import KV, Forms, Q, Sum
from flexattn.analysis.tiles.values import Array, UnknownNode, Values
from flexattn.ir.nodes import Node

_SMALL = 1 << 58
"""Sums of a few terms below this do not overflow."""


class Facts:
    """Values of sub-expressions of one index, of the distance, and at chosen pairs.

    Args:
        lengths: (Q_LEN, KV_LEN).
        b: Values of b to cover, int64 [B].
        h: Values of h to cover, int64 [H].
        numbers: Values of the lifted numbers by name.
        captures: See `Values`.
    """

    def __init__(
        self,
        lengths: tuple[int, int],
        b: Array,
        h: Array,
        numbers: Mapping[str, Any],
        captures: Sequence[Array],
    ) -> None:
        self.lengths, self.b, self.h = lengths, b, h
        self.numbers, self.captures = numbers, captures
        heads = {"b": b.reshape(-1, 1, 1, 1), "h": h.reshape(1, -1, 1, 1), **numbers}
        q, kv = (np.arange(length) for length in lengths)
        self.grid = Values({**heads, Q: q.reshape(1, 1, -1, 1), KV: kv}, captures)
        self.forms = Forms(self.grid)
        far = np.arange(1 - lengths[1], lengths[0]).reshape(1, 1, -1, 1)
        self._diagonals = Values({**heads, Q: far, KV: np.zeros((), np.int64)}, captures)
        self._sums: dict[tuple[tuple[int, Node], ...], Array] = {}
        self.used: tuple[list[Array], list[Array]] = ([], [])

    def row(self, node: Node) -> Array:
        """A node that does not read kv_idx: [B, H, Q], 1 along what it does not depend on."""
        found = _four(self.grid(node))[..., 0]
        self._use(0, found)
        return found

    def col(self, node: Node) -> Array:
        """A node that does not read q_idx: [B, H, KV]."""
        found = _four(self.grid(node))[:, :, 0]
        self._use(1, found)
        return found

    def diagonal(self, node: Node) -> Array:
        """A node of the distance alone, at 1 - KV_LEN … Q_LEN - 1: [B, H, distances]."""
        return _four(self._diagonals(node))[..., 0]

    def sides(self, form: Sum) -> tuple[Array, Array]:
        """f and g of the form f(q) - g(kv): [B, H, Q] and [B, H, KV]."""
        return self._sum(form.q, 0, 1), self._sum(form.kv, 1, -1)

    def _sum(self, terms: tuple[tuple[int, Node], ...], axis: int, sign: int) -> Array:
        signed = tuple((sign * c, node) for c, node in terms)
        found = self._sums.get(signed)
        if found is None:
            for c, node in signed:
                value = self.row(node) if axis == 0 else self.col(node)
                most = max(abs(int(value.max())), abs(int(value.min())), 1)
                if most * abs(c) * len(signed) >= _SMALL:
                    raise UnknownNode("a sum that may overflow")
                term = value if c == 1 else c * value
                found = term if found is None else found + term
            if found is None:
                found = np.zeros((1, 1, 1), np.int64)
            self._sums[signed] = found
            self._use(axis, found)
        return found

    def _use(self, axis: int, values: Array) -> None:
        if values.shape[-1] > 1 and not any(values is seen for seen in self.used[axis]):
            self.used[axis].append(values)

    def at(self, node: Node, b: Array, h: Array, q: Array, kv: Array) -> Array:
        """The value at single pairs; the indices broadcast against one another."""
        inputs = {"b": self.b[b], "h": self.h[h], Q: q, KV: kv, **self.numbers}
        found = Values(inputs, self.captures)(node)
        return np.broadcast_to(found, np.broadcast_shapes(b.shape, h.shape, q.shape, kv.shape))


def _four(value: Array) -> Array:
    return value.reshape((1,) * (4 - value.ndim) + value.shape)
