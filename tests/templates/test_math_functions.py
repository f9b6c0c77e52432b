"""Every m_ function against torch in float64, its float32 error held to twice torch's own."""

from __future__ import annotations

import ctypes

import pytest
import torch
from template_kernels import BEST, build, isa_levels
from torch import Tensor

UNARY = {
    "exp": (-110, 95), "exp2": (-155, 130), "expm1": (-20, 60), "tanh": (-12, 12),
    "sigmoid": (-110, 110), "log": (0, 100), "log2": (0, 100), "log10": (0, 100),
    "log1p": (-1, 50), "sqrt": (0, 1e5), "rsqrt": (0, 1e5), "erf": (-5, 5), "erfc": (-5, 9),
    "sin": (-20, 20), "cos": (-20, 20), "tan": (-20, 20), "asin": (-1, 1), "acos": (-1, 1),
    "atan": (-50, 50), "sinh": (-80, 80), "cosh": (-80, 80), "asinh": (-50, 50),
    "acosh": (1, 50), "atanh": (-1, 1),
}  # fmt: skip
EXACT = ("floor", "ceil", "round", "trunc", "abs", "sign")
BINARY = ("atan2", "pow")
EXACT_BINARY = ("minimum", "maximum", "mod", "fmod", "floordiv", "truncdiv")
INTEGER = ("floordiv", "truncdiv", "mod", "fmod", "minimum", "maximum")
TORCH = {
    "mod": torch.remainder,
    "floordiv": torch.floor_divide,
    "truncdiv": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
}
SPECIAL = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-40, 1.0])

PARTS = ("mods", "math_exp", "math_round", "math_int", "math_tanh", "math_log", "math_rare")
LOOPS = """
#define LOOPS(kind, Lane, V, name, vector, scalar) \\
  extern "C" void kind##_##name(const Lane* x, const Lane* y, Lane* o, long n) { \\
    for (long i = 0; i < n; i += W) { V a = load_lanes<V>(x + i), b = load_lanes<V>(y + i); store_lanes(o + i, vector); } \\
  } \\
  extern "C" void kind##_scalar_##name(const Lane* x, const Lane* y, Lane* o, long n) { \\
    for (long i = 0; i < n; i++) { Lane a = x[i], b = y[i]; o[i] = scalar; } \\
  }
#define UNARY(name) LOOPS(f, F, VF, name, m_##name(a), m_##name(a))
#define BINARY(name) LOOPS(f, F, VF, name, m_##name(a, b), m_##name(a, b))
#define INTEGER(name) LOOPS(i, int, VI, name, m_##name(a, b), m_##name(a, b)) \\
  LOOPS(l, i64, VL, name, m_##name(a, b), m_##name(a, b))
"""  # noqa: E501


def functions(isa: int, dtype: torch.dtype) -> ctypes.CDLL:
    lines = [f'#include "{part}.h"' for part in PARTS] + [LOOPS]
    lines += [f"UNARY({name})" for name in (*UNARY, *EXACT)]
    lines += [f"BINARY({name})" for name in (*BINARY, *EXACT_BINARY)]
    lines += [f"INTEGER({name})" for name in INTEGER]
    return build("\n".join(lines) + "\n", dtype=dtype, isa=isa, flags="-O1")


def run(library: ctypes.CDLL, entry: str, x: Tensor, y: Tensor | None = None) -> Tensor:
    out = torch.full_like(x, 77)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, x if y is None else y, out)]
    getattr(library, entry)(*pointers, ctypes.c_long(x.numel()))
    return out


def error(got: Tensor, want: Tensor, kept: Tensor) -> float:
    """Largest relative error where the float32 result is a normal number."""
    relative = (got.double() - want).abs() / want.abs()
    return float(relative[kept].max())


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accuracy_is_that_of_torch(isa: int, dtype: torch.dtype) -> None:
    library = functions(isa, dtype)
    worst = {}
    for name, (low, high) in UNARY.items():
        x = (torch.rand(8192, dtype=torch.float64) * (high - low) + low).to(dtype)
        x[:2048] = x[:2048] * 2.0 ** -torch.randint(0, 20, (2048,))
        x[2048 : 2048 + 8] = SPECIAL
        if low == 1:
            x.clamp_(min=1)
        reference = getattr(torch, name)
        want, theirs = reference(x.double()), reference(x)
        for entry in (f"f_{name}", f"f_scalar_{name}"):
            got = run(library, entry, x)
            # isfinite first: an overflow, a zero or a NaN must be the same one
            odd = ~torch.isfinite(theirs)
            torch.testing.assert_close(got[odd], theirs[odd], rtol=0, atol=0, equal_nan=True)
            tiny = torch.finfo(dtype).tiny
            kept = ~odd & (want.abs() > 2 * tiny) & (want.abs() < torch.finfo(dtype).max / 2)
            small = ~odd & ~kept & (want.abs() <= 2 * tiny)
            assert bool(((got.double() - want).abs()[small] <= 4 * tiny).all()), name
            ours, allowed = error(got, want, kept), error(theirs, want, kept)
            # in float64 the reference itself is a few units off
            floor = (2 if dtype == torch.float32 else 8) * torch.finfo(dtype).eps
            worst[entry] = ours / max(2 * allowed, floor)
    assert max(worst.values()) <= 1, {k: v for k, v in worst.items() if v > 1}


@pytest.mark.parametrize("isa", isa_levels())
def test_exact_functions_are_exact(isa: int) -> None:
    library = functions(isa, torch.float32)
    x = torch.cat([torch.randn(4088) * 10, SPECIAL])
    y = torch.cat([torch.randn(4088), torch.ones(8)])
    x[:100], y[:100] = x[:100].round(), y[:100].round()
    for name in (*EXACT, *EXACT_BINARY):
        reference = TORCH.get(name, getattr(torch, name, None))
        want = reference(x, y) if name in EXACT_BINARY else reference(x)
        for entry in (f"f_{name}", f"f_scalar_{name}"):
            got = run(library, entry, x, y)
            torch.testing.assert_close(
                got, want, rtol=0, atol=0, equal_nan=True, msg=lambda m, e=entry: f"{e}: {m}"
            )


@pytest.mark.parametrize("isa", isa_levels())
def test_integer_division_follows_torch(isa: int) -> None:
    library = functions(isa, torch.float32)
    for kind, dtype in (("i", torch.int32), ("l", torch.int64)):
        x = torch.randint(-1000, 1000, (4096,), dtype=dtype)
        y = torch.randint(-9, 9, (4096,), dtype=dtype)
        y[y == 0] = 3
        for name in INTEGER:
            want = TORCH.get(name, getattr(torch, name, None))(x, y)
            for entry in (f"{kind}_{name}", f"{kind}_scalar_{name}"):
                assert torch.equal(run(library, entry, x, y), want), entry
    least = torch.full((16,), -(2**63))
    run(functions(BEST, torch.float32), "l_floordiv", least, -torch.ones_like(least))  # no trap


@pytest.mark.parametrize("isa", isa_levels())
def test_power_of_pairs(isa: int) -> None:
    library = functions(isa, torch.float32)
    x, y = torch.rand(4096) * 8, torch.randn(4096) * 3
    for name, a in (("pow", x), ("atan2", x - 4)):
        want = getattr(torch, name)(a.double(), y.double())
        for entry in (f"f_{name}", f"f_scalar_{name}"):
            torch.testing.assert_close(run(library, entry, a, y).double(), want, rtol=3e-7, atol=0)


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_weights_are_normal_numbers_or_zero(isa: int, dtype: torch.dtype) -> None:
    """A subnormal weight would cost each multiply-add of it a hundred times its time."""
    lane = torch.float64 if dtype == torch.float64 else torch.float32
    lines = '#include "mods.h"\n#include "math_exp.h"\n' + LOOPS
    lines += "LOOPS(f, F, VF, weight, exp2_weight(a), F(0))\n"
    library = build(lines, dtype=dtype, isa=isa, flags="-O1")
    least = -1022 if dtype == torch.float64 else -126
    x = torch.linspace(1.25 * least, 0, 4096, dtype=lane)
    x[:3] = torch.tensor([float("-inf"), float("nan"), least], dtype=lane)
    found = run(library, "f_weight", x)
    assert found[1].isnan() and found[0] == 0 and found[2] > 0
    want = torch.where(x < least, 0.0, x.double().exp2())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if dtype == torch.bfloat16 else 3e-7
    torch.testing.assert_close(found[2:].double(), want[2:], rtol=tolerance, atol=0)
    assert not ((found > 0) & (found < torch.finfo(lane).tiny)).any()
