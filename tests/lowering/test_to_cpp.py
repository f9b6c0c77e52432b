"""Generated C++ against the interpreter: every operation, every way to load, random graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import expect, run
from operands import M, N, captures_of_all_kinds, loads, operands, random_graphs, roots_of

from flexattn.ir.nodes import BOOL, F32, F64, FLOATS, I32, I64, Apply, Const, Input, Node
from flexattn.ir.ops import OPS
from flexattn.kernel.isa import ISAS, host
from flexattn.lowering.spellings import SPELLINGS

HERE = [isa for isa in ISAS.values() if isa.level <= host().level]


def test_every_operation_has_a_spelling():
    assert SPELLINGS.keys() == OPS.keys()


@pytest.mark.parametrize(
    ("compute", "isa"),
    [(F32, HERE[-1]), (F64, HERE[-1]), (F32, HERE[0])],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_operation_agrees_with_the_interpreter(compute, isa):
    dtype = torch.float64 if compute == F64 else torch.float32
    captures, score = operands(dtype), torch.zeros(1, 1, M, N, dtype=dtype)
    roots = [(op, root) for op in OPS for root in roots_of(op, compute)]
    values = run([root for _, root in roots], captures, score, compute=compute, isa=isa)
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


def test_inputs_numbers_and_sizes_arrive():
    captures, score = [torch.zeros(4, 9), torch.zeros(5)], torch.randn(2, 3, M, N)
    names = ("b", "h", "q_idx", "kv_idx", "n0", "n1", "size0_0", "size0_1", "size1_0")
    roots: list[Node] = [Input(name, I64) for name in names]
    roots += [
        Input("score", F32),
        Input("n2", F32),
        Apply("mul", (Input("n2", F32), Input("score", F32)), F32),
    ]
    numbers = {"ints": (-3, 2**40), "floats": (0.1,)}
    for root, value in zip(roots, run(roots, captures, score, **numbers)):
        torch.testing.assert_close(value, expect(root, captures, score, **numbers), rtol=0, atol=0)


def test_constants_keep_every_bit():
    floats = [0.1, -0.0, 1e-45, 3.4e38, float("inf"), -float("inf"), float("nan"), 1 / 3]
    ints = [0, -1, 2**63 - 1, -(2**63), 2**31]
    score = torch.zeros(1, 1, 2, 2)
    for compute in (F32, F64):
        roots: list[Node] = [Const(value, compute) for value in floats]
        roots += [Const(value, I64) for value in ints] + [Const(-(2**31), I32), Const(True, BOOL)]
        score = score.to(torch.float64 if compute == F64 else torch.float32)
        for root, value in zip(roots, run(roots, [], score, compute=compute)):
            wanted = expect(root, [], score, compute=compute)
            assert torch.equal(value.view(torch.int64), wanted.contiguous().view(torch.int64)) or (
                wanted.isnan().all() and value.isnan().all()
            )


@given(st.integers(0, 2**30), st.booleans())
@settings(max_examples=4)
def test_random_graphs_agree_with_the_interpreter(seed, wide):
    torch.manual_seed(seed)
    captures = [torch.randn(M, N), torch.randn(3), torch.randint(0, 9, (N,)), torch.rand(N) < 0.5]
    score = torch.randn(2, 3, M, N)
    roots, numbers = random_graphs(seed), {"ints": (11,), "floats": (0.3,)}
    for root, value in zip(roots, run(roots, captures, score, wide=wide, **numbers)):
        wanted = expect(root, captures, score, **numbers)
        tolerance = 2e-5 if root.dtype in FLOATS else 0.0
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
