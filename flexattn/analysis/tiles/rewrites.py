"""Conditions as conjunctions: one row per operation that can be taken apart.

A row gives for ``op(args)`` the equal condition in terms of and, or and not, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from flexattn.ir.nodes import BOOL, Apply, Node

Signed: TypeAlias = tuple[Node, bool]
"""A condition, and whether it is to hold or to fail."""

OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


def _both(a: Node, b: Node) -> Node:
    return Apply("and", (a, b), BOOL)


def _either(a: Node, b: Node) -> Node:
    return Apply("or", (a, b), BOOL)


def _not(a: Node) -> Node:
    return Apply("not", (a,), BOOL)


def _choose(c: Node, a: Node, b: Node) -> Node:
    return _either(_both(c, a), _both(_not(c), b))


def _where(node: Apply) -> Node | None:
    return _choose(*node.args) if node.dtype == BOOL else None


def _differ(node: Apply) -> Node | None:
    a, b = node.args
    return _either(_both(a, _not(b)), _both(_not(a), b)) if a.dtype == BOOL else None


def _agree(node: Apply) -> Node | None:
    a, b = node.args
    return _either(_both(a, b), _both(_not(a), _not(b))) if a.dtype == BOOL else None


def _order(node: Apply) -> Node | None:
    for side in (0, 1):
        inner, other = node.args[side], node.args[1 - side]
        op = node.op if side == 0 else MIRRORED[node.op]
        if isinstance(inner, Apply) and inner.dtype == "i64":
            found = _order_of(op, inner, other)
            if found is not None:
                return found
    return None


def _order_of(op: str, inner: Apply, other: Node) -> Node | None:
    """``inner op other`` without the abs, minimum, maximum or where that ``inner`` is."""

    def compare(x: Node) -> Node:
        return Apply(op, (x, other), BOOL)

    upper = op in ("lt", "le")
    match inner:
        case Apply("abs", (x,)):
            parts = compare(x), compare(Apply("neg", (x,), x.dtype))
            return (_both if upper else _either)(*parts)
        case Apply("maximum", (a, b)):
            return (_both if upper else _either)(compare(a), compare(b))
        case Apply("minimum", (a, b)):
            return (_either if upper else _both)(compare(a), compare(b))
        case Apply("where", (c, a, b)):
            return _choose(c, compare(a), compare(b))
    return None


def _truth_of(node: Apply) -> Node | None:
    return node.args[0] if node.args[0].dtype == BOOL else None


RULES: dict[str, Callable[[Apply], Node | None]] = {
    "where": _where,
    "xor": _differ,
    "ne": _differ,
    "eq": _agree,
    "lt": _order,
    "le": _order,
    "gt": _order,
    "ge": _order,
    "to_bool": _truth_of,
    "detach": _truth_of,
}


def conjuncts(root: Node, holds: bool, whole: Callable[[Node], bool]) -> Iterator[Signed]:
    """The conditions that hold together exactly where ``root`` is ``holds``.

    Args:
        whole: Nodes that are known exactly: not to be taken apart into alternatives.
    """
    waiting = [(root, holds)]
    seen = set()
    while waiting:
        item = node, holds = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        match node:
            case Apply("and", (a, b)) if node.dtype == BOOL and holds:
                waiting += [(b, True), (a, True)]
            case Apply("or", (a, b)) if node.dtype == BOOL and not holds:
                waiting += [(b, False), (a, False)]
            case Apply("not", (a,)) if node.dtype == BOOL:
                waiting.append((a, not holds))
            case Apply(op) if op in RULES and (inner := RULES[op](node)) is not None:
                # What is known exactly is still better in parts that hold together.
                if whole(node) and is_disjunction(inner, holds):
                    yield item
                else:
                    waiting.append((inner, holds))
            case _:
                yield item


def is_disjunction(node: Node, holds: bool) -> bool:
    """Whether ``node`` being ``holds`` is an or of conditions."""
    match node:
        case Apply("or", _, dtype) if dtype == BOOL:
            return holds
        case Apply("and", _, dtype) if dtype == BOOL:
            return not holds
    return False
