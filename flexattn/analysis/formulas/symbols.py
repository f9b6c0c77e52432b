"""Graphs as sympy expressions that nothing evaluates: for printing, and for second opinions.

sympy's own rules are kept out: they reorder conditions, take ``q == k`` for a question about
structure, cancel what overflows, and are slow. Arguments keep the order of the mask's source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import sympy
from sympy.logic.boolalg import ITE

from flexattn.analysis.closed.linear import Linear, linear
from flexattn.analysis.formulas.tidy import Vocabulary, tidy
from flexattn.ir.nodes import BOOL, INTS, Apply, Const, Input, Load, Node, walk

Expr: TypeAlias = Any
"""A sympy expression or condition; sympy gives no types."""

NAMES = {"q_idx": "q", "kv_idx": "k", "score": "s", "score_log2": "s_2", "output": "o", "grad": "g"}
Q, K, M, N = (sympy.Symbol(name, integer=True) for name in "qkMN")


class Truth(sympy.Function):  # type: ignore[misc]
    """1 where its argument holds, else 0: Iverson's bracket."""


class BitAnd(sympy.Function):  # type: ignore[misc]
    """``a & b`` of integers."""


class BitOr(sympy.Function):  # type: ignore[misc]
    """``a | b`` of integers."""


class BitXor(sympy.Function):  # type: ignore[misc]
    """``a ^ b`` of integers."""


class BitNot(sympy.Function):  # type: ignore[misc]
    """``~a`` of integers."""


def raw(kind: type, *args: Expr) -> Expr:
    """``kind(*args)`` in the order given, with none of sympy's rules applied."""
    return sympy.Basic.__new__(kind, *args)


def to_sympy(node: Node, words: Vocabulary | None = None) -> Expr:
    """``node`` with ``q_idx`` as q, ``kv_idx`` as k and captures as indexed names."""
    words = words or Vocabulary()
    return expression(tidy(node, words), words)


def expression(root: Node, words: Vocabulary) -> Expr:
    """A tidied ``root`` as it stands."""
    done: dict[Node, Expr] = {}
    for found in walk(root):
        args = tuple(done[arg] for arg in found.args)
        match found:
            case Input(name, dtype):
                done[found] = _symbol(name, dtype, words)
            case Const(value, dtype):
                done[found] = _constant(value, dtype)
            case Load(capture, _, _):
                base = sympy.IndexedBase(words.capture(capture))
                done[found] = raw(sympy.Indexed, base, *args)
            case Apply("add" | "sub" | "neg" | "mul" | "shl", _, dtype) if dtype in INTS:
                done[found] = _sum(linear(found), found, done, args)
            case Apply(op, _, _):
                done[found] = RULES[op](found, *args)
    return done[root]


def _symbol(name: str, dtype: str, words: Vocabulary) -> Expr:
    if name.startswith("size"):
        capture, dim = map(int, name.removeprefix("size").split("_"))
        table = sympy.Symbol(words.capture(capture))
        return raw(sympy.Function("size"), table, sympy.Integer(dim))
    if name.startswith("n") and name[1:].isdigit():
        name = f"n_{name[1:]}"
    return sympy.Symbol(NAMES.get(name, name), integer=True if dtype in INTS else None)


def _constant(value: bool | int | float, dtype: str) -> Expr:
    if dtype == BOOL:
        return sympy.true if value else sympy.false
    if isinstance(value, float):
        return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value)
    return sympy.Integer(value)


def _sum(found: Linear, node: Node, done: dict[Node, Expr], args: tuple[Expr, ...]) -> Expr:
    """An integer sum: what is added, what is taken away, the number last."""
    if list(found.terms) == [node]:  # a product, or a shift, of two unknowns
        assert isinstance(node, Apply)
        return RULES[node.op](node, *args)
    terms = sorted(found.terms.items(), key=lambda term: term[1] < 0)
    parts = [_times(by, atom, done) for atom, by in terms]
    if found.constant or not parts:
        parts.append(sympy.Integer(found.constant))
    return parts[0] if len(parts) == 1 else sympy.Add(*parts, evaluate=False)


def _times(by: int, atom: Node, done: dict[Node, Expr]) -> Expr:
    match atom:
        # -(-x // m) is x / m rounded up.
        case Apply("floordiv", (a, Const(value))) if by < 0 and value > 0 and _is_minus(a):
            by, top = -by, _sum(linear(a).scale(-1), a, done, ())
            found = raw(sympy.ceiling, _divided(atom, top, sympy.Integer(int(value))))
        case _:
            found = done[atom]
    return found if by == 1 else sympy.Mul(sympy.Integer(by), found, evaluate=False)


def _is_minus(node: Node) -> bool:
    terms = linear(node).terms
    return bool(terms) and all(by < 0 for by in terms.values())


def _plain(kind: type) -> Callable[..., Expr]:
    return lambda node, *args: raw(kind, *args)


def _named(name: str) -> Callable[..., Expr]:
    kind = sympy.Function(name)
    return lambda node, *args: raw(kind, *args)


def _nested(kind: type) -> Callable[..., Expr]:
    """For what associates: one flat list of arguments."""

    def build(node: Node, *args: Expr) -> Expr:
        return raw(kind, *(x for arg in args for x in (arg.args if arg.func is kind else (arg,))))

    return build


def _logic(boolean: Callable[..., Expr], bits: type) -> Callable[..., Expr]:
    def build(node: Node, *args: Expr) -> Expr:
        return boolean(node, *args) if node.dtype == BOOL else raw(bits, *args)

    return build


def _equal(node: Node, a: Expr, b: Expr) -> Expr:
    if node.args[0].dtype == BOOL:
        return raw(sympy.Equivalent, a, b)
    return sympy.Eq(a, b, evaluate=False)


def _unequal(node: Node, a: Expr, b: Expr) -> Expr:
    if node.args[0].dtype == BOOL:
        return raw(sympy.Xor, a, b)
    return sympy.Ne(a, b, evaluate=False)


def _choice(node: Node, c: Expr, a: Expr, b: Expr) -> Expr:
    if node.dtype == BOOL:
        return raw(ITE, c, a, b)
    pair = sympy.functions.elementary.piecewise.ExprCondPair
    return raw(sympy.Piecewise, raw(pair, a, c), raw(pair, b, sympy.true))


def _to_number(node: Node, a: Expr) -> Expr:
    """A cast, which is not shown but for truth values."""
    if node.args[0].dtype == BOOL and not isinstance(node.args[0], Load):
        return raw(Truth, a)
    return raw(sympy.Function("trunc"), a) if _truncates(node) else a


def _truncates(node: Node) -> bool:
    return node.dtype in INTS and node.args[0].dtype not in INTS | {BOOL}


def _to_bool(node: Node, a: Expr) -> Expr:
    return a if node.args[0].dtype == BOOL else sympy.Ne(a, sympy.Integer(0), evaluate=False)


def _product(node: Node, a: Expr, b: Expr) -> Expr:
    """A product, a number first."""
    a, b = (b, a) if b.is_Number and not a.is_Number else (a, b)
    return sympy.Mul(a, b, evaluate=False)


def _divided(node: Node, a: Expr, b: Expr) -> Expr:
    return sympy.Mul(a, _power(node, b, sympy.Integer(-1)), evaluate=False)


def _power(node: Node, a: Expr, b: Expr) -> Expr:
    return sympy.Pow(a, b, evaluate=False)


def _relation(kind: type) -> Callable[..., Expr]:
    return lambda node, a, b: kind(a, b, evaluate=False)


_TWO = sympy.Integer(2)
RULES: dict[str, Callable[..., Expr]] = {
    "add": lambda node, *args: sympy.Add(*args, evaluate=False),
    "sub": lambda node, a, b: sympy.Add(a, _minus(b), evaluate=False),
    "mul": _product,
    "neg": lambda node, a: _minus(a),
    "abs": _plain(sympy.Abs),
    "sign": _plain(sympy.sign),
    "minimum": _nested(sympy.Min),
    "maximum": _nested(sympy.Max),
    "div": _divided,
    "floordiv": lambda node, a, b: raw(sympy.floor, _divided(node, a, b)),
    "truncdiv": lambda node, a, b: raw(sympy.Function("trunc"), _divided(node, a, b)),
    "mod": _plain(sympy.Mod),
    "fmod": _named("fmod"),
    "pow": _power,
    "eq": _equal,
    "ne": _unequal,
    "lt": _relation(sympy.Lt),
    "le": _relation(sympy.Le),
    "gt": _relation(sympy.Gt),
    "ge": _relation(sympy.Ge),
    "and": _logic(_nested(sympy.And), BitAnd),
    "or": _logic(_nested(sympy.Or), BitOr),
    "xor": _logic(_plain(sympy.Xor), BitXor),
    "not": _logic(_plain(sympy.Not), BitNot),
    "shl": lambda node, a, b: sympy.Mul(a, _power(node, _TWO, b), evaluate=False),
    "shr": lambda node, a, b: raw(sympy.floor, _divided(node, a, _shifted(node, b))),
    "where": _choice,
    "to_float": _to_number,
    "to_int": _to_number,
    "to_bool": _to_bool,
    "to_i32": _to_number,
    "to_i64": _to_number,
    "floor": _plain(sympy.floor),
    "ceil": _plain(sympy.ceiling),
    "exp2": lambda node, a: _power(node, _TWO, a),
    "sqrt": lambda node, a: _power(node, a, sympy.Rational(1, 2)),
    "rsqrt": lambda node, a: _power(node, a, sympy.Rational(-1, 2)),
    "detach": lambda node, a: a,
    "override_grad": lambda node, a, *_: a,
}
for _name in ("exp", "log", "erf", "erfc", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan2"):
    RULES[_name] = _plain(getattr(sympy, _name))
for _name in ("asin", "acos", "atan", "asinh", "acosh", "atanh"):
    RULES[_name] = _plain(getattr(sympy, _name))
for _name in ("round", "trunc", "expm1", "log2", "log10", "log1p", "sigmoid", "isnan", "isinf"):
    RULES[_name] = _named(_name)


def _minus(a: Expr) -> Expr:
    return sympy.Mul(sympy.Integer(-1), a, evaluate=False)


def _shifted(node: Node, count: Expr) -> Expr:
    """2 to the power of a shift count."""
    return _TWO**count if count.is_Integer else _power(node, _TWO, count)
