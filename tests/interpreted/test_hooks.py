"""Generated Triton against the interpreter of graphs: every operation, every load, any graph."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_triton import expect, run

from flexattn.ir.nodes import BOOL, F32, F64, FLOATS, I32, I64, Apply, Const, Input, Load, Node
from flexattn.ir.ops import OPS

sys.path.append(str(Path(__file__).parents[1] / "lowering"))
from operands import M, N, captures_of_all_kinds, loads, operands, random_graphs, roots_of

# NumPy, on which the interpreter rests, says what infinities and NaN do.
TOP = Apply("lt", (Input("q_idx", I64), Const(1, I64)), BOOL)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("compute", [F32, F64])
def test_every_operation_agrees_with_the_interpreter(compute):
    dtype = torch.float64 if compute == F64 else torch.float32
    captures, score = operands(dtype), torch.zeros(1, 1, M, N, dtype=dtype)
    roots = [(op, root) for op in OPS for root in roots_of(op, compute)]
    values = run([root for _, root in roots], captures, score, compute=compute)
    wrong = []
    for (op, root), value in zip(roots, values):
        wanted = expect(root, captures, score, compute=compute)
        tolerance = 0.0 if root.dtype not in FLOATS else 1e-12 if compute == F64 else 4e-6
        try:
            torch.testing.assert_close(
                value, wanted, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True
            )
        except AssertionError as error:
            wrong.append(
                f"{op} {[arg.dtype for arg in root.args]} at {root.args[-1].args}: {error}"
            )
    assert not wrong, "\n".join(wrong)


# Where a formula would cancel, overflow or end; none of them within a rounding of a jump.
CORNERS = [
    1e-30, 1e-20, 1e-8, 1e-5, 1e-3, 0.02, 0.3, 0.41, 0.42, 0.5, 0.62, 0.64, 0.65, 0.99, 0.9999,
    1.0, 1.0001, 1.5, 2.0, 3.0, 4.5, 5.5, 8.0, 9.1, 12.5, 20.0, 40.0, 80.0, 100.0, 1e4, 1e12,
    0.0, float("inf"), float("nan"),
]  # fmt: skip
PRECISE = [
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sigmoid", "tanh",
    "erf", "erfc", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "round",
    "trunc", "floor", "ceil", "sign",
]  # fmt: skip


@pytest.mark.parametrize("compute", [F32, F64])
def test_functions_are_as_precise_at_corners(compute):
    dtype = torch.float64 if compute == F64 else torch.float32
    x = torch.tensor([*CORNERS, *(-c for c in CORNERS)], dtype=dtype)
    score = x.view(1, 1, 1, -1)
    roots = [Apply(op, (Input("score", compute),), compute) for op in PRECISE]
    unit = torch.finfo(dtype).eps
    for op, value in zip(PRECISE, run(roots, [], score, compute=compute)):
        # More digits than the kernel has, rounded to what it has; subnormals may go to 0.
        exact = OPS[op].eager(score.double()) if compute == F32 else OPS[op].eager(score)
        known = exact.to(dtype).double()
        slope = score.double().abs() if op in ("exp", "exp2", "erfc", "sinh", "cosh") else 0.0
        slope = slope**2 if op == "erfc" else slope
        allowed = known.abs() * unit * (4 + slope) + torch.finfo(dtype).tiny
        close = (
            ((value - known).abs() <= allowed) | (value == known) | (value.isnan() & known.isnan())
        )
        assert close.all(), (op, x[~close.flatten()], value[~close], known[~close])


def test_signs_of_zeros_are_kept():
    score = torch.tensor([-0.0, -0.3]).view(1, 1, 1, 2)
    ops = ("trunc", "round", "ceil", "tanh", "expm1", "log1p", "asin", "atan", "sinh", "asinh")
    raw = Input("score", F32)
    for op, value in zip(ops, run([Apply(op, (raw,), F32) for op in ops], [], score)):
        assert torch.equal(value.signbit(), OPS[op].eager(score).signbit()), op
    angle = Apply("atan2", (raw, Const(-1.0, F32)), F32)
    torch.testing.assert_close(run([angle], [], score)[0], expect(angle, [], score))


@pytest.mark.parametrize("op", ["fmod", "mod", "floordiv", "truncdiv"])
def test_remainders_of_far_quotients_are_exact(op):
    by = torch.tensor([3.0, 0.1, -0.7, 1e-3, 977.5])
    x = torch.tensor([1e30, 7.1e20, 1e15, 16777219.0, 5.0, -1e30, -123456.78])
    score = x.view(1, 1, -1, 1).repeat(1, 1, 1, len(by))
    root = Apply(op, (Input("score", F32), Load(0, (Input("kv_idx", I64),), F32)), F32)
    (value,) = run([root], [by], score)
    torch.testing.assert_close(value, expect(root, [by], score), rtol=0, atol=0)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("compute", [F32, F64])
def test_every_load_agrees_with_the_interpreter(compute, wide):
    dtype = torch.float64 if compute == F64 else torch.float32
    captures, score = captures_of_all_kinds(), torch.randn(2, 3, M, N, dtype=dtype)
    roots = loads(captures, compute)
    values = run(roots, captures, score, compute=compute, wide=wide)
    for root, value in zip(roots, values):
        torch.testing.assert_close(
            value, expect(root, captures, score, compute=compute), rtol=0, atol=0
        )


@pytest.mark.parametrize("wide", [False, True])
def test_inputs_numbers_and_sizes_arrive(wide):
    captures, score = [torch.zeros(4, 9), torch.zeros(5)], torch.randn(2, 3, M, N)
    names = ("b", "h", "q_idx", "kv_idx", "n0", "n1", "size0_0", "size0_1", "size1_0")
    roots: list[Node] = [Input(name, I64) for name in names]
    roots += [
        Input("score", F32),
        Input("n2", F32),
        Apply("mul", (Input("n2", F32), Input("score", F32)), F32),
    ]
    numbers = {"ints": (-3, 2**40 if wide else 2**24), "floats": (0.1,)}
    values = run(roots, captures, score, wide=wide, **numbers)
    for root, value in zip(roots, values):
        torch.testing.assert_close(value, expect(root, captures, score, **numbers), rtol=0, atol=0)


def test_numbers_keep_double_precision():
    score = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    root = Apply("sin", (Input("n0", F64),), F64)
    (value,) = run([root], [], score, compute=F64, floats=(0.1,))
    torch.testing.assert_close(value, torch.full_like(score, 0.1).sin(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("compute", [F32, F64])
def test_constants_keep_every_bit(compute):
    floats = [0.1, -0.0, 1e-45, 3.4e38, 1 / 3, float("inf"), -float("inf"), float("nan")]
    ints = [0, -1, 2**63 - 1, -(2**63), 2**31]
    score = torch.zeros(1, 1, 2, 2, dtype=torch.float64 if compute == F64 else torch.float32)
    raw, row = Input("score", compute), Input("q_idx", I64)
    roots: list[Node] = [Const(value, compute) for value in floats]
    roots += [Apply("add", (raw, Const(value, compute)), compute) for value in floats]
    roots += [Apply("where", (TOP, raw, Const(value, compute)), compute) for value in floats]
    roots += [Const(value, I64) for value in ints] + [Const(-(2**31), I32), Const(True, BOOL)]
    roots += [Apply("xor", (row, Const(value, I64)), I64) for value in ints]
    for root, value in zip(roots, run(roots, [], score, compute=compute)):
        wanted = expect(root, [], score, compute=compute)
        same = value.view(torch.int64) == wanted.contiguous().view(torch.int64)
        assert (same | (value.isnan() & wanted.isnan())).all(), root


@given(st.integers(0, 2**30), st.booleans())
@settings(max_examples=6)
def test_random_graphs_agree_with_the_interpreter(seed, wide):
    torch.manual_seed(seed)
    captures = [torch.randn(M, N), torch.randn(3), torch.randint(0, 9, (N,)), torch.rand(N) < 0.5]
    score = torch.randn(2, 3, M, N)
    roots, numbers = random_graphs(seed), {"ints": (11,), "floats": (0.3,)}
    for root, value in zip(roots, run(roots, captures, score, wide=wide, **numbers)):
        wanted = expect(root, captures, score, **numbers)
        tolerance = 2e-5 if root.dtype in FLOATS else 0.0
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
