"""The pointwise torch functions a mod may call on symbols, by torch's names and signatures.

A handler takes the tape and then torch's arguments. A name stands for the function of that name
in ``torch``, ``torch.Tensor``, ``torch.nn.functional`` and ``torch.special`` alike
(`trace/dispatch.py` registers them); further tables are in `trace/activations.py` (formulas)
and `trace/rows.py` (reductions and shapes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import UnsupportedOpError
from flexattn.trace.gather import emit, settle
from flexattn.trace.operators import binary, cast, kind_of, operand, shape_of, unary
from flexattn.trace.symbol import Symbol, symbol
from flexattn.trace.tape import (
    BOOL,
    COMPARISONS,
    FLOAT,
    FLOAT_UNARY,
    INT,
    NUMBER_CODES,
    NUMBER_KINDS,
    Tape,
    broadcast,
    kind_of_dtype,
)

Handler = Callable[..., Any]


# Choice ---------------------------------------------------------------------------------------


def where(tape: Tape, condition: Any, input: Any, other: Any) -> Symbol:
    if type(condition) is Symbol and condition._kind == BOOL and condition._tape is tape:
        kind, codes = BOOL, [condition._id]
        for value in (input, other):  # scalars and plain numbers take the short way
            cls = type(value)
            if cls is Symbol and value._tape is tape:
                codes.append(value._id)
                value_kind = value._kind
            elif cls is float or cls is int:
                codes.append(NUMBER_CODES[cls])
                value_kind = NUMBER_KINDS[cls]
            else:
                break
            if value_kind > kind:
                kind = value_kind
        else:
            if codes[1] < 0:
                tape.numbers.append(input)
            if codes[2] < 0:
                tape.numbers.append(other)
            position = len(tape)
            tape += ("where", *codes)
            return Symbol(tape, position, kind)
    return choose(tape, condition, input, other)


def choose(tape: Tape, condition: Any, a: Any, b: Any) -> Any:
    """``where`` for operands of any sort."""
    condition, a, b = (operand(tape, x, "torch.where") for x in (condition, a, b))
    if kind_of(condition) != BOOL:
        tape.fail(
            UnsupportedOpError,
            "gives torch.where a condition that is not bool.",
            why="a condition is true or false",
            fix="compare it, as in torch.where(x != 0, a, b)",
        )
    shape = broadcast(tape, [shape_of(x) for x in (condition, a, b)])
    return emit(tape, "where", max(kind_of(a), kind_of(b)), shape, condition, a, b)


def masked_fill(tape: Tape, input: Any, mask: Any, value: Any) -> Symbol:
    return cast(
        tape, choose(tape, mask, value, input), kind_of(operand(tape, input, "masked_fill"))
    )


def clamp(tape: Tape, input: Any, min: Any = None, max: Any = None) -> Symbol:
    # A comparison rather than a minimum: at the bound the gradient passes, and NaN stays.
    x = operand(tape, input, "torch.clamp")
    for bound, compare, extreme in ((min, "lt", "maximum"), (max, "gt", "minimum")):
        if bound is None:
            continue
        bound = operand(tape, bound, "torch.clamp")
        if kind_of(x) == FLOAT or kind_of(bound) == FLOAT:
            x = choose(tape, binary(tape, compare, x, bound), bound, x)
        else:
            x = binary(tape, extreme, x, bound)
    return x


def fmax(tape: Tape, input: Any, other: Any) -> Symbol:
    return _ignore_nan(tape, "maximum", input, other)


def fmin(tape: Tape, input: Any, other: Any) -> Symbol:
    return _ignore_nan(tape, "minimum", input, other)


def _ignore_nan(tape: Tape, op: str, a: Any, b: Any) -> Symbol:
    extreme = binary(tape, op, a, b)
    if extreme._kind != FLOAT:
        return extreme
    rest = choose(tape, unary(tape, "isnan", b), a, extreme)
    return choose(tape, unary(tape, "isnan", a), b, rest)


# Arithmetic with torch's extra arguments ------------------------------------------------------


def add(tape: Tape, input: Any, other: Any, *, alpha: Any = 1) -> Symbol:
    return binary(
        tape, "add", input, other if _is_one(alpha) else binary(tape, "mul", other, alpha)
    )


def sub(tape: Tape, input: Any, other: Any, *, alpha: Any = 1) -> Symbol:
    return binary(
        tape, "sub", input, other if _is_one(alpha) else binary(tape, "mul", other, alpha)
    )


def rsub(tape: Tape, input: Any, other: Any, *, alpha: Any = 1) -> Symbol:
    return sub(tape, other, input, alpha=alpha)


def _is_one(value: Any) -> bool:
    return type(value) is int and value == 1


def div(tape: Tape, input: Any, other: Any, *, rounding_mode: str | None = None) -> Symbol:
    ops = {None: "div", "floor": "floordiv", "trunc": "truncdiv"}
    if rounding_mode not in ops:
        tape.fail(
            UnsupportedOpError,
            f"divides with rounding_mode={rounding_mode!r}.",
            why="torch knows None, 'floor' and 'trunc'",
            fix="use one of these",
        )
    return binary(tape, ops[rounding_mode], input, other)


def round(tape: Tape, input: Any, *, decimals: int = 0) -> Symbol:
    if decimals == 0:
        return unary(tape, "round", input)
    scaled = unary(tape, "round", binary(tape, "mul", input, 10.0**decimals))
    return binary(tape, "div", scaled, 10.0**decimals)


def float_power(tape: Tape, input: Any, exponent: Any) -> Symbol:
    return binary(tape, "pow", cast(tape, input, FLOAT), exponent)


def pow(tape: Tape, input: Any, exponent: Any) -> Symbol:
    return binary(tape, "pow", input, exponent)


def ldexp(tape: Tape, input: Any, other: Any) -> Symbol:
    return binary(tape, "mul", input, unary(tape, "exp2", other))


# Logic ----------------------------------------------------------------------------------------


def _logical(op: str) -> Handler:
    def handler(tape: Tape, input: Any, other: Any) -> Symbol:
        return binary(tape, op, cast(tape, input, BOOL), cast(tape, other, BOOL))

    return handler


def logical_not(tape: Tape, input: Any) -> Symbol:
    return unary(tape, "not", cast(tape, input, BOOL))


# Conversions ----------------------------------------------------------------------------------


def to(tape: Tape, input: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    """``.to(dtype)``, ``.to(device)``, ``.to(device, dtype)``, ``.to(other)``."""
    kind = None
    for arg in (*args, kwargs.get("dtype"), kwargs.get("other")):
        if isinstance(arg, torch.dtype):
            kind = kind_of_dtype(tape, arg)
        elif isinstance(arg, (Symbol, Tensor)):
            kind = (
                kind_of(operand(tape, arg, ".to"))
                if isinstance(arg, Symbol)
                else kind_of_dtype(tape, arg.dtype)
            )
    return input if kind is None else cast(tape, input, kind)


def type_(tape: Tape, input: Symbol, dtype: Any = None, **_: Any) -> Any:
    names = {BOOL: "torch.BoolTensor", INT: "torch.LongTensor", FLOAT: "torch.FloatTensor"}
    if dtype is None:
        return "torch.DoubleTensor" if input.dtype == torch.float64 else names[input._kind]
    if isinstance(dtype, str):
        dtype = {name: kind for kind, name in names.items()}.get(dtype, FLOAT)
        return cast(tape, input, dtype)
    return cast(tape, input, kind_of_dtype(tape, dtype))


def _caster(kind: int) -> Handler:
    return lambda tape, input, **_: cast(tape, input, kind)


def _same(tape: Tape, input: Any, *_: Any, **__: Any) -> Any:
    return input


def clone(tape: Tape, input: Symbol, **_: Any) -> Symbol:
    x = settle(tape, input)
    return emit(tape, "clone", x._kind, shape_of(x), x)


def detach(tape: Tape, input: Symbol) -> Symbol:
    x = settle(tape, input)
    return emit(tape, "detach", x._kind, shape_of(x), x)


# Constants shaped or typed like a symbol ------------------------------------------------------


def constant(tape: Tape, value: Any, shape: tuple[int, ...], dtype: Any, kind: int) -> Symbol:
    """``value`` at every element of ``shape``; of ``dtype``, or of ``kind`` if that is None."""
    kind = kind if dtype is None else kind_of_dtype(tape, dtype)
    value = operand(tape, value, "a fill")
    if isinstance(value, Symbol):
        if shape:
            value = emit(tape, "reshape", value._kind, shape, value, shape, ("fill",))
        return cast(tape, value, kind)
    number = (bool, int, float)[kind](value)
    return emit(tape, "const", kind, shape, number, shape)


def _size(size: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    size = size or ((kwargs["size"],) if "size" in kwargs else ())
    first = size[0] if len(size) == 1 else size
    return tuple(first) if isinstance(first, (tuple, list)) else (first,)


def _new(value: int) -> Handler:
    def handler(tape: Tape, input: Symbol, *size: Any, dtype: Any = None, **kwargs: Any) -> Symbol:
        return constant(tape, value, _size(size, kwargs), dtype, input._kind)

    return handler


def new_full(tape: Tape, input: Symbol, size: Any, fill_value: Any, *, dtype: Any = None, **_: Any):  # type: ignore[no-untyped-def]
    return constant(tape, fill_value, tuple(size), dtype, input._kind)


def new_tensor(tape: Tape, input: Symbol, data: Any, *, dtype: Any = None, **_: Any) -> Any:
    if isinstance(data, (tuple, list)):
        return torch.tensor(data, dtype=dtype)
    value = operand(tape, data, "new_tensor")
    return constant(tape, value, (), dtype, kind_of(value))


def _like(value: int) -> Handler:
    def handler(tape: Tape, input: Symbol, *, dtype: Any = None, **_: Any) -> Symbol:
        return constant(tape, value, tuple(input.shape), dtype, input._kind)

    return handler


def full_like(tape: Tape, input: Symbol, fill_value: Any, *, dtype: Any = None, **_: Any) -> Symbol:
    return constant(tape, fill_value, tuple(input.shape), dtype, input._kind)


def full(tape: Tape, size: Any, fill_value: Any, *, dtype: Any = None, **_: Any) -> Symbol:
    return constant(tape, fill_value, tuple(size), dtype, kind_of(fill_value))


# The table ------------------------------------------------------------------------------------


def _unary(op: str) -> Handler:
    def handler(tape: Tape, input: Any) -> Symbol:
        return unary(tape, op, input)

    return handler


def _float_unary(op: str) -> Handler:
    def handler(tape: Tape, input: Any) -> Symbol:
        if type(input) is not Symbol:
            return unary(tape, op, input)
        position = len(tape)
        tape += (op, input._id)
        return symbol(tape, position, FLOAT)

    return handler


def _binary(op: str) -> Handler:
    def handler(tape: Tape, input: Any, other: Any) -> Symbol:
        return binary(tape, op, input, other)

    return handler


_BINARY_NAMES = {
    "mul": "mul multiply", "minimum": "minimum", "maximum": "maximum", "atan2": "atan2 arctan2",
    "floordiv": "floor_divide", "mod": "remainder", "fmod": "fmod",
    "eq": "eq", "ne": "ne not_equal", "lt": "lt less", "le": "le less_equal", "gt": "gt greater",
    "ge": "ge greater_equal", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "shl": "bitwise_left_shift", "shr": "bitwise_right_shift",
}  # fmt: skip
_UNARY_NAMES = {
    "abs": "abs absolute", "neg": "neg negative", "sign": "sign sgn", "not": "bitwise_not",
    "floor": "floor", "ceil": "ceil", "trunc": "trunc fix", "isnan": "isnan", "isinf": "isinf",
}  # fmt: skip
_FLOAT_ALIASES = {
    "sigmoid": "expit", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "sinh": "sinh",
    "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
}  # fmt: skip
_CASTS = {BOOL: "bool", INT: "int long short char byte", FLOAT: "float double half bfloat16"}

FUNCTIONS: dict[str, Handler] = {
    **{name: _binary(op) for op, names in _BINARY_NAMES.items() for name in names.split()},
    **{name: _unary(op) for op, names in _UNARY_NAMES.items() for name in names.split()},
    **{op: _float_unary(op) for op in FLOAT_UNARY},
    **{name: _float_unary(op) for op, name in _FLOAT_ALIASES.items()},
    **{name: _caster(kind) for kind, names in _CASTS.items() for name in names.split()},
    **dict.fromkeys(
        ["cpu", "cuda", "contiguous", "positive", "resolve_conj", "resolve_neg"], _same
    ),
    "add": add,
    "sub": sub,
    "subtract": sub,
    "rsub": rsub,
    "round": round,
    "div": div,
    "divide": div,
    "true_divide": _binary("div"),
    "pow": pow,
    "float_power": float_power,
    "ldexp": ldexp,
    "clamp": clamp,
    "clip": clamp,
    "clamp_min": lambda tape, input, min: clamp(tape, input, min),
    "clamp_max": lambda tape, input, max: clamp(tape, input, None, max),
    "where": where,
    "masked_fill": masked_fill,
    "fmax": fmax,
    "fmin": fmin,
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_xor": _logical("xor"),
    "logical_not": logical_not,
    "to": to,
    "type": type_,
    "clone": clone,
    "detach": detach,
    "type_as": to,
    "new_ones": _new(1),
    "new_zeros": _new(0),
    "new_full": new_full,
    "new_tensor": new_tensor,
    "ones_like": _like(1),
    "zeros_like": _like(0),
    "full_like": full_like,
    "full": full,
}
assert FUNCTIONS.keys() >= COMPARISONS
