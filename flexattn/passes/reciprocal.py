"""Turn division of a score into multiplication, where many pairs share the divisor.

A vector division takes as long as a dozen multiplications, and ``tanh(score / cap)`` divides
once per pair. The product with the inverse is one rounding off the quotient, which a score,
itself a rounded dot product, does not show; what is computed from indices alone stays exact,
because ``(q - k) / w`` may be compared with 1.
"""

from __future__ import annotations

from flexattn.ir.nodes import F32, Apply, Const, Input, Node, rewrite
from flexattn.passes.fold import fold
from flexattn.passes.split import BOTH, VARIES

_SCORES = frozenset({"score", "grad"})


def multiply_by_inverses(root: Node) -> Node:
    """``x / d`` as ``x * (1 / d)`` in float32, where x comes of a score and d is hoisted."""
    varies: dict[Node, frozenset[str]] = {}  # with "score" among what scores are part of

    def rule(node: Node) -> Node:
        if isinstance(node, Input):
            varies[node] = VARIES.get(node.name, frozenset()) | (_SCORES & {node.name})
            return node
        varies[node] = frozenset().union(*(varies[arg] for arg in node.args))
        if not isinstance(node, Apply) or node.op != "div" or node.dtype != F32:
            return node
        x, divisor = node.args
        if not varies[x] & _SCORES or not varies[divisor] < BOTH:
            return node
        inverse = _inverse(divisor)
        product = Apply("mul", (x, inverse), F32)
        varies[inverse], varies[product] = varies[divisor], varies[node]
        return product

    return rewrite(root, rule)


def _inverse(divisor: Node) -> Node:
    one = Const(1.0, F32)
    if isinstance(divisor, Const):
        known = fold("div", (one, divisor), F32)
        if known is not None:
            return known
    return Apply("div", (one, divisor), F32)
