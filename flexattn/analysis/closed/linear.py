"""Sums as coefficients of atoms, and expressions built small: what the solver computes with."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexattn.ir.nodes import BOOL, I64, INTS, Apply, Const, Node


@dataclass
class Linear:
    """``constant`` plus the sum of ``terms[atom] * atom``; atoms are nodes that are no sums."""

    terms: dict[Node, int] = field(default_factory=dict)
    constant: int = 0

    def add(self, other: Linear, times: int = 1) -> Linear:
        """This plus ``times`` the other."""
        terms = dict(self.terms)
        for atom, by in other.terms.items():
            terms[atom] = terms.get(atom, 0) + times * by
        kept = {atom: by for atom, by in terms.items() if by}
        return Linear(kept, self.constant + times * other.constant)

    def scale(self, by: int) -> Linear:
        """This ``by`` times."""
        return Linear().add(self, by)

    def split(self, chosen: set[Node]) -> tuple[Linear, Linear]:
        """The terms of the ``chosen`` atoms, and the rest with the constant."""
        own = {atom: by for atom, by in self.terms.items() if atom in chosen}
        rest = {atom: by for atom, by in self.terms.items() if atom not in chosen}
        return Linear(own), Linear(rest, self.constant)

    def node(self) -> Node:
        """This as an expression: what is added first, then what is taken away."""
        found: Node | None = None
        ordered = sorted(self.terms.items(), key=lambda item: item[1] < 0)
        for atom, by in ordered:
            if found is None:
                found = times(by, atom)
            else:
                op = "add" if by > 0 else "sub"
                found = Apply(op, (found, times(abs(by), atom)), I64)
        if found is None:
            return Const(self.constant, I64)
        if not self.constant:
            return found
        op = "add" if self.constant > 0 else "sub"
        return Apply(op, (found, Const(abs(self.constant), I64)), I64)


def linear(node: Node) -> Linear:
    """The integer ``node`` as a sum."""
    match node:
        case Const(value):
            return Linear(constant=int(value))
        case Apply("add", (a, b)):
            return linear(a).add(linear(b))
        case Apply("sub", (a, b)):
            return linear(a).add(linear(b), -1)
        case Apply("neg", (a,)):
            return linear(a).scale(-1)
        case Apply("mul", (Const(value), a)) | Apply("mul", (a, Const(value))):
            return linear(a).scale(int(value))
        case Apply("shl", (a, Const(value))) if 0 <= value < 31:
            return linear(a).scale(1 << int(value))
        case Apply("to_i64" | "to_int" | "detach", (a,)) if a.dtype in INTS:
            return linear(a)
    return Linear({node: 1})


def times(by: int, node: Node) -> Node:
    """``by * node``."""
    if by == 1:
        return node
    if by == -1:
        return Apply("neg", (node,), I64)
    return Apply("mul", (node, Const(by, I64)), I64)


def plus(a: Node, b: Node | int) -> Node:
    """``a + b``, as a sum in normal form."""
    return linear(a).add(Linear(constant=b) if isinstance(b, int) else linear(b)).node()


def minus(a: Node, b: Node) -> Node:
    """``a - b``, as a sum in normal form."""
    return linear(a).add(linear(b), -1).node()


def product(a: Node, b: Node) -> Node:
    """``a * b``."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Const):
            return linear(other).scale(int(one.value)).node()
    return Apply("mul", (a, b), I64)


def quotient(a: Node, b: Node, *, up: bool = False) -> Node:
    """``a / b`` rounded down, or up; b is positive."""
    if isinstance(b, Const) and b.value == 1:
        return a
    if not up:
        if isinstance(a, Const) and isinstance(b, Const):
            return Const(int(a.value) // int(b.value), I64)
        return Apply("floordiv", (a, b), I64)
    return linear(quotient(linear(a).scale(-1).node(), b)).scale(-1).node()


def least(a: Node, b: Node) -> Node:
    """The lesser of two."""
    return a if a is b else _extreme("minimum", a, b)


def greatest(a: Node, b: Node) -> Node:
    """The greater of two."""
    return a if a is b else _extreme("maximum", a, b)


def _extreme(op: str, a: Node, b: Node) -> Node:
    gap = linear(a).add(linear(b), -1)
    if not gap.terms:
        return a if (gap.constant <= 0) == (op == "minimum") else b
    # An extreme of an extreme keeps each part once.
    inner = a.args if isinstance(a, Apply) and a.op == op else (a,)
    if b in inner:
        return a
    return Apply(op, (a, b), I64)


def both(a: Node | None, b: Node | None) -> Node | None:
    """Two conditions together; None is true."""
    if a is None or b is None:
        return b if a is None else a
    return a if a is b else Apply("and", (a, b), BOOL)
