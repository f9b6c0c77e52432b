"""Each torch function a mod may call, values and derivatives, against torch on real tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.trace import trace_mod
from flexattn.trace.activations import FORMULAS
from flexattn.trace.functions import FUNCTIONS
from flexattn.trace.rows import ROWS

POINTS = torch.tensor(
    [-7.5, -3.0, -2.5, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.0, 6.0, 25.0]
)
OTHER = torch.tensor(1.75)
INTS = torch.arange(-4, 6)
Fn = Callable[[Any], Any]

# Functions of one float: value and derivative are compared.
OF_FLOAT: dict[str, Fn] = {
    **{
        name: (lambda x, name=name: getattr(torch, name)(x))  # type: ignore[misc]
        for name in [
            "abs", "absolute", "neg", "negative", "sign", "sgn", "floor", "ceil", "trunc", "fix",
            "exp", "exp2", "expm1", "sigmoid", "tanh", "erf", "erfc", "sin", "cos", "tan",
            "atan", "arctan", "sinh", "asinh", "arcsinh", "square", "frac", "deg2rad", "rad2deg",
            "sinc", "relu", "selu", "celu", "nan_to_num", "positive", "clone", "detach", "round",
            "reciprocal",
        ]
    },
    **{
        name: (lambda x, name=name: getattr(torch, name)(x.abs() + 0.5))  # type: ignore[misc]
        for name in ["log", "log2", "log10", "log1p", "sqrt", "rsqrt"]
    },
    **{
        name: (lambda x, name=name: getattr(torch, name)(x / 30))  # type: ignore[misc]
        for name in ["asin", "acos", "atanh", "arcsin", "arccos", "arctanh"]
    },
    "acosh": lambda x: torch.acosh(x.abs() + 1.5),
    "arccosh": lambda x: torch.arccosh(x.abs() + 1.5),
    **{
        name: (lambda x, name=name: getattr(F, name)(x))  # type: ignore[misc]
        for name in [
            "silu", "mish", "softplus", "logsigmoid", "relu6", "leaky_relu", "elu", "hardtanh",
            "hardsigmoid", "hardswish", "softsign", "tanhshrink", "softshrink", "hardshrink",
            "gelu",
        ]
    },
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu_slope": lambda x: F.leaky_relu(x, 0.3),
    "elu_alpha": lambda x: F.elu(x, alpha=2.0),
    "softplus_beta": lambda x: F.softplus(x, beta=2, threshold=5),
    "hardtanh_bounds": lambda x: F.hardtanh(x, -0.5, 0.5),
    "threshold": lambda x: F.threshold(x, 0.5, -2.0),
    "dropout_off": lambda x: F.dropout(x, 0.5, training=False),
    "clamp": lambda x: torch.clamp(x, -0.5, 1.0),
    "clamp_min_keyword": lambda x: x.clamp(min=0.25),
    "clip": lambda x: x.clip(max=0.25),
    "clamp_min": lambda x: torch.clamp_min(x, 0.3),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "clamp_tensors": lambda x: x.clamp(OTHER - 3, OTHER),
    "lerp": lambda x: torch.lerp(x, OTHER, 0.25),
    "lerp_far": lambda x: torch.lerp(x, OTHER, 0.75),
    "lerp_tensor": lambda x: x.lerp(x * 2, torch.sigmoid(x)),
    "addcmul": lambda x: torch.addcmul(x, x, OTHER, value=0.5),
    "addcdiv": lambda x: x.addcdiv(OTHER, x * x + 1),
    "hypot": lambda x: torch.hypot(x, OTHER),
    "logaddexp": lambda x: torch.logaddexp(x, x * 0.5 + 1),
    "logaddexp2": lambda x: torch.logaddexp2(x, OTHER),
    "xlogy": lambda x: torch.xlogy(x, OTHER),
    "logit": lambda x: torch.logit(torch.sigmoid(x / 4)),
    "logit_eps": lambda x: torch.special.logit(torch.sigmoid(x / 4), eps=0.3),
    "heaviside": lambda x: x * torch.heaviside(x.detach(), OTHER),
    "expit": lambda x: torch.special.expit(x),
    "add_alpha": lambda x: torch.add(x, OTHER, alpha=2) - x.sub(x * x, alpha=3),
    "rsub": lambda x: torch.rsub(x, 1.0) + x.subtract(3).multiply(2).divide(7),
    "atan2": lambda x: torch.atan2(x, OTHER) + x.arctan2(x * x + 1),
    "maximum": lambda x: torch.maximum(x, OTHER) - torch.minimum(x, OTHER * 0.3),
    "max": lambda x: torch.max(x, OTHER) + torch.min(x * 2, x + 1.3),
    "fmax": lambda x: torch.fmax(x, OTHER) - x.fmin(OTHER * 0.3),
    "pow": lambda x: x**2 + x.pow(3) + torch.pow(2.0, x / 4) + 3**x * 1e-9 + (x * x) ** 1.5,
    "float_power": lambda x: torch.float_power(x, 2).float(),
    "ldexp": lambda x: torch.ldexp(x, torch.tensor(3)),
    "remainder": lambda x: x % 2.0 + torch.remainder(x, -1.5) + torch.fmod(x, 2.0),
    "floor_divide": lambda x: x.detach() // 2.0 + torch.floor_divide(x.data, 0.75) + x / 3,
    "div_floor": lambda x: torch.div(x.data, 0.7, rounding_mode="floor") + torch.true_divide(x, 3),
    "div_trunc": lambda x: torch.div(x, -0.7, rounding_mode="trunc"),
    "round_decimals": lambda x: torch.round(x * 0.377, decimals=2),
    "masked_fill": lambda x: x.masked_fill(x > 1, 2.0) * 3,
    "where_forms": lambda x: torch.where(x > 0, x, 0) + torch.where(x > 1, 2, x).where(x < 2, 9.0),
    "isclose": lambda x: torch.where(torch.isclose(x, torch.tensor(0.5)), x * 5, x),
    "isfinite": lambda x: torch.where(torch.isfinite(1 / x), x, x * 3),
    "isinf": lambda x: torch.where(torch.isinf(1 / x) | torch.isnan(0 / x), 3 * x, x),
    "signed_infinity": lambda x: torch.where(torch.isposinf(1 / x) | torch.isneginf(x), 0, x),
    "nan_to_num_bounds": lambda x: torch.nan_to_num(1 / x, posinf=7.0).detach() + x,
    "in_place": lambda x: (x * 2).add_(1).clamp_(max=4).mul_(x),
    "activation_in_place": lambda x: F.relu(x * 2, inplace=True),
    "like": lambda x: x * torch.full_like(x, 2.5) + torch.ones_like(x) - torch.zeros_like(x),
    "new": lambda x: x * x.new_full((), 2) + x.new_ones(()) + x.new_zeros(()) + x.new_tensor(2.5),
    "full": lambda x: x + torch.full((), 1.5, dtype=x.dtype),
    "tensor": lambda x: torch.as_tensor(x) * 2,
    "type_as": lambda x: (x > 0).type_as(x) * x + x.type(torch.float32) + x.to(OTHER),
    "conversions": lambda x: x.float() + x.int() + x.long().float() + x.bool() + x.to(torch.int32),
    "device": lambda x: x.to("cpu").cpu().to(device=x.device).contiguous(),
    "stack": lambda x: torch.stack([x, x * 2, OTHER]).sum() + torch.stack((x, x)).prod(0),
    "reductions_of_scalars": lambda x: x.sum() + x.mean(-1) + x.amax() + x.max() + x.prod(),
    "logical": lambda x: torch.logical_or(x, x > 1).float() + torch.logical_xor(x > 0, x).int(),
    "vector": lambda x: torch.linalg.vecdot(torch.stack([x, x]), torch.ones(2)) + x,
    "matmul": lambda x: torch.stack([x, x * x]) @ torch.tensor([1.0, 2.0]) + torch.ones(1)[0],
    "inner": lambda x: torch.inner(torch.tensor([1.0, 2.0]), torch.stack([x, x * x])),
    "shapes": lambda x: x.unsqueeze(0).expand(3).reshape(3, 1).squeeze(1).sum() + x.view(1)[0],
    "flatten": lambda x: x.expand(2, 2).flatten(0, 1).mean() + x.broadcast_to(2).ravel()[-1],
    "data": lambda x: x.data * x,
    "count": lambda x: torch.count_nonzero(torch.stack([x, x * 0])) * x,
    "extremes": lambda x: torch.stack([x, OTHER]).max(0).values + torch.stack([x, OTHER]).amin(),
    "all_any": lambda x: torch.stack([x > 0, x < 1]).all().float() + torch.stack([x, x]).any(),
    "properties": lambda x: x * x.ndim + x.numel() + x.is_floating_point() + len(x.shape) + x.dim(),
    "aten": lambda x: torch.ops.aten.tanh(x) + torch.ops.aten.add.Tensor(x, 1),
    "unbind": lambda x: torch.stack([x, x * 2]).unbind()[1] + torch.numel(x),
    "isin": lambda x: torch.isin(x, torch.tensor([1.0, 0.5])) * x,
}  # fmt: skip

# Functions of one int64.
OF_INT: dict[str, Fn] = {
    "bitwise": lambda i: torch.bitwise_and(i, 6) | torch.bitwise_or(i, 1) ^ i.bitwise_xor(3),
    "not": lambda i: torch.bitwise_not(i) + ~i,
    "shifts": lambda i: (i << 2) + (i >> 1) + torch.bitwise_left_shift(i, 1),
    "right_shift": lambda i: i.bitwise_right_shift(2),
    "division": lambda i: i // 3 * 100 + i % 3 + (i // -3) * 7 + i % -3 + torch.remainder(i, 4),
    "truncation": lambda i: torch.div(i, 3, rounding_mode="trunc") + torch.fmod(i, 3),
    "true_division": lambda i: i / 4 + torch.div(i, 8),
    "comparisons": lambda i: (i == 2).int() + (i != 2).int() * 2 + (i < 2.5).int() + i.ge(0).int(),
    "names": lambda i: torch.less(i, 2) | i.greater_equal(4) | i.not_equal(3) & torch.lt(i, 3),
    "rounding": lambda i: torch.floor(i) + torch.round(i) + i.ceil() + i.trunc(),
    "clamping": lambda i: i.clamp(-2, 3) + torch.clamp(i, min=0) + i.clamp(max=1.5),
    "powers": lambda i: i**2 + i**0 + torch.pow(i, 3) + 2.0**i + 2 ** (i * 1.0) + i**0.0,
    "signs": lambda i: abs(i) + i.sign() - -i + i.sgn() + (+i),
    "floats": lambda i: torch.exp(i / 4) + torch.sqrt(abs(i)) + torch.sigmoid(i) + i * 0.5,
    "bools": lambda i: i + (i > 0) + (i > 1) * 2 + ((i > 2) & True) + ((i > 0) ^ False) * i,
    "bool_to_int": lambda i: ((i > 0) & 1) + ((i > 0) | 2) + (i > 0) // 1 + (i > 0) % 2,
    "mixed_where": lambda i: torch.where(i > 0, i, 0.5) + torch.where(i > 1, True, i),
    "logical": lambda i: torch.logical_not(i) | torch.logical_and(i, i - 1),
    "masked_fill": lambda i: i.masked_fill(i > 2, 9) + torch.isnan(i) + torch.isfinite(i),
    "zeros": lambda i: torch.zeros_like(i, dtype=torch.bool) | (i > 1),
    "float_zeros": lambda i: torch.zeros_like(i, dtype=torch.float32) + i.new_ones(()) + i,
    "reductions": lambda i: torch.stack([i, i + 1]).sum() + torch.stack([i > 0, i > 1]).sum(),
    "extremes": lambda i: torch.stack([i, -i, i * i]).amax() + torch.stack([i, -i]).min(-1)[0],
    "type": lambda i: i.type(torch.float32) / 3 + i.short() + i.half().double().float(),
    "reversed": lambda i: 7 - i + 7 * i + 7 % (i.abs() + 1) + 7 // (i * i + 1) + (7 & i) + (7 ^ i),
    "reversed_shift": lambda i: 1 << i.abs(),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_FLOAT)
def test_function_of_a_float(name: str) -> None:
    fn = OF_FLOAT[name]
    points = POINTS.clone().requires_grad_()
    expected = torch.stack([fn(point).float() for point in points])
    score = POINTS.clone().requires_grad_()
    traced = trace_mod(lambda s, b, h, q, k: fn(s), "score")
    value = evaluate(traced.graph(), {"score": score}, traced.captures)
    value = value.expand_as(expected)
    torch.testing.assert_close(value, expected, rtol=2e-6, atol=1e-6, equal_nan=True)
    if expected.requires_grad:
        (wanted,) = torch.autograd.grad(expected.sum(), points)
        (given,) = torch.autograd.grad(value.sum(), score, allow_unused=True)
        given = torch.zeros_like(wanted) if given is None else given
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", OF_INT)
def test_function_of_an_integer(name: str) -> None:
    fn = OF_INT[name]
    expected = torch.stack([fn(i) for i in INTS])
    kind = "mask" if expected.dtype == torch.bool else "score"
    traced = trace_mod(lambda *args: fn(args[-2]), kind)  # type: ignore[arg-type]
    value = evaluate(traced.graph(), {"q_idx": INTS}, traced.captures)
    if kind == "score":
        expected = expected.float()
    torch.testing.assert_close(value.expand_as(expected), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OF_INT)
def test_dtype_that_a_symbol_reports_is_torchs(name: str) -> None:
    fn = OF_INT[name]
    seen: list[torch.dtype] = []

    def mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        seen.append(fn(q_idx).dtype)
        return q_idx > 0

    trace_mod(mod, "mask")
    wanted = fn(torch.tensor(2)).dtype
    assert seen == [wanted if wanted in (torch.bool, torch.float32) else torch.int64]


def test_every_name_in_the_tables_is_torchs() -> None:
    spaces = (torch, Tensor, F, torch.special, torch._C._nn, torch.linalg)
    for name in {**FUNCTIONS, **FORMULAS, **ROWS}:
        assert any(hasattr(space, name) for space in spaces), name
