"""Shorten a graph by identities that leave every bit of every result as it was.

Floats keep their rounding, their NaNs and their signed zeros: ``x * 0`` stays, ``x + 0.0``
stays (it turns -0.0 into 0.0), and ``x / c`` becomes a multiplication only for powers of two.
Which NaN of several comes out is not kept. One row of `RULES` per operation; a rule gives the
shorter node, or None where it does not apply. Common subexpressions need no pass: equal nodes
are one object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

from flexattn.ir.nodes import BOOL, F32, FLOATS, INTS, Apply, Const, Node, rewrite
from flexattn.ir.ops import result_dtype
from flexattn.passes.fold import fold

Rule = Callable[[Apply], Node | None]

COMMUTES = frozenset({"add", "mul", "minimum", "maximum", "and", "or", "xor", "eq", "ne"})
MIRROR = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def simplify(root: Node) -> Node:
    """``root`` with the rules applied to every node below it, arguments first."""
    return rewrite(root, _settle)


def make(op: str, *args: Node) -> Node:
    """``op`` applied to ``args``, already in its simplest form; not for ``to_float``."""
    return _settle(Apply(op, args, result_dtype(op, tuple(a.dtype for a in args), "")))


def _settle(node: Node) -> Node:
    while isinstance(node, Apply):
        shorter = _step(node)
        if shorter is None:
            break
        node = shorter
    return node


def _step(node: Apply) -> Node | None:
    constants = [arg for arg in node.args if isinstance(arg, Const)]
    if len(constants) == len(node.args):
        folded = fold(node.op, constants, node.dtype)
        if folded is not None:
            return folded
    if node.op in COMMUTES and isinstance(node.args[0], Const) and len(constants) == 1:
        return Apply(node.op, node.args[::-1], node.dtype)
    for rule in RULES.get(node.op, ()):
        shorter = rule(node)
        if shorter is not None:
            return shorter
    return None


def _is(node: Node, value: bool | int | float) -> bool:
    return isinstance(node, Const) and node.value == value


def _is_op(node: Node, *ops: str) -> TypeGuard[Apply]:
    return isinstance(node, Apply) and node.op in ops


def _negates(a: Node, b: Node) -> bool:
    return (_is_op(a, "not") and a.args[0] is b) or (_is_op(b, "not") and b.args[0] is a)


# Arithmetic -----------------------------------------------------------------------------------


def _neutral(value: int) -> Rule:
    """``x op value`` is ``x``, integers and floats alike."""
    return lambda node: node.args[0] if _is(node.args[1], value) else None


def _add(node: Apply) -> Node | None:
    a, b = node.args
    if node.dtype in INTS:
        if _is(b, 0):
            return a
        if isinstance(b, Const) and _is_op(a, "add") and isinstance(a.args[1], Const):
            return make("add", a.args[0], make("add", a.args[1], b))
    if _is_op(b, "neg"):
        return make("sub", a, b.args[0])
    return make("sub", b, a.args[0]) if _is_op(a, "neg") else None


def _sub(node: Apply) -> Node | None:
    a, b = node.args
    if isinstance(b, Const) and b.value == 0 and math.copysign(1.0, b.value) > 0:
        return a  # also for floats: -0.0 - 0.0 is -0.0
    if node.dtype in INTS:
        if a is b:
            return Const(0, node.dtype)
        if isinstance(b, Const):
            return make("add", a, make("neg", b))
        if _is(a, 0):
            return make("neg", b)
    return make("add", a, b.args[0]) if _is_op(b, "neg") else None


def _mul(node: Apply) -> Node | None:
    a, b = node.args
    if _is(b, -1):
        return make("neg", a)
    return b if node.dtype in INTS and _is(b, 0) else None


def _div(node: Apply) -> Node | None:
    a, b = node.args
    if _is(b, -1):
        return make("neg", a)
    if isinstance(b, Const) and _inverse_is_exact(b):
        return make("mul", a, Const(1.0 / b.value, b.dtype))
    return None


def _inverse_is_exact(const: Const) -> bool:
    """Whether 1/c is a power of two that the dtype holds with full precision."""
    if const.value == 0 or not math.isfinite(const.value):
        return False
    mantissa, exponent = math.frexp(const.value)
    return abs(mantissa) == 0.5 and abs(exponent) < (120 if const.dtype == F32 else 1000)


def _int_quotient(node: Apply) -> Node | None:
    a, b = node.args
    if node.dtype not in INTS:
        return None
    if _is(b, 1):
        return a
    return make("neg", a) if _is(b, -1) else None


def _int_remainder(node: Apply) -> Node | None:
    unit = _is(node.args[1], 1) or _is(node.args[1], -1)
    return Const(0, node.dtype) if node.dtype in INTS and unit else None


def _pow(node: Apply) -> Node | None:
    """Exponents that torch too computes by multiplication; 0.5 differs from sqrt at -inf."""
    a, b = node.args
    if not isinstance(b, Const):
        return None
    match b.value:
        case 0:
            return Const(1, node.dtype)
        case 1:
            return a
        case 2:
            return make("mul", a, a)
        case 3:
            return make("mul", make("mul", a, a), a)
    if node.dtype not in FLOATS:
        return None
    match b.value:
        case -1:
            return make("div", Const(1, node.dtype), a)
        case -2:
            return make("div", Const(1, node.dtype), make("mul", a, a))
    return None


def _undo(op: str) -> Rule:
    """``op(op(x))`` is ``x``."""
    return lambda node: node.args[0].args[0] if _is_op(node.args[0], op) else None


def _abs(node: Apply) -> Node | None:
    (a,) = node.args
    if _is_op(a, "abs"):
        return a
    return make("abs", a.args[0]) if _is_op(a, "neg") else None


def _same(node: Apply) -> Node | None:
    """``min(x, x)``, ``x & x``."""
    return node.args[0] if node.args[0] is node.args[1] else None


def _nested(node: Apply) -> Node | None:
    """``min(min(x, c), d)`` is ``min(x, min(c, d))`` for integers, and so for max."""
    a, b = node.args
    if node.dtype not in INTS or not isinstance(b, Const) or not _is_op(a, node.op):
        return None
    inner = a.args[1]
    return make(node.op, a.args[0], make(node.op, inner, b)) if isinstance(inner, Const) else None


# Comparison and logic -------------------------------------------------------------------------


def _compare(node: Apply) -> Node | None:
    a, b = node.args
    if a.dtype not in FLOATS and a is b:
        return Const(node.op in ("eq", "le", "ge"), BOOL)
    if node.op in MIRROR and isinstance(a, Const) and not isinstance(b, Const):
        return make(MIRROR[node.op], b, a)
    return None


def _equal(node: Apply) -> Node | None:
    """Comparing a bool, or a bool made a number, with 0 or 1 is the bool or its opposite."""
    a, b = node.args
    if not isinstance(b, Const) or b.value not in (0, 1):
        return None
    if _is_op(a, "to_int", "to_float") and a.args[0].dtype == BOOL:
        a = a.args[0]
    if a.dtype != BOOL:
        return None
    return a if (b.value == 1) == (node.op == "eq") else make("not", a)


def _and(node: Apply) -> Node | None:
    a, b = node.args
    if node.dtype != BOOL:
        return None
    if isinstance(b, Const):
        return a if b.value else b
    if _negates(a, b):
        return Const(False, BOOL)
    if _is_op(b, "or") and a in b.args:
        return a
    if _is_op(a, "or") and b in a.args:
        return b
    if _is_op(a, "and") and b in a.args:
        return a
    return b if _is_op(b, "and") and a in b.args else None


def _or(node: Apply) -> Node | None:
    a, b = node.args
    if node.dtype != BOOL:
        return None
    if isinstance(b, Const):
        return b if b.value else a
    if _negates(a, b):
        return Const(True, BOOL)
    if _is_op(b, "and") and a in b.args:
        return a
    if _is_op(a, "and") and b in a.args:
        return b
    if _is_op(a, "or") and b in a.args:
        return a
    return b if _is_op(b, "or") and a in b.args else None


def _xor(node: Apply) -> Node | None:
    a, b = node.args
    if a is b:
        return Const(0, node.dtype)
    if node.dtype == BOOL and isinstance(b, Const):
        return make("not", a) if b.value else a
    return a if _is(b, 0) else None


def _not(node: Apply) -> Node | None:
    (a,) = node.args
    if not _is_op(a, *OPPOSITE):
        return None
    # Not less is greater or equal, but for NaN.
    sound = a.op in ("eq", "ne") or a.args[0].dtype not in FLOATS
    return make(OPPOSITE[a.op], *a.args) if sound else None


# Choice and conversion ------------------------------------------------------------------------


def _where(node: Apply) -> Node | None:
    c, a, b = node.args
    if isinstance(c, Const):
        return a if c.value else b
    if a is b:
        return a
    if _is_op(c, "not"):
        return make("where", c.args[0], b, a)
    if _is_op(a, "where") and a.args[0] is c:
        return make("where", c, a.args[1], b)
    if _is_op(b, "where") and b.args[0] is c:
        return make("where", c, a, b.args[2])
    return _where_bool(c, a, b) if node.dtype == BOOL else None


def _where_bool(c: Node, a: Node, b: Node) -> Node | None:
    if isinstance(a, Const):
        return make("or", c, b) if a.value else make("and", make("not", c), b)
    if isinstance(b, Const):
        return make("or", make("not", c), a) if b.value else make("and", c, a)
    return None


def _cast(node: Apply) -> Node | None:
    (a,) = node.args
    if a.dtype == node.dtype:
        return a
    if _is_op(a, "to_int") and a.args[0].dtype == BOOL:
        return Apply(node.op, a.args, node.dtype)  # the detour over 0 and 1 changes nothing
    return None


RULES: dict[str, tuple[Rule, ...]] = {
    "add": (_add,),
    "sub": (_sub,),
    "mul": (_neutral(1), _mul),
    "neg": (_undo("neg"),),
    "abs": (_abs,),
    "minimum": (_same, _nested),
    "maximum": (_same, _nested),
    "div": (_neutral(1), _div),
    "floordiv": (_int_quotient,),
    "truncdiv": (_int_quotient,),
    "mod": (_int_remainder,),
    "fmod": (_int_remainder,),
    "pow": (_pow,),
    "eq": (_compare, _equal),
    "ne": (_compare, _equal),
    "lt": (_compare,),
    "le": (_compare,),
    "gt": (_compare,),
    "ge": (_compare,),
    "and": (_same, _and),
    "or": (_same, _or),
    "xor": (_xor,),
    "not": (_undo("not"), _not),
    "shl": (_neutral(0),),
    "shr": (_neutral(0),),
    "where": (_where,),
    "to_float": (_cast,),
    "to_int": (_cast,),
    "to_bool": (_cast,),
    "to_i32": (_cast,),
    "to_i64": (_cast,),
}


def without_marks(root: Node) -> Node:
    """``root`` with ``detach`` and ``override_grad`` replaced by their values.

    They only say how to differentiate, so they go once that is done.
    """

    def value(node: Node) -> Node:
        return node.args[0] if _is_op(node, "detach", "override_grad") else node

    return rewrite(root, value)
