"""The derivative of every operation: what of the gradient at its result goes to each argument.

Each row takes the node and the gradient and gives one part per argument: a graph, a pair
``(graph, condition)`` that is exactly 0 where the condition is false, or None for nothing. The
formulas, and their values at corners and ties, are those of torch's autograd. A row None says
that no gradient flows through the operation at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from flexattn.ir.nodes import BOOL, FLOATS, Apply, Const, Node

Part: TypeAlias = Node | tuple[Node, Node] | None
Rule: TypeAlias = Callable[[Apply, Node], Sequence[Part]]


def _op(op: str, *args: Node) -> Node:
    return Apply(op, args, args[-1].dtype)


def _num(value: float, like: Node) -> Const:
    return Const(value, like.dtype)


def _mul(a: Node, b: Node) -> Node:
    return _op("mul", a, b)


def _div(a: Node, b: Node) -> Node:
    return _op("div", a, b)


def _neg(a: Node) -> Node:
    return _op("neg", a)


def _scale(a: Node, factor: float) -> Node:
    return _mul(a, _num(factor, a))


def _plus(a: Node, number: float) -> Node:
    return _op("add", a, _num(number, a))


def _one_minus(a: Node) -> Node:
    return _op("sub", _num(1.0, a), a)


def _is(op: str, a: Node, b: Node) -> Node:
    return Apply(op, (a, b), BOOL)


def _not(a: Node) -> Node:
    return Apply("not", (a,), BOOL)


def _where(condition: Node, a: Node, b: Node) -> Node:
    return _op("where", condition, a, b)


def of_argument(slope: Callable[[Node, Node], Node]) -> Rule:
    """A function of one argument: ``slope(gradient, argument)``."""
    return lambda node, grad: (slope(grad, node.args[0]),)


def of_result(slope: Callable[[Node, Node], Node]) -> Rule:
    """A function whose derivative its own result gives: ``slope(gradient, result)``."""
    return lambda node, grad: (slope(grad, node),)


def _product(node: Apply, grad: Node) -> Sequence[Part]:
    a, b = node.args
    return _mul(grad, b), _mul(grad, a)


def _quotient(node: Apply, grad: Node) -> Sequence[Part]:
    b = node.args[1]
    return _div(grad, b), _mul(_neg(grad), _div(node, b))


def _remainder(rounded: str) -> Rule:
    """a - b * rounded(a / b), where the rounded quotient counts as constant."""

    def rule(node: Apply, grad: Node) -> Sequence[Part]:
        a, b = node.args
        return grad, _mul(_neg(grad), _op(rounded, a, b))

    return rule


def _extreme(loses: str) -> Rule:
    """The winner takes all; a tie is halved. ``a`` gets nothing where ``a loses b``."""

    def rule(node: Apply, grad: Node) -> Sequence[Part]:
        a, b = node.args
        share = _where(_is("eq", a, b), _scale(grad, 0.5), grad)
        return (share, _not(_is(loses, a, b))), (share, _not(_is(loses, b, a)))

    return rule


def _power(node: Apply, grad: Node) -> Sequence[Part]:
    a, n = node.args
    zero = _num(0.0, a)
    slope = _mul(grad, _mul(n, _op("pow", a, _plus(n, -1.0))))
    # x^n is 0 at x = 0 whatever the exponent n > 0, though log x is not finite there.
    flat = Apply("and", (_is("eq", a, zero), _is("ge", n, zero)), BOOL)
    growth = _mul(grad, _mul(node, _op("log", a)))
    return (slope, _is("ne", n, zero)), (growth, _not(flat))


def _angle(node: Apply, grad: Node) -> Sequence[Part]:
    y, x = node.args
    scaled = _div(grad, _op("add", _mul(y, y), _mul(x, x)))
    anywhere = _not(Apply("and", (_is("eq", y, _num(0.0, y)), _is("eq", x, _num(0.0, x))), BOOL))
    return (_mul(scaled, x), anywhere), (_mul(scaled, _neg(y)), anywhere)


def _chosen(node: Apply, grad: Node) -> Sequence[Part]:
    condition = node.args[0]
    return None, (grad, condition), (grad, _not(condition))


def _overridden(node: Apply, grad: Node) -> Sequence[Part]:
    """The value's own derivative gives way to the pairs (x, slope) behind it."""
    parts: list[Part] = [None]
    for slope in node.args[2::2]:
        parts += [_mul(grad, slope), None]
    return parts


def _cast(node: Apply, grad: Node) -> Sequence[Part]:
    return (grad if node.args[0].dtype in FLOATS else None,)


def _gauss(grad: Node, x: Node, factor: float) -> Node:
    bell = _op("exp", _neg(_mul(x, x)))
    return _mul(grad, _scale(bell, factor * 2 / math.sqrt(math.pi)))


def _square(x: Node) -> Node:
    return _mul(x, x)


_LN2, _LN10 = math.log(2.0), math.log(10.0)

RULES: dict[str, Rule | None] = {
    # arithmetic
    "add": lambda node, grad: (grad, grad),
    "sub": lambda node, grad: (grad, _neg(grad)),
    "mul": _product,
    "neg": lambda node, grad: (_neg(grad),),
    "abs": of_argument(lambda g, x: _mul(g, _op("sign", x))),
    "sign": None,
    "minimum": _extreme("gt"),
    "maximum": _extreme("lt"),
    "div": _quotient,
    "floordiv": None,
    "truncdiv": None,
    "mod": _remainder("floordiv"),
    "fmod": _remainder("truncdiv"),
    "pow": _power,
    # comparison and logic
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge")),
    **dict.fromkeys(("and", "or", "xor", "not", "shl", "shr")),
    # choice and conversion
    "where": _chosen,
    "to_float": _cast,
    **dict.fromkeys(("to_int", "to_bool", "to_i32", "to_i64")),
    # rounding
    **dict.fromkeys(("floor", "ceil", "round", "trunc")),
    # exponentials and their kin
    "exp": of_result(_mul),
    "exp2": of_result(lambda g, y: _mul(g, _scale(y, _LN2))),
    "expm1": of_result(lambda g, y: _mul(g, _plus(y, 1.0))),
    "log": of_argument(_div),
    "log2": of_argument(lambda g, x: _div(g, _scale(x, _LN2))),
    "log10": of_argument(lambda g, x: _div(g, _scale(x, _LN10))),
    "log1p": of_argument(lambda g, x: _div(g, _plus(x, 1.0))),
    "sqrt": of_result(lambda g, y: _div(g, _scale(y, 2.0))),
    "rsqrt": of_result(lambda g, y: _mul(_scale(g, -0.5), _mul(_square(y), y))),
    "sigmoid": of_result(lambda g, y: _mul(g, _mul(_one_minus(y), y))),
    "tanh": of_result(lambda g, y: _mul(g, _one_minus(_square(y)))),
    "erf": of_argument(lambda g, x: _gauss(g, x, 1.0)),
    "erfc": of_argument(lambda g, x: _gauss(g, x, -1.0)),
    # trigonometry
    "sin": of_argument(lambda g, x: _mul(g, _op("cos", x))),
    "cos": of_argument(lambda g, x: _mul(g, _neg(_op("sin", x)))),
    "tan": of_result(lambda g, y: _mul(g, _plus(_square(y), 1.0))),
    "asin": of_argument(lambda g, x: _mul(g, _op("rsqrt", _one_minus(_square(x))))),
    "acos": of_argument(lambda g, x: _mul(_neg(g), _op("rsqrt", _one_minus(_square(x))))),
    "atan": of_argument(lambda g, x: _div(g, _plus(_square(x), 1.0))),
    "atan2": _angle,
    "sinh": of_argument(lambda g, x: _mul(g, _op("cosh", x))),
    "cosh": of_argument(lambda g, x: _mul(g, _op("sinh", x))),
    "asinh": of_argument(lambda g, x: _mul(g, _op("rsqrt", _plus(_square(x), 1.0)))),
    "acosh": of_argument(lambda g, x: _mul(g, _op("rsqrt", _plus(_square(x), -1.0)))),
    "atanh": of_argument(lambda g, x: _div(g, _one_minus(_square(x)))),
    # classification
    "isnan": None,
    "isinf": None,
    # gradients
    "detach": None,
    "override_grad": _overridden,
}
