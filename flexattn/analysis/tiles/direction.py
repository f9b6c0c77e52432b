"""Which way an expression of one index goes as the index grows, read off its structure."""

from __future__ import annotations

from collections.abc import Callable

from flexattn.analysis.tiles.values import Ranges
from flexattn.ir.nodes import BOOL, FLOATS, INTS, Apply, Const, Input, Load, Node

Way = int | None
"""1 never falls, -1 never rises, 0 stays, None may do anything."""

_POSITIONS = frozenset({"q_idx", "kv_idx"})


def _same(a: Way, b: Way) -> Way:
    """Of what grows with both."""
    if a is None or b is None or a * b < 0:
        return None
    return a or b


def _opposite(a: Way) -> Way:
    return None if a is None else -a


def _against(a: Way, b: Way) -> Way:
    """Of what grows with the first and shrinks with the second."""
    return _same(a, _opposite(b))


RULES: dict[str, Callable[..., Way]] = {
    "add": _same,
    "sub": _against,
    "neg": _opposite,
    "minimum": _same,
    "maximum": _same,
    "lt": lambda a, b: _against(b, a),
    "le": lambda a, b: _against(b, a),
    "gt": _against,
    "ge": _against,
    "to_i64": lambda a: a,
    "to_int": lambda a: a,
    "detach": lambda a: a,
}
LOGIC: dict[str, Callable[..., Way]] = {"and": _same, "or": _same, "not": _opposite}
BY_A_NUMBER = frozenset({"mul", "floordiv", "truncdiv", "shr", "shl"})


class Directions:
    """Ways of nodes whose inputs lie in ``ranges``."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._known: dict[Node, Way] = {}

    def __call__(self, node: Node) -> Way:
        if node not in self._known:
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: Node) -> Way:
        match node:
            case Input(name):
                return int(name in _POSITIONS)
            case Const():
                return 0
            case Load():
                return 0 if all(self(arg) == 0 for arg in node.args) else None
            case Apply(op, args):
                ways = [self(arg) for arg in args]
                if not any(way != 0 for way in ways):
                    return 0
                if args[0].dtype in FLOATS or (node.dtype in INTS and self._ranges.may_wrap(node)):
                    return None
                if node.dtype == BOOL and op in LOGIC:
                    return LOGIC[op](*ways)
                if op in BY_A_NUMBER:
                    return self._by_number(op, args[0], args[1])
                return RULES[op](*ways) if op in RULES else None
        return None

    def _by_number(self, op: str, value: Node, number: Node) -> Way:
        if self(number) != 0:
            return self._by_number(op, number, value) if op == "mul" and self(value) == 0 else None
        found = self._ranges(number)
        if found is None:
            return None
        low, high = found
        if op == "mul":
            return self(value) if low >= 0 else _opposite(self(value)) if high <= 0 else None
        if op in ("shl", "shr"):
            return self(value) if low >= 0 and high < 64 else None
        return self(value) if low > 0 else None
