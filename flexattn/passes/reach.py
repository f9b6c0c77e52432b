"""What gradients are made of: what they read of the score, and where captured ones go.

The backward pass has the weight p of a pair at hand, hence its modified score, log(p) + lse. A
derivative that can be had from that, like that of a soft-cap, needs no score kept alive beside
it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from flexattn.ir.nodes import BOOL, INTS, Apply, Const, Input, Load, Node, rebuild, walk
from flexattn.passes.simplify import simplify
from flexattn.passes.split import BOTH, variation

_SMALLEST_FACTOR = 0.01  # a smaller one magnifies the rounding of log(p) + lse too much


def reads_score(*roots: Node | None) -> bool:
    """Whether a root depends on the raw score."""
    return any(isinstance(node, Input) and node.name == "score" for node in walk(*roots))


def from_output(
    score: Node, roots: Mapping[str, Node], values: Collection[str]
) -> dict[str, Node] | None:
    """``roots`` in terms of ``output``, the modified score ``score``; None where impossible.

    Args:
        values: Names of the roots that are gradients of captures. A factor that may be 0 loses
            what it multiplies; the score's own gradient contains the factor, these may not.
    """
    known, sure = (_Inverse(score, certain).known for certain in (False, True))
    found = {
        name: simplify(_substitute(root, sure if name in values else known))
        for name, root in roots.items()
    }
    return None if reads_score(*found.values()) else found


def _substitute(root: Node, known: Mapping[Node, Node]) -> Node:
    done: dict[Node, Node] = {}
    for node in walk(root):
        done[node] = known.get(node) or rebuild(node, tuple(done[arg] for arg in node.args))
    return done[root]


class _Inverse:
    """Follows the outermost operations of a modified score back towards the raw score.

    Attributes:
        known: The value of each of their results, in terms of ``output``.
    """

    def __init__(self, score: Node, certain: bool) -> None:
        self.certain = certain  # leave out division by what may be zero
        self.varies = variation(score)
        self.reading: set[Node] = set()
        for node in walk(score):
            if reads_score(node) if isinstance(node, Input) else self.reading & set(node.args):
                self.reading.add(node)
        self.known = self._follow(score, Input("output", score.dtype))

    def _follow(self, node: Node, value: Node) -> dict[Node, Node]:
        if isinstance(node, Apply) and node.op == "sqrt":
            return {}  # its derivative would divide by a result near 0 and its rounding
        known = {node: value}
        scores = [arg for arg in node.args if arg in self.reading]
        match node:
            case Apply("where", (c, a, b)) if c not in self.reading:
                known |= self._side(a, b, value) | self._side(b, a, value)
            case Apply() if len(scores) == 1:
                inverse = self._inverse(node, value, *scores)
                if inverse is not None:
                    known |= self._follow(scores[0], inverse)
        return known

    def _side(self, side: Node, other: Node, value: Node) -> dict[Node, Node]:
        """One side of a ``where``: what is found holds where it is chosen, and is read there."""
        if side not in self.reading:
            return {}
        elsewhere = set(walk(other))
        found = self._follow(side, value).items()
        return {node: known for node, known in found if node not in elsewhere}

    def _inverse(self, node: Apply, value: Node, arg: Node) -> Node | None:
        """The argument ``arg`` of ``node``, which has that value."""
        if node.op == "neg":
            return Apply("neg", (value,), node.dtype)
        if len(node.args) != 2:
            return None
        first = node.args[0] is arg
        other = node.args[1 if first else 0]
        if any(isinstance(load, Load) and self.varies[load] == BOTH for load in walk(other)):
            return None  # to be loaded once more: the score costs less
        match node.op:
            case "add":
                return Apply("sub", (value, other), node.dtype)
            case "sub" if first:
                return Apply("add", (value, other), node.dtype)
            case "sub":
                return Apply("sub", (other, value), node.dtype)
            case "mul":
                inverse = self._reciprocal(other)
                return None if inverse is None else Apply("mul", (value, inverse), node.dtype)
        return None

    def _reciprocal(self, factor: Node) -> Node | None:
        one = Const(1.0, factor.dtype)
        inverse = Apply("div", (one, factor), factor.dtype)
        if isinstance(factor, Const):
            usable = _SMALLEST_FACTOR <= abs(factor.value) < math.inf
            return inverse if usable else None
        if self.certain or self.varies[factor] == BOTH:
            return None
        zero = Const(0.0, factor.dtype)
        nothing = Apply("eq", (factor, zero), BOOL)
        return Apply("where", (nothing, zero, inverse), factor.dtype)


def spread(indices: tuple[Node, ...]) -> str:
    """How the gradients of one load meet: ``CaptureGrad.way`` for these indices."""
    varies = variation(*indices)
    sides = frozenset[str]().union(*(varies[index] for index in indices))
    if sides != BOTH:
        return {frozenset(): "head", frozenset({"q"}): "query", frozenset({"kv"}): "key"}[sides]
    moving = [index for index in indices if varies[index]]
    alone = sorted(index.name for index in moving if isinstance(index, Input))
    if alone == ["kv_idx", "q_idx"] and len(moving) == 2:
        return "pair"
    return "distance" if _by_distance(indices) else "scatter"


def _by_distance(indices: tuple[Node, ...]) -> bool:
    """Whether q_idx and kv_idx count through their difference alone.

    Each whole number is seen as a * q_idx + b * kv_idx + something that meets the condition;
    so does the number itself where a + b = 0, and whatever is computed from such values alone.
    """
    form: dict[Node, tuple[int, int] | None] = {}

    def meets(node: Node) -> bool:
        found = form[node]
        return found is not None and sum(found) == 0

    for node in walk(*indices):
        if isinstance(node, Input):
            form[node] = {"q_idx": (1, 0), "kv_idx": (0, 1)}.get(node.name, (0, 0))
        elif all(meets(arg) and form[arg] == (0, 0) for arg in node.args):
            form[node] = (0, 0)
        else:
            form[node] = _linear(node, [form[arg] for arg in node.args])
            if form[node] is None and all(meets(arg) for arg in node.args):
                form[node] = (0, 0)
    return all(meets(index) for index in indices)


def _linear(node: Node, args: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Coefficients of q_idx and kv_idx where they survive the operation."""
    if not isinstance(node, Apply) or node.dtype not in INTS or None in args:
        return None
    known = [arg for arg in args if arg is not None]
    match node.op:
        case "add":
            return known[0][0] + known[1][0], known[0][1] + known[1][1]
        case "sub":
            return known[0][0] - known[1][0], known[0][1] - known[1][1]
        case "neg":
            return -known[0][0], -known[0][1]
        case "to_i32" | "to_i64" | "to_int" if node.args[0].dtype in INTS:
            return known[0]
        case "mul":
            for one, other in ((0, 1), (1, 0)):
                factor = node.args[one]
                if isinstance(factor, Const):
                    by = int(factor.value)
                    return by * known[other][0], by * known[other][1]
    return None
