"""Fold log2(e) into the modified score, for a softmax that takes powers of 2.

Most mods have a place for the factor that costs nothing per pair: a constant, a captured number,
a value of the query or the key alone. ``score - slope * distance`` becomes
``score_log2 - (slope * log2(e)) * distance``; where there is no such place the result is
multiplied once.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from flexattn.ir.nodes import BOOL, F32, Apply, Const, Input, Load, Node
from flexattn.passes.split import BOTH, variation

LOG2_E = math.log2(math.e)


def in_base_2(root: Node) -> Node:
    """log2(e) times ``root`` (a float), in terms of ``score`` and ``score_log2``."""
    varies = variation(root)

    @cache
    def cost(node: Node) -> int:
        """Multiplications per pair that `scaled` adds."""
        return 0 if varies[node] != BOTH or _is_score(node) else min(1, inside(node))

    @cache
    def inside(node: Node) -> int:
        """The same if the factor goes into the arguments; 2 where it cannot."""
        match node:
            case Apply("add" | "sub" | "minimum" | "maximum", (a, b)):
                return cost(a) + cost(b)
            case Apply("where", (_, a, b)):
                return cost(a) + cost(b)
            case Apply("mul", (a, b)):
                return min(cost(a), cost(b))
            case Apply("neg", (a,)) | Apply("div", (a, _)):
                return cost(a)
        return 2

    @cache
    def scaled(node: Node, *, factor: bool = False) -> Node:
        """``node`` times log2(e); ``factor``: as part of a product."""
        if _is_score(node):
            return Input("score_log2", node.dtype)
        if isinstance(node, Apply) and varies[node] == BOTH:
            # A sum takes the factor into one of its terms for nothing: a fused multiply-add.
            limit = 1 if node.op in ("add", "sub", "where") else 0
            if inside(node) <= limit:
                return pushed(node)
        return _multiplied(node, finite=not factor and varies[node] != BOTH)

    def pushed(node: Apply) -> Node:
        args = list(node.args)
        match node.op:
            case "where":
                args[1:] = [scaled(arg) for arg in args[1:]]
            case "mul":
                place = min((0, 1), key=lambda i: (cost(args[i]), _rank(args[i])))
                args[place] = scaled(args[place], factor=True)
            case "div":
                args[0] = scaled(args[0])
            case _:
                args = [scaled(arg) for arg in args]
        return Apply(node.op, args, node.dtype)

    return scaled(root)


def _is_score(node: Node) -> bool:
    return isinstance(node, Input) and node.name == "score"


def _rank(node: Node) -> int:
    return 0 if _is_score(node) else 1 if isinstance(node, Const) else 2


def _multiplied(node: Node, *, finite: bool) -> Node:
    """The product itself; ``finite`` keeps what is finite so, for scores like ``finfo.min``."""
    kind = np.float32 if node.dtype == F32 else np.float64
    largest = float(np.finfo(kind).max)
    if isinstance(node, Const):
        value = float(kind(node.value))
        scaled = value * LOG2_E
        if math.isfinite(value):
            scaled = min(max(scaled, -largest), largest)
        return Const(float(kind(scaled)), node.dtype)
    product = Apply("mul", (node, Const(float(kind(LOG2_E)), node.dtype)), node.dtype)
    if not finite and not isinstance(node, Load):
        return product
    lowest = Const(-largest, node.dtype)
    infinite = Apply("eq", (node, Const(-math.inf, node.dtype)), BOOL)
    bounded = Apply("maximum", (product, lowest), node.dtype)
    return Apply("where", (infinite, node, bounded), node.dtype)
