"""Compute an operation on constants, where the kernel would get the very same bits.

Only operations that IEEE 754 rounds correctly are here: a folded ``exp`` would differ in the
last bit from the kernel's, and a kernel with a number baked in must agree bitwise with one that
takes it at run time. (Constant parts that stay are hoisted out of all loops anyway.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flexattn.ir.nodes import BOOL, F32, FLOATS, I32, Const, DType

_BITS = {"i32": 32, "i64": 64}
_EXACT_INT = 1 << 53  # beyond it Python's int -> double -> float rounds twice


def _floor(a: int, b: int) -> int | None:
    return a // b if b else None


def _mod(a: int, b: int) -> int | None:
    return a % b if b else None


def _trunc(a: int, b: int) -> int | None:
    if not b:
        return None
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _fmod(a: int, b: int) -> int | None:
    quotient = _trunc(a, b)
    return None if quotient is None else a - b * quotient


def _shl(a: int, n: int) -> int | None:
    return a << n if 0 <= n < 64 else None


def _shr(a: int, n: int) -> int | None:
    return a >> n if 0 <= n < 64 else None


def _power(a: int, n: int) -> int | None:
    return a**n if 0 <= n < 64 else None


INT: dict[str, Callable[..., int | None]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "minimum": min,
    "maximum": max,
    "floordiv": _floor,
    "mod": _mod,
    "truncdiv": _trunc,
    "fmod": _fmod,
    "pow": _power,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "shl": _shl,
    "shr": _shr,
    "to_i32": lambda a: a,
    "to_i64": lambda a: a,
    "to_int": lambda a: a,
}

FLOAT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
}

COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "isnan": np.isnan,
    "isinf": np.isinf,
}

BOOLS: dict[str, Callable[..., bool]] = {
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "xor": lambda a, b: a != b,
    "not": lambda a: not a,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def fold(op: str, args: Sequence[Const], dtype: DType) -> Const | None:
    """The constant that ``op`` gives on constant ``args``, or None where it must be computed."""
    source = args[0].dtype if args else dtype
    if op == "to_float":
        return _to_float(args[0], dtype)
    if op == "to_bool":
        return Const(args[0].value != 0, BOOL)
    if op == "to_int" and source in FLOATS:
        return _to_int(_as(args[0]), dtype)
    if dtype in _BITS and op in INT:
        value = INT[op](*(int(a.value) for a in args))
        return None if value is None else Const(_wrap(value, _BITS[dtype]), dtype)
    if dtype == BOOL and source == BOOL and op in BOOLS:
        return Const(BOOLS[op](*(bool(a.value) for a in args)), BOOL)
    if dtype == BOOL and op in COMPARE:
        return Const(bool(COMPARE[op](*(_as(a) for a in args))), BOOL)
    if dtype in FLOATS and op in FLOAT:
        with np.errstate(all="ignore"):
            return Const(float(FLOAT[op](*(_as(a) for a in args))), dtype)
    return None


def _as(const: Const) -> Any:
    """The constant as a number of its own precision."""
    if const.dtype in FLOATS:
        return (np.float32 if const.dtype == F32 else np.float64)(const.value)
    return const.value


def _to_float(const: Const, dtype: DType) -> Const | None:
    if const.dtype not in FLOATS and abs(int(const.value)) > _EXACT_INT:
        return None
    with np.errstate(over="ignore"):
        return Const(float((np.float32 if dtype == F32 else np.float64)(_as(const))), dtype)


def _to_int(value: Any, dtype: DType) -> Const | None:
    limit = 2.0**31 if dtype == I32 else 2.0**63
    if not math.isfinite(value) or not -limit <= value < limit:
        return None
    return Const(int(value), dtype)


def _wrap(value: int, bits: int) -> int:
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
