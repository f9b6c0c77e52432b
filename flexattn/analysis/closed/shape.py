"""The shape of a form's ranges, read off their expressions: do ends rise, do neighbours touch.

Ends that never fall from one position to the next are known for a block of positions from its
first and its last. If each range also holds its own position, or reaches where the next begins,
the ranges of a block leave no gap between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from flexattn.analysis.closed.linear import Linear, linear, minus
from flexattn.analysis.closed.pieces import BEGIN, END, ClosedForm, Positive, StartTable
from flexattn.ir.nodes import I64, Apply, Const, Input, Load, Node, walk

Slope: TypeAlias = "tuple[int, frozenset[int]] | None"
"""+1 does not fall, -1 does not rise, 0 constant, given that some captures ascend; None unknown."""


@dataclass(frozen=True)
class Shape:
    """The shape of one piece.

    Attributes:
        rising: Captures that must ascend for both ends never to fall; None if not shown.
        touching: What must not be negative for ranges to hold their own positions; None if not
            shown. Reads numbers, b, h and captures.
        uniform: Whether that reads numbers alone.
    """

    rising: frozenset[int] | None
    touching: tuple[Node, ...] | None
    uniform: bool = True


@lru_cache(maxsize=512)
def shapes_of(form: ClosedForm, captures: int) -> tuple[Shape, ...]:
    """The shape of each piece of ``form``, of a program with so many ``captures``."""
    finder = _Finder(form, captures)
    return tuple(finder.shape(piece.low, piece.high) for piece in form.pieces)


class _Finder:
    def __init__(self, form: ClosedForm, captures: int) -> None:
        self.given = form.given
        self.positive = {r.node for r in form.requires if isinstance(r, Positive)}
        self.starts = {
            captures + i: table.capture
            for i, table in enumerate(form.tables)
            if isinstance(table, StartTable)
        }

    def shape(self, low: Node, high: Node) -> Shape:
        ends = [self.slope(low), self.slope(high)]
        rising = None
        if all(end is not None and end[0] >= 0 for end in ends):
            rising = frozenset[int]().union(*(end[1] for end in ends if end is not None))
        below, above = self.below(low), self.above(high)
        touching = None if below is None or above is None else (*below, *above)
        return Shape(rising, touching, all(map(_is_uniform, walk(*(touching or ())))))

    def reads_given(self, node: Node) -> bool:
        return any(isinstance(n, Input) and n.name == self.given for n in walk(node))

    # Slopes -----------------------------------------------------------------------------------

    def slope(self, node: Node) -> Slope:
        """How ``node`` moves as the given index grows."""
        if not self.reads_given(node):
            return 0, frozenset()
        match node:
            case Input():
                return 1, frozenset()
            case Load(capture, (*leading, last)) if not any(map(self.reads_given, leading)):
                inner = self.slope(last)
                own = frozenset() if capture in self.starts else frozenset({capture})
                return None if inner is None else (inner[0], inner[1] | own)
            case Apply(op, args) if op in SLOPES:
                return SLOPES[op](*map(self.slope, args))
            case Apply("where", (c, a, b)):
                return self._slope_of_choice(c, a, b)
            case Apply("mul", (a, b)):
                factor, other = (b, a) if self.reads_given(a) else (a, b)
                if isinstance(factor, Const):
                    return _times(1 if factor.value > 0 else -1, self.slope(other))
                return self.slope(other) if factor in self.positive else None
            case Apply("floordiv" | "shr", (a, by)) if not self.reads_given(by):
                return self.slope(a)
        return None

    def _slope_of_choice(self, c: Node, a: Node, b: Node) -> Slope:
        """Of ``where(c, a, b)`` cut to [BEGIN, length): one of the index, or up to a position."""
        if not self.reads_given(c):
            return _same_way(self.slope(a), self.slope(b))
        match c:
            case Apply("lt", (place, end)) if place is Input(self.given, I64):
                if not self.reads_given(end) and (a is BEGIN or b is END):
                    return _same_way((1, frozenset()), self.slope(b if a is BEGIN else a))
        return None

    # Ranges that hold their own position ------------------------------------------------------

    def below(self, low: Node) -> tuple[Node, ...] | None:
        """What must not be negative for ``low <= x``, of the given index x."""
        if low is BEGIN:
            return ()
        match low:
            case Apply("maximum", (a, b)):
                return _all(self.below(a), self.below(b))
            case Apply("minimum", (a, b)):
                return _first(self.below(a), self.below(b))
            case Load(capture, (*leading, index)) if capture in self.starts:
                own = self._own_value(self.starts[capture], leading, index)
                return () if own is not None and own <= 0 else None
        return self._from_sum(linear(low), -1)

    def above(self, high: Node) -> tuple[Node, ...] | None:
        """What must not be negative for ``x < high``."""
        if high is END:
            return ()
        match high:
            case Apply("minimum", (a, b)):
                return _all(self.above(a), self.above(b))
            case Apply("maximum", (a, b)):
                return _first(self.above(a), self.above(b))
            case Load(capture, (*leading, index)) if capture in self.starts:
                own = self._own_value(self.starts[capture], leading, index)
                return () if own is not None and own >= 1 else None
        return self._from_sum(linear(high).add(Linear(constant=-1)), 1)

    def _own_value(self, capture: int, leading: list[Node], index: Node) -> int | None:
        """``c`` where ``index`` looks up the value at x plus c, of the table's own values."""
        match index:
            case Apply("minimum", (Apply("maximum", (place, Const(0))), _)):
                form = linear(place)
                own = Load(capture, (*leading, Input(self.given, I64)), I64)
                bases = [n for n in form.terms if isinstance(n, Input) and n.name[0] == "n"]
                wanted: dict[Node, int] = {own: 1} | dict.fromkeys(bases, -1)
                if form.terms == wanted and len(bases) == 1:
                    return form.constant
        return None

    def _from_sum(self, end: Linear, sign: int) -> tuple[Node, ...] | None:
        """What must not be negative for sign * (end - x) >= 0."""
        own = [atom for atom in end.terms if self.reads_given(atom)]
        if len(own) != 1 or end.terms[own[0]] != 1:
            return None
        _, rest = end.split(set(own))
        if own[0] is Input(self.given, I64):
            return (rest.scale(sign).node(),)
        return self._from_chunk(own[0], rest, sign)

    def _from_chunk(self, atom: Node, rest: Linear, sign: int) -> tuple[Node, ...] | None:
        """For ``((x + shift) // size + j) * size``: at most x + shift + j size, and less above."""
        match atom:
            case Apply("mul", (a, by)):
                quotient = linear(a)
        if not isinstance(atom, Apply) or atom.op != "mul" or len(quotient.terms) != 1:
            return None
        ((inner, factor),) = quotient.terms.items()
        if factor != 1 or not isinstance(inner, Apply) or inner.op != "floordiv":
            return None
        place, size = linear(inner.args[0]), inner.args[1]
        x = Input(self.given, I64)
        if place.terms.get(x) != 1 or len(place.terms) > 1 + sum(
            isinstance(a, Input) and a.name[0] == "n" for a in place.terms
        ):
            return None
        shift = place.add(Linear({x: 1}), -1)
        # sign -1: (x + shift) // size * size <= x + shift; sign 1: with j >= 1, more than it.
        offset = rest.add(shift) if sign < 0 else rest.add(shift).add(Linear(constant=1))
        if (quotient.constant > 0) if sign < 0 else (quotient.constant < 1):
            return None
        return minus(by, size), minus(size, by), offset.scale(sign).node()


def _is_uniform(node: Node) -> bool:
    return not isinstance(node, Load) and not (isinstance(node, Input) and node.name[0] != "n")


def _times(sign: int, slope: Slope) -> Slope:
    return None if slope is None else (sign * slope[0], slope[1])


def _same_way(a: Slope, b: Slope) -> Slope:
    if a is None or b is None or a[0] * b[0] < 0:
        return None
    return a[0] or b[0], a[1] | b[1]


SLOPES: dict[str, Callable[..., Slope]] = {
    "add": _same_way,
    "sub": lambda a, b: _same_way(a, _times(-1, b)),
    "neg": lambda a: _times(-1, a),
    "minimum": _same_way,
    "maximum": _same_way,
    "to_i64": lambda a: a,
    "to_int": lambda a: a,
    "detach": lambda a: a,
}


def _all(a: tuple[Node, ...] | None, b: tuple[Node, ...] | None) -> tuple[Node, ...] | None:
    return None if a is None or b is None else (*a, *b)


def _first(a: tuple[Node, ...] | None, b: tuple[Node, ...] | None) -> tuple[Node, ...] | None:
    """Either suffices: the one that needs less."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b, key=len)
