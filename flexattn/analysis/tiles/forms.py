"""What a node depends on, and in which form: one index, the distance q - kv, or f(q) + g(kv)."""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.analysis.tiles.values import UnknownNode, Values
from flexattn.ir.nodes import INTS, Apply, Input, Node

Q, KV = "q_idx", "kv_idx"
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


@dataclass(frozen=True)
class Linear:
    """q * q_idx + kv * kv_idx + something that is the same for all pairs, without overflow.

    Attributes:
        most: No absolute value of what is the same for all pairs is greater.
    """

    q: int
    kv: int
    most: int = 0

    @property
    def of_distance(self) -> bool:
        return self.q == -self.kv


@dataclass(frozen=True)
class Sum:
    """The sum of ``scale * node`` over two lists: of q (b, h) alone, and of kv (b, h) alone."""

    q: tuple[tuple[int, Node], ...] = ()
    kv: tuple[tuple[int, Node], ...] = ()

    def scale(self, by: int) -> Sum:
        return Sum(*(tuple((by * c, n) for c, n in part) for part in (self.q, self.kv)))

    def add(self, other: Sum) -> Sum:
        return Sum(self.q + other.q, self.kv + other.kv)


class Forms:
    """The forms of the nodes of one graph.

    Args:
        values: Of nodes that read no position.
        origin: Of linear nodes, where both positions are 0.
    """

    def __init__(self, values: Values, origin: Values) -> None:
        self.values, self.origin = values, origin
        self._reads: dict[Node, frozenset[str]] = {}
        self._linear: dict[Node, Linear | None] = {}
        self._distance: dict[Node, bool] = {}

    def reads(self, node: Node) -> frozenset[str]:
        """Which of b, h, q_idx and kv_idx the value depends on."""
        found = self._reads.get(node)
        if found is None:
            names = {node.name} & {"b", "h", Q, KV} if isinstance(node, Input) else set()
            found = frozenset(names).union(*map(self.reads, node.args))
            self._reads[node] = found
        return found

    def linear(self, node: Node) -> Linear | None:
        """The node as a linear function of the two positions, with small coefficients."""
        if node not in self._linear:
            self._linear[node] = self._find_linear(node)
        return self._linear[node]

    def _find_linear(self, node: Node) -> Linear | None:
        if not self.reads(node) & {Q, KV}:
            most = self._most(node)
            return None if most is None else _small(Linear(0, 0, most))
        match node:
            case Input(name):
                return Linear(int(name == Q), int(name == KV))
            case Apply("add" | "sub" as op, (a, b), dtype) if dtype in INTS:
                x, y = self.linear(a), self.linear(b)
                sign = 1 if op == "add" else -1
                if x is None or y is None:
                    return None
                return _small(Linear(x.q + sign * y.q, x.kv + sign * y.kv, x.most + y.most))
            case Apply("neg", (a,), dtype) if dtype in INTS:
                x = self.linear(a)
                return x and Linear(-x.q, -x.kv, x.most)
            case Apply("mul", (a, b), dtype) if dtype in INTS:
                for factor, other in ((a, b), (b, a)):
                    by, x = self._number(factor), self.linear(other)
                    if by is not None and x is not None:
                        return _small(Linear(by * x.q, by * x.kv, abs(by) * x.most))
            case Apply("to_i64" | "detach", (a,)):
                return self.linear(a)
        return None

    def _most(self, node: Node) -> int | None:
        """The greatest absolute value of an integer that reads no position."""
        if node.dtype not in INTS:
            return None
        try:
            value = self.values(node)
        except UnknownNode:
            return None
        return max(-int(value.min()), int(value.max()), 0)

    def _number(self, node: Node) -> int | None:
        """The one value of a node that reads no index."""
        if self.reads(node) or node.dtype not in INTS:
            return None
        try:
            return int(self.values(node))
        except UnknownNode:
            return None

    def of_distance(self, node: Node) -> bool:
        """Whether the value depends on the positions through q_idx - kv_idx alone."""
        if node not in self._distance:
            self._distance[node] = self._find_distance(node)
        return self._distance[node]

    def _find_distance(self, node: Node) -> bool:
        if not self.reads(node) & {Q, KV}:
            return True
        found = self.linear(node)
        if found is not None:
            return found.of_distance
        match node:
            case Input():
                return False
            case Apply(op, (a, b)) if op in _COMPARISONS and a.dtype in INTS:
                x, y = self.linear(a), self.linear(b)
                if x is not None and y is not None:
                    return Linear(x.q - y.q, x.kv - y.kv).of_distance
        return all(map(self.of_distance, node.args))

    def separate(self, node: Node) -> Sum | None:
        """The node as f(q) + g(kv), for integers."""
        reads = self.reads(node)
        if node.dtype not in INTS:
            return None
        if KV not in reads:
            return Sum(q=((1, node),))
        if Q not in reads:
            return Sum(kv=((1, node),))
        match node:
            case Apply("add" | "sub" as op, (a, b)):
                x, y = self.separate(a), self.separate(b)
                if x is None or y is None:
                    return None
                return x.add(y if op == "add" else y.scale(-1))
            case Apply("neg", (a,)):
                x = self.separate(a)
                return None if x is None else x.scale(-1)
            case Apply("mul", (a, b)):
                for factor, other in ((a, b), (b, a)):
                    by, x = self._number(factor), self.separate(other)
                    if by is not None and x is not None and abs(by) < 1 << 31:
                        return x.scale(by)
            case Apply("to_i64" | "detach", (a,)):
                return self.separate(a)
        return None


def _small(found: Linear) -> Linear | None:
    """``found`` if 64 bits hold it at positions below 2**40."""
    if max(abs(found.q), abs(found.kv)) >= 1 << 20 or found.most >= 1 << 60:
        return None
    return found
