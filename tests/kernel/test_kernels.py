"""Whole kernels made from programs, run directly, against dense attention in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_calls import attention, backward, forward

from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, Input, Load, Node, rewrite
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel.isa import ISAS, host
from flexattn.runtime.launch import Fault

HERE = [isa for isa in ISAS.values() if isa.level <= host().level]
Q, K, H, B = (Input(name, I64) for name in ("q_idx", "kv_idx", "h", "b"))
S = Input("score", F32)
CAUSAL = Apply("ge", (Q, K), BOOL)
M, N, D = 75, 90, 12


def add(*args: Node) -> Node:
    total, *rest = args
    for arg in rest:
        total = Apply("add", (total, arg), arg.dtype)
    return total


def mul(a: Node, b: Node) -> Node:
    return Apply("mul", (a, b), a.dtype)


DISTANCE = Apply("sub", (Q, K), I64)
DISTANCE_OR_ZERO = Apply("maximum", (DISTANCE, Const(0, I64)), I64)
BUCKET = Apply("minimum", (Apply("abs", (DISTANCE,), I64), Const(9, I64)), I64)
LEARNED = {  # shape of a captured parameter, and where it is read
    "none": ((2,), (H,)),
    "scalar": ((), ()),
    "q": ((2, M), (H, Q)),
    "kv": ((N,), (K,)),
    "pair": ((2, N + M), (H, Apply("add", (DISTANCE, Const(N, I64)), I64))),
    "bucket": ((10, 2), (BUCKET, H)),
    "dense": ((2, M, N), (H, Q, K)),
    "dense transposed": ((N, M), (K, Q)),
    "batch": ((3, 2), (B, H)),
}


def inputs(batch: int = 3, heads: int = 2, kv_heads: int = 1) -> list[torch.Tensor]:
    shapes = ((batch, heads, M, D), (batch, kv_heads, N, D), (batch, kv_heads, N, 8))
    return [torch.randn(shape) / 2 for shape in shapes]


def in_f64(program: Program) -> Program:
    def rule(node: Node) -> Node:
        match node:
            case Input(name, "f32"):
                return Input(name, F64)
            case Const(value, "f32"):
                return Const(value, F64)
            case Load(capture, indices, "f32"):
                return Load(capture, indices, F64)
            case Apply(op, args, "f32"):
                return Apply(op, args, F64)
        return node

    score = None if program.score is None else rewrite(program.score, rule)
    mask = None if program.mask is None else rewrite(program.mask, rule)
    numbers = tuple("f64" if kind == "f32" else kind for kind in program.numbers)
    return Program(score, mask, program.captures, numbers, F64)


def close(value: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    scale = float(wanted.abs().nan_to_num(0, 0, 0).max()) if wanted.numel() else 0.0
    torch.testing.assert_close(value.double(), wanted, rtol=0, atol=tolerance * max(scale, 1e-3))


@pytest.mark.parametrize(
    ("isa", "wide"),
    [*((isa, False) for isa in HERE), (HERE[-1], True)],
    ids=lambda value: getattr(value, "name", value),
)
def test_softcap_bias_and_documents(isa, wide):
    cap = mul(Apply("tanh", (Apply("div", (S, Input("n1", F32)), F32),), F32), Input("n1", F32))
    score = add(cap, Load(0, (H, Q, K), F32), Load(1, (K,), F32))
    window = Apply("lt", (DISTANCE, Input("n0", I64)), BOOL)
    same = Apply("eq", (Load(2, (Q,), I64), Load(2, (K,), I64)), BOOL)
    mask = Apply("and", (Apply("and", (CAUSAL, window), BOOL), same), BOOL)
    types = (CaptureType("f32", 3), CaptureType("bf16", 1), CaptureType("i64", 1))
    program = Program(score, mask, types, ("i64", "f32"))
    captures = [
        torch.randn(M, N, 2).permute(2, 0, 1),
        torch.randn(N).bfloat16(),
        torch.arange(max(M, N)) // 20,
    ]
    numbers = {"ints": (17,), "floats": (0.7,)}
    q, k, v = inputs()
    out, lse, fault = forward(program, q, k, v, captures, isa=isa, wide=wide, **numbers)
    exact = [t.double() if t.is_floating_point() else t for t in captures]
    wanted, wanted_lse = attention(
        in_f64(program), q.double(), k.double(), v.double(), exact, **numbers
    )
    assert fault is None
    close(out, wanted, 2e-6)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("kind", "chunks"), [*((kind, 1) for kind in LEARNED), ("none", 2), ("q", 2), ("pair", 2)]
)
def test_gradients_of_captures_by_where_they_are_read(kind, chunks):
    """The parameter both scales and shifts the score, under a mask."""
    shape, spot = LEARNED[kind]
    read = Load(0, spot, F32)
    score = add(mul(S, Apply("sigmoid", (read,), F32)), mul(read, read))
    program = Program(score, CAUSAL, (CaptureType("f32", len(shape)),))
    table = torch.randn(shape) / 2
    q, k, v = inputs()
    out, lse, _ = forward(program, q, k, v, [table])
    dout = torch.randn(out.shape)
    grads = backward(program, (q, k, v, out, lse, dout), [table], [0], chunks=chunks)
    leaves = [t.double().requires_grad_() for t in (q, k, v, table)]
    wanted, _ = attention(in_f64(program), *leaves[:3], leaves[3:])
    wanted.backward(dout.double())
    for name, leaf in zip(("q", "k", "v", "0"), leaves):
        close(grads[name], leaf.grad, 1e-5)


def test_one_capture_read_at_two_places_and_two_captures():
    twice = mul(Load(0, (Q,), F32), Load(0, (K,), F32))
    program = Program(
        add(S, twice, Load(1, (H, BUCKET), F32)),
        None,
        (CaptureType("f32", 1), CaptureType("f32", 2)),
    )
    captures = [torch.randn(max(M, N)), torch.randn(2, 10)]
    q, k, v = inputs()
    out, lse, _ = forward(program, q, k, v, captures)
    dout = torch.randn(out.shape)
    grads = backward(program, (q, k, v, out, lse, dout), captures, [0, 1])
    leaves = [t.double().requires_grad_() for t in (q, k, v, *captures)]
    attention(in_f64(program), *leaves[:3], leaves[3:])[0].backward(dout.double())
    for name, leaf in zip(("q", "k", "v", "0", "1"), leaves):
        close(grads[name], leaf.grad, 1e-5)


def test_a_dropped_pair_gives_no_gradient_even_where_the_slope_is_infinite():
    root = Apply("sqrt", (Load(0, (DISTANCE_OR_ZERO,), F32),), F32)
    program = Program(add(S, root), Apply("gt", (Q, K), BOOL), (CaptureType("f32", 1),))
    table = torch.arange(M + 1.0)  # sqrt has no slope at 0, which only dropped pairs read
    q, k, v = inputs()
    out, lse, _ = forward(program, q, k, v, [table])
    grads = backward(program, (q, k, v, out, lse, torch.randn(out.shape)), [table], [0])
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    assert grads["0"][0] == 0 and bool((grads["0"][1:M] != 0).all())


def test_an_index_outside_is_reported_where_the_mask_keeps_it():
    program = Program(add(S, Load(0, (DISTANCE,), F32)), CAUSAL, (CaptureType("f32", 1),))
    q, k, v = inputs()
    assert forward(program, q, k, v, [torch.zeros(M)])[2] is None
    assert forward(program, q, k, v, [torch.zeros(M - 5)])[2] == Fault(0, 0, M - 5, 0)


def test_offsets_beyond_32_bits_are_reached():
    step = 2**32 // M + 1
    try:
        storage = torch.empty(M * step, dtype=torch.uint8)  # untouched pages take no memory
    except RuntimeError:
        pytest.skip("no address space for 4 GiB")
    table = storage.as_strided((M, N), (step, 1))
    table.copy_(torch.randint(0, 3, (M, N)))
    score = add(S, Apply("to_float", (Load(0, (Q, K), I64),), F32))
    program = Program(score, None, (CaptureType("u8", 2),))
    q, k, v = inputs()
    wanted, _ = attention(in_f64(program), q.double(), k.double(), v.double(), [table])
    close(forward(program, q, k, v, [table])[0], wanted, 2e-6)


@pytest.mark.parametrize("shape", [(0, 2), (N, 0), (0, 0)])
def test_an_empty_capture_is_never_read(shape):
    """Each index is used only where it is inside, that is nowhere."""
    size = Input("size0_0", I64), Input("size0_1", I64)
    inside = Apply("and", (Apply("lt", (K, size[0]), BOOL), Apply("lt", (H, size[1]), BOOL)), BOOL)
    bias = Apply("where", (inside, Load(0, (K, H), F32), Const(0.0, F32)), F32)
    program = Program(add(S, bias), None, (CaptureType("f32", 2),))
    q, k, v = inputs()
    out, lse, fault = forward(program, q, k, v, [torch.zeros(shape)])
    wanted, _ = attention(Program(None, None), q.double(), k.double(), v.double(), [])
    assert fault is None
    close(out, wanted, 2e-6)
    grads = backward(program, (q, k, v, out, lse, torch.ones(out.shape)), [torch.zeros(shape)], [0])
    assert grads["0"].shape == shape and bool(grads["q"].isfinite().all())
