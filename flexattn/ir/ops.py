"""What each operation means, in one table: its eager torch function and its dtype rule.

Every stage that treats operations one by one keeps a table of its own with these keys, and
`tests/test_op_completeness.py` prints the rows a new operation still lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from flexattn.ir.nodes import BOOL, FLOATS, I32, I64, DType


@dataclass(frozen=True)
class Op:
    """One row.

    Attributes:
        name: Key of the table, used in printed graphs.
        eager: The torch function that defines the result, on tensors of the node's dtypes.
        arity: Number of arguments; -1 is any.
        takes: What the arguments may be: ``float``, ``int``, ``bool``, ``number`` (int or
            float), ``integral`` (int or bool) or ``any``. All arguments have one dtype,
            except those of ``where`` (its first is bool), of casts and of ``override_grad``.
        gives: Result dtype: ``same`` as the (last) argument, ``bool``, ``int`` (i64), ``i32``,
            ``i64``, or ``float`` (the mod's compute dtype).
    """

    name: str
    eager: Callable[..., Any]
    arity: int
    takes: str
    gives: str


def _trunc_div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _first(value: Any, *_: Any) -> Any:
    return value


_ROWS = (
    # arithmetic
    Op("add", torch.add, 2, "number", "same"),
    Op("sub", torch.sub, 2, "number", "same"),
    Op("mul", torch.mul, 2, "number", "same"),
    Op("neg", torch.neg, 1, "number", "same"),
    Op("abs", torch.abs, 1, "number", "same"),
    Op("sign", torch.sign, 1, "number", "same"),
    Op("minimum", torch.minimum, 2, "number", "same"),  # NaN wins, as in torch
    Op("maximum", torch.maximum, 2, "number", "same"),
    Op("div", torch.true_divide, 2, "float", "same"),
    Op("floordiv", torch.floor_divide, 2, "number", "same"),  # rounds to minus infinity
    Op("truncdiv", _trunc_div, 2, "number", "same"),
    Op("mod", torch.remainder, 2, "number", "same"),  # takes the divisor's sign
    Op("fmod", torch.fmod, 2, "number", "same"),  # takes the dividend's sign
    Op("pow", torch.pow, 2, "number", "same"),  # integer exponents are constants >= 0
    # comparison
    Op("eq", torch.eq, 2, "any", "bool"),
    Op("ne", torch.ne, 2, "any", "bool"),
    Op("lt", torch.lt, 2, "number", "bool"),
    Op("le", torch.le, 2, "number", "bool"),
    Op("gt", torch.gt, 2, "number", "bool"),
    Op("ge", torch.ge, 2, "number", "bool"),
    # logic on bool, bitwise on integers
    Op("and", torch.bitwise_and, 2, "integral", "same"),
    Op("or", torch.bitwise_or, 2, "integral", "same"),
    Op("xor", torch.bitwise_xor, 2, "integral", "same"),
    Op("not", torch.bitwise_not, 1, "integral", "same"),
    Op("shl", torch.bitwise_left_shift, 2, "int", "same"),
    Op("shr", torch.bitwise_right_shift, 2, "int", "same"),  # arithmetic
    # choice and conversion
    Op("where", torch.where, 3, "any", "same"),
    Op("to_float", lambda a, dtype: a.to(dtype), 1, "any", "float"),
    Op("to_int", lambda a, dtype: a.to(dtype), 1, "any", "int"),  # towards zero
    Op("to_bool", lambda a, dtype: a.to(dtype), 1, "any", "bool"),  # not equal to zero
    Op("to_i32", lambda a, dtype: a.to(dtype), 1, "integral", "i32"),  # known to fit (narrowing)
    Op("to_i64", lambda a, dtype: a.to(dtype), 1, "integral", "i64"),
    # rounding (floats)
    Op("floor", torch.floor, 1, "float", "same"),
    Op("ceil", torch.ceil, 1, "float", "same"),
    Op("round", torch.round, 1, "float", "same"),  # halves to even
    Op("trunc", torch.trunc, 1, "float", "same"),
    # exponentials and their kin (floats)
    Op("exp", torch.exp, 1, "float", "same"),
    Op("exp2", torch.exp2, 1, "float", "same"),
    Op("expm1", torch.expm1, 1, "float", "same"),
    Op("log", torch.log, 1, "float", "same"),
    Op("log2", torch.log2, 1, "float", "same"),
    Op("log10", torch.log10, 1, "float", "same"),
    Op("log1p", torch.log1p, 1, "float", "same"),
    Op("sqrt", torch.sqrt, 1, "float", "same"),
    Op("rsqrt", torch.rsqrt, 1, "float", "same"),
    Op("sigmoid", torch.sigmoid, 1, "float", "same"),
    Op("tanh", torch.tanh, 1, "float", "same"),
    Op("erf", torch.erf, 1, "float", "same"),
    Op("erfc", torch.erfc, 1, "float", "same"),
    # trigonometry (floats)
    Op("sin", torch.sin, 1, "float", "same"),
    Op("cos", torch.cos, 1, "float", "same"),
    Op("tan", torch.tan, 1, "float", "same"),
    Op("asin", torch.asin, 1, "float", "same"),
    Op("acos", torch.acos, 1, "float", "same"),
    Op("atan", torch.atan, 1, "float", "same"),
    Op("atan2", torch.atan2, 2, "float", "same"),
    Op("sinh", torch.sinh, 1, "float", "same"),
    Op("cosh", torch.cosh, 1, "float", "same"),
    Op("asinh", torch.asinh, 1, "float", "same"),
    Op("acosh", torch.acosh, 1, "float", "same"),
    Op("atanh", torch.atanh, 1, "float", "same"),
    # classification (floats)
    Op("isnan", torch.isnan, 1, "float", "bool"),
    Op("isinf", torch.isinf, 1, "float", "bool"),
    # gradients: the value of the first argument
    Op("detach", torch.detach, 1, "any", "same"),  # no gradient flows through
    # override_grad(value, x1, p1, x2, p2, …): d value = p1·d x1 + p2·d x2 + …, whatever value is
    Op("override_grad", _first, -1, "float", "same"),
)

OPS: dict[str, Op] = {row.name: row for row in _ROWS}


def result_dtype(op: str, args: tuple[DType, ...], compute: DType) -> DType:
    """The dtype that ``op`` gives for ``args`` (dtypes) in a mod computing in ``compute``."""
    match OPS[op].gives:
        case "bool":
            return BOOL
        case "float":
            return compute
        case "int" | "i64":
            return I64
        case "i32":
            return I32
    return args[0] if op == "override_grad" else args[-1]


def is_float(dtype: DType) -> bool:
    """Whether ``dtype`` is one of the two compute dtypes."""
    return dtype in FLOATS
