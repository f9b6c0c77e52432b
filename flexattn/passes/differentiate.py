"""Derive the gradient of a graph, symbolically, one rule row per operation.

Adjoints flow from the root to its inputs, each with the condition under which it is anything
at all: below ``where(c, a, b)`` the adjoint of ``a`` exists only where ``c``. The condition
comes last, outside the chain of factors, so an infinite slope on the side not taken gives an
exact 0 and not 0 * inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from flexattn.ir.nodes import BOOL, FLOATS, Apply, Const, Load, Node, walk
from flexattn.passes.derivatives import RULES, Part


@dataclass(frozen=True)
class Flow:
    """An adjoint, exactly 0 wherever one of ``alive`` is false."""

    value: Node
    alive: tuple[Node, ...] = ()

    def masked(self) -> Node:
        if not self.alive:
            return self.value
        zero = Const(0.0, self.value.dtype)
        return Apply("where", (self.condition(), self.value, zero), self.value.dtype)

    def condition(self) -> Node:
        return reduce(lambda a, b: Apply("and", (a, b), BOOL), self.alive)


def gradients(root: Node, wrt: Sequence[Node], grad: Node) -> tuple[Node | None, ...]:
    """The gradient at each of ``wrt`` when ``grad`` arrives at ``root``; None if independent."""
    wanted = frozenset(wrt)
    order = list(walk(root))
    active: set[Node] = set()
    for node in order:
        if node in wanted or _passes_on(node, active):
            active.add(node)
    arriving: dict[Node, list[Flow]] = {root: [Flow(grad)]}
    found: dict[Node, Node] = {}
    for node in reversed(order):
        if node not in active or node not in arriving:
            continue
        flow = _meet(arriving.pop(node))
        if node in wanted:
            found[node] = flow.masked()
        elif isinstance(node, Apply):
            for arg, part in zip(node.args, _parts(node, flow.value), strict=True):
                if arg in active and part is not None:
                    arriving.setdefault(arg, []).append(_extend(flow, part))
    return tuple(found.get(node) for node in wrt)


def derivative(root: Node, wrt: Node) -> Node:
    """d ``root`` / d ``wrt``; the constant 0 if independent."""
    (found,) = gradients(root, (wrt,), Const(1.0, root.dtype))
    return Const(0.0, root.dtype) if found is None else found


def score_loads(root: Node, captures: frozenset[int]) -> tuple[Load, ...]:
    """The loads below ``root`` from floating tensors among ``captures``, in order."""
    return tuple(
        node
        for node in walk(root)
        if isinstance(node, Load) and node.dtype in FLOATS and node.capture in captures
    )


def _passes_on(node: Node, active: set[Node]) -> bool:
    if not isinstance(node, Apply) or node.dtype not in FLOATS or RULES[node.op] is None:
        return False
    return any(arg in active for arg in node.args)


def _parts(node: Apply, grad: Node) -> Sequence[Part]:
    rule = RULES[node.op]
    assert rule is not None  # such nodes are not active
    return rule(node, grad)


def _extend(flow: Flow, part: Node | tuple[Node, Node]) -> Flow:
    if isinstance(part, tuple):
        value, condition = part
        return Flow(value, (*flow.alive, condition))
    return Flow(part, flow.alive)


def _meet(flows: list[Flow]) -> Flow:
    """The sum of what arrives over several ways."""
    while len(flows) > 1:
        b, a = flows.pop(), flows.pop()
        flows.append(_choice(a, b) or _sum(a, b))
    return flows[0]


def _choice(a: Flow, b: Flow) -> Flow | None:
    """Two ways that exclude each other: the sides of one ``where``."""
    if not a.alive or not b.alive or a.alive[:-1] != b.alive[:-1]:
        return None
    condition, other = a.alive[-1], b.alive[-1]
    if other is Apply("not", (condition,), BOOL):
        first, second = a, b
    elif condition is Apply("not", (other,), BOOL):
        first, second, condition = b, a, other
    else:
        return None
    if first.value is second.value:
        return Flow(first.value, a.alive[:-1])
    value = Apply("where", (condition, first.value, second.value), a.value.dtype)
    return Flow(value, a.alive[:-1])


def _sum(a: Flow, b: Flow) -> Flow:
    value = Apply("add", (a.masked(), b.masked()), a.value.dtype)
    if not a.alive or not b.alive:
        return Flow(value)
    return Flow(value, (Apply("or", (a.condition(), b.condition()), BOOL),))
