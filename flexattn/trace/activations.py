"""Torch functions that are formulas over the operation table, each as torch defines it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import UnsupportedOpError
from flexattn.trace.functions import Handler, choose, clamp, constant
from flexattn.trace.operators import binary, cast, kind_of, operand, unary
from flexattn.trace.symbol import Symbol
from flexattn.trace.tape import FLOAT, Tape


def _float(tape: Tape, x: Any) -> Any:
    return cast(tape, x, FLOAT)


# Activations ------------------------------------------------------------------------------------


def relu(tape: Tape, input: Any, inplace: bool = False) -> Any:
    x = operand(tape, input, "relu")
    return choose(tape, x <= 0, 0, x)  # NaN stays, and the derivative at 0 is 0


def relu6(tape: Tape, input: Any, inplace: bool = False) -> Any:
    return hardtanh(tape, input, 0.0, 6.0)


def leaky_relu(tape: Tape, input: Any, negative_slope: Any = 0.01, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return choose(tape, x > 0, x, x * negative_slope)


def elu(tape: Tape, input: Any, alpha: Any = 1.0, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return choose(tape, x > 0, x, alpha * x.expm1())


def celu(tape: Tape, input: Any, alpha: Any = 1.0, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return choose(tape, x > 0, x, alpha * (x / alpha).expm1())


def selu(tape: Tape, input: Any, inplace: bool = False) -> Any:
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return scale * elu(tape, input, alpha)


def gelu(tape: Tape, input: Any, *, approximate: str = "none") -> Any:
    x = _float(tape, input)
    if approximate == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1.0 + inner.tanh())
    return 0.5 * x * (1.0 + (x * math.sqrt(0.5)).erf())


def silu(tape: Tape, input: Any, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return x * x.sigmoid()


def mish(tape: Tape, input: Any, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return x * softplus(tape, x).tanh()


def softplus(tape: Tape, input: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    x = _float(tape, input)
    scaled = x * beta
    return choose(tape, scaled > threshold, x, scaled.exp().log1p() / beta)


def logsigmoid(tape: Tape, input: Any) -> Any:
    x = _float(tape, input)
    return binary(tape, "minimum", x, 0.0) - (-abs(x)).exp().log1p()


def hardtanh(
    tape: Tape, input: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False
) -> Any:
    # Its derivative at the bounds is 0, where that of clamp is 1.
    x = operand(tape, input, "hardtanh")
    return choose(tape, x <= min_val, min_val, choose(tape, x >= max_val, max_val, x))


def hardsigmoid(tape: Tape, input: Any, inplace: bool = False) -> Any:
    return hardtanh(tape, _float(tape, input) + 3.0, 0.0, 6.0) / 6.0


def hardswish(tape: Tape, input: Any, inplace: bool = False) -> Any:
    x = _float(tape, input)
    return x * hardtanh(tape, x + 3.0, 0.0, 6.0) / 6.0


def softsign(tape: Tape, input: Any) -> Any:
    x = _float(tape, input)
    return x / (1.0 + abs(x))


def tanhshrink(tape: Tape, input: Any) -> Any:
    x = _float(tape, input)
    return x - x.tanh()


def softshrink(tape: Tape, input: Any, lambd: Any = 0.5) -> Any:
    x = _float(tape, input)
    return choose(tape, x > lambd, x - lambd, choose(tape, x < -lambd, x + lambd, x * 0.0))


def hardshrink(tape: Tape, input: Any, lambd: Any = 0.5) -> Any:
    x = _float(tape, input)
    return choose(tape, (x >= -lambd) & (x <= lambd), 0.0, x)


def threshold(tape: Tape, input: Any, threshold: Any, value: Any, inplace: bool = False) -> Any:
    x = operand(tape, input, "threshold")
    return choose(tape, x <= threshold, value, x)


def dropout(
    tape: Tape, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    if not training or p == 0:
        return input
    return no_random(tape, input)


def no_random(tape: Tape, *_: Any, **__: Any) -> Any:
    tape.fail(
        UnsupportedOpError,
        "draws random numbers.",
        why="forward and backward evaluate a mod more than once and must see the same values",
        fix="draw a tensor outside the mod, capture it and index it",
    )


# Arithmetic ---------------------------------------------------------------------------------------


def square(tape: Tape, input: Any) -> Any:
    return binary(tape, "mul", input, input)


def reciprocal(tape: Tape, input: Any) -> Any:
    return binary(tape, "div", 1.0, input)


def lerp(tape: Tape, input: Any, end: Any, weight: Any) -> Any:
    start, end, weight = (operand(tape, x, "torch.lerp") for x in (input, end, weight))
    step = binary(tape, "sub", end, start)
    near = binary(tape, "add", start, binary(tape, "mul", weight, step))
    far = binary(tape, "sub", end, binary(tape, "mul", step, binary(tape, "sub", 1.0, weight)))
    if not isinstance(weight, Symbol):
        return near if abs(weight) < 0.5 else far
    return choose(tape, abs(weight) < 0.5, near, far)


def addcmul(tape: Tape, input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return binary(tape, "add", input, _scaled(tape, value, binary(tape, "mul", tensor1, tensor2)))


def addcdiv(tape: Tape, input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return binary(tape, "add", input, _scaled(tape, value, binary(tape, "div", tensor1, tensor2)))


def _scaled(tape: Tape, value: Any, x: Symbol) -> Any:
    return x if type(value) is int and value == 1 else binary(tape, "mul", value, x)


def hypot(tape: Tape, input: Any, other: Any) -> Any:
    squares = binary(tape, "add", square(tape, input), square(tape, other))
    return unary(tape, "sqrt", squares)


def frac(tape: Tape, input: Any) -> Any:
    return binary(tape, "sub", input, unary(tape, "trunc", input))


def deg2rad(tape: Tape, input: Any) -> Any:
    return binary(tape, "mul", _float(tape, input), math.pi / 180.0)


def rad2deg(tape: Tape, input: Any) -> Any:
    return binary(tape, "mul", _float(tape, input), 180.0 / math.pi)


def sinc(tape: Tape, input: Any) -> Any:
    x = _float(tape, input) * math.pi
    return choose(tape, x == 0, 1.0, x.sin() / choose(tape, x == 0, 1.0, x))


def logaddexp(tape: Tape, input: Any, other: Any) -> Any:
    return _logaddexp(tape, input, other, "exp", 1.0)


def logaddexp2(tape: Tape, input: Any, other: Any) -> Any:
    return _logaddexp(tape, input, other, "exp2", 1.0 / math.log(2.0))


def _logaddexp(tape: Tape, a: Any, b: Any, exp: str, scale: float) -> Any:
    a, b = _float(tape, a), _float(tape, b)
    same = a == b  # both infinite: their difference is no number
    distance = choose(tape, same, 0.0, -abs(a - b))
    grown = unary(tape, exp, distance).log1p()
    return binary(tape, "maximum", a, b) + (grown if scale == 1.0 else grown * scale)


def xlogy(tape: Tape, input: Any, other: Any) -> Any:
    x, y = operand(tape, input, "xlogy"), _float(tape, other)
    product = binary(tape, "mul", x, y.log())
    return choose(tape, binary(tape, "eq", x, 0) & ((y <= 0) | (y == math.inf)), 0.0, product)


def logit(tape: Tape, input: Any, eps: Any = None) -> Any:
    x = _float(tape, input)
    if eps is not None:
        x = clamp(tape, x, eps, 1.0 - eps)
    return (x / (1.0 - x)).log()


def heaviside(tape: Tape, input: Any, values: Any) -> Any:
    x = operand(tape, input, "heaviside")
    return choose(tape, x == 0, values, choose(tape, x < 0, 0, 1))


# Tests --------------------------------------------------------------------------------------------


def isfinite(tape: Tape, input: Any) -> Any:
    return ~(unary(tape, "isnan", input) | unary(tape, "isinf", input))


def isposinf(tape: Tape, input: Any) -> Any:
    return binary(tape, "eq", input, math.inf)


def isneginf(tape: Tape, input: Any) -> Any:
    return binary(tape, "eq", input, -math.inf)


def isclose(
    tape: Tape,
    input: Any,
    other: Any,
    rtol: float = 1e-05,
    atol: float = 1e-08,
    equal_nan: bool = False,
) -> Any:
    a, b = operand(tape, input, "isclose"), operand(tape, other, "isclose")
    allowed = binary(tape, "add", atol, abs(binary(tape, "mul", rtol, b)))
    distance = unary(tape, "abs", binary(tape, "sub", a, b))
    near = binary(tape, "eq", a, b) | (isfinite(tape, distance) & (distance <= allowed))
    if equal_nan:
        near = near | (unary(tape, "isnan", a) & unary(tape, "isnan", b))
    return near


def nan_to_num(
    tape: Tape, input: Any, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Any:
    x = operand(tape, input, "nan_to_num")
    if kind_of(x) != FLOAT:
        return x
    limits = torch.finfo(torch.float64 if tape.compute == "f64" else torch.float32)
    x = choose(tape, x == math.inf, limits.max if posinf is None else posinf, x)
    x = choose(tape, x == -math.inf, limits.min if neginf is None else neginf, x)
    return choose(tape, unary(tape, "isnan", x), nan, x)


def is_floating_point(tape: Tape, input: Symbol) -> bool:
    return input.is_floating_point()


def numel(tape: Tape, input: Symbol) -> int:
    return input.numel()


def tensor(tape: Tape, data: Any, *, dtype: Any = None, **_: Any) -> Any:
    """``torch.tensor(symbol)`` and ``torch.as_tensor(symbol)``: the symbol itself."""
    if isinstance(data, (Symbol, Tensor)):
        value = operand(tape, data, "torch.tensor")
        return constant(tape, value, (), dtype, kind_of(value))
    tape.fail(
        UnsupportedOpError,
        "builds a tensor from a list of traced values.",
        why="a symbol is not a number yet",
        fix="use torch.stack, or combine the values directly",
    )


_NAMED = (
    *(relu, relu6, leaky_relu, elu, celu, selu, gelu, silu, mish, softplus, logsigmoid),
    *(hardtanh, hardsigmoid, hardswish, softsign, tanhshrink, threshold, softshrink, hardshrink),
    *(dropout, square, reciprocal, lerp, addcmul, addcdiv, hypot, frac, deg2rad, rad2deg, sinc),
    *(logaddexp, logaddexp2, xlogy, logit, heaviside, isfinite, isposinf, isneginf, isclose),
    *(nan_to_num, is_floating_point, numel, tensor),
)
FORMULAS: dict[str, Handler] = {
    **{handler.__name__: handler for handler in _NAMED},
    "log_sigmoid": logsigmoid,
    "as_tensor": tensor,
    "asarray": tensor,
    **{f"{name}_like": no_random for name in ("rand", "randn", "randint")},
    "bernoulli": no_random,
    "multinomial": no_random,
}
