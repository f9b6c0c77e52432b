"""The hooks that sum captured gradients, interpreted tile by tile, against torch.autograd."""

from __future__ import annotations

import pytest
import torch
from lowered_triton import STORAGE, capture_arguments, load_module
from torch import Tensor

from flexattn import template
from flexattn.ir.hooks import Hooks
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program
from flexattn.lowering.to_triton import lower_triton_hooks
from flexattn.passes.pipeline import build_hooks

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# What the kernels for dQ and for dK and dV do, with scores and their gradients given.
DRIVER = """
@triton.jit
def rows(
    captures, grads, scores, outputs, arriving, found, B, Hq, M, N, tiles,
    BM: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr,
):
    bh, tile = tl.program_id(0), tl.program_id(1)
    b, h = bh // Hq, bh % Hq
    q0 = tile * BM
    last = tl.minimum(q0 + BM, M)
    o_q = q0 + tl.arange(0, BM)[:, None]
    q_idx = tl.minimum(o_q, M - 1)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    sums = begin_row_grads(BM)
    for kv0 in range(0, N, BN):
        o_kv = kv0 + tl.arange(0, BN)[None, :]
        kv_idx = tl.minimum(o_kv, N - 1)
        kvv = hoist_kv(captures, u, b, h, kv_idx)
        keep = (o_q < M) & (o_kv < N)
        at = (bh * M + o_q) * N + o_kv
        score = tl.load(scores + at, mask=keep, other=float("nan"))
        output = tl.load(outputs + at, mask=keep, other=0.0)
        grad = tl.load(arriving + at, mask=keep, other=0.0)
        ds = score_mod_grad(captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx)
        tl.store(found + at, tl.where(grad == 0, 0.0, ds), mask=keep)
        sums = add_row_grads(
            sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx,
            bh, 0, B, Hq, q0, kv0, last, N, M, N, BM, BN, SHARED)
    end_row_grads(
        sums, grads, captures, u, qv, b, h, q_idx, bh, 0, B, Hq, q0, last, M, N, tile, tiles, BM)


@triton.jit
def keys(
    captures, grads, scores, outputs, arriving, Hq, M, N, BM: tl.constexpr, BN: tl.constexpr,
):
    bh, kv0 = tl.program_id(0), tl.program_id(1) * BN
    b, h = bh // Hq, bh % Hq
    o_kv = kv0 + tl.arange(0, BN)[:, None]
    kv_idx = tl.minimum(o_kv, N - 1)
    u = hoist_uniform(captures, b, h)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    sums = begin_key_grads(BN)
    for q0 in range(0, M, BM):
        o_q = q0 + tl.arange(0, BM)[None, :]
        q_idx = tl.minimum(o_q, M - 1)
        qv = hoist_q(captures, u, b, h, q_idx)
        keep = (o_q < M) & (o_kv < N)
        at = (bh * M + o_q) * N + o_kv
        score = tl.load(scores + at, mask=keep, other=float("nan"))
        output = tl.load(outputs + at, mask=keep, other=0.0)
        grad = tl.load(arriving + at, mask=keep, other=0.0)
        sums = add_key_grads(
            sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx)
    end_key_grads(
        sums, grads, captures, u, kvv, b, h, kv_idx, bh, kv0, tl.minimum(kv0 + BN, N), N, BN)
"""
SIZES = (2, 3, 37, 45)  # B, H, M, N
B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))


def whole(name: str, *args: Node) -> Apply:
    return Apply(name, args, I64)


def mod_of_every_way(compute: str, shared: bool) -> tuple[Node, list[Tensor]]:
    """A soft-cap and a learned factor or bias of each way, some below a ``where``."""

    def op(name: str, *args: Node) -> Apply:
        return Apply(name, args, compute)

    batch, heads, rows, columns = SIZES
    turned = (columns, batch, heads, rows)
    distance = whole("add", whole("sub", Q, KV), Const(columns - 1, I64))
    clipped = whole("minimum", whole("maximum", whole("sub", KV, Q), Const(-4, I64)), Const(4, I64))
    spots = [
        ((H,), (heads,)),
        ((), ()),
        ((B, Q), (batch, rows)),
        ((whole("floordiv", KV, Const(2, I64)),), (columns // 2 + 1,)),
        ((H, distance), (heads, rows + columns)),
        ((whole("add", clipped, Const(4, I64)), H), (9, heads)),
        ((B, H, Q, KV), SIZES),
        ((KV, H, Q), (columns, heads, rows)) if shared else ((KV, B, H, Q), turned),
        ((whole("mod", whole("mul", Q, KV), Const(5, I64)), H), (5, heads)),
    ]
    dtype = torch.float64 if compute == F64 else torch.float32
    captures = [torch.randn(shape, dtype=dtype) + 2 for _, shape in spots]
    loads = [Load(number, indices, compute) for number, (indices, _) in enumerate(spots)]
    cap = Const(3.0, compute)
    total: Node = op("mul", cap, op("tanh", op("div", Input("score", compute), cap)))
    later = Apply("lt", (Q, KV), BOOL)
    for number, load in enumerate(loads):
        term = op("mul", load, Const(0.5 + number, compute)) if number % 2 else load
        term = op("where", later, op("mul", load, load), term) if number in (2, 5) else term
        total = op("add", total, term)
    return total, captures


def finish(hooks: Hooks, number: int, buffer: Tensor, captures: list[Tensor]) -> Tensor:
    """The gradient of one entry's capture, from what the kernel left in its buffer."""
    place = hooks.capture_grads[number]
    capture = captures[place.capture]
    if place.way in ("pair", "scatter"):
        return buffer.view(capture.shape)
    batch, heads, rows, columns = SIZES
    sums = buffer.view(batch, heads, -1)
    count = {"query": rows, "key": columns, "distance": rows + columns}.get(place.way)
    sums = sums.sum(-1, keepdim=True) if count is None else sums[..., :count]
    position = torch.arange(sums.shape[-1])
    env = {
        "b": torch.arange(batch).view(-1, 1, 1), "h": torch.arange(heads).view(-1, 1),
        "q_idx": position, "kv_idx": position,
    }  # fmt: skip
    if place.way == "distance":
        behind = position - (rows - 1)  # kv - q
        env |= {"q_idx": (-behind).clamp(min=0), "kv_idx": behind.clamp(min=0)}
    indices = [
        evaluate(target, env, captures, hooks.compute, on_fault="safe").expand(sums.shape)
        for target in place.targets
    ]
    out = torch.zeros_like(capture)
    if not indices:
        return out + sums.sum()
    return out.index_put_(tuple(index.long() for index in indices), sums, accumulate=True)


@pytest.mark.parametrize(
    ("compute", "block", "shared"),
    [
        (F32, (16, 16), False),
        (F32, (32, 16), False),
        (F64, (16, 64), False),
        (F32, (16, 16), True),  # pairs of several batches meet
    ],
)
def test_sums_of_every_way_are_the_gradient(compute: str, block: tuple[int, int], shared: bool):
    score_mod, captures = mod_of_every_way(compute, shared)
    dtype, (batch, heads, rows, columns) = captures[0].dtype, SIZES
    types = tuple(CaptureType(STORAGE[dtype], c.dim()) for c in captures)
    proved = frozenset((number, "inside") for number in range(40))
    hooks = build_hooks(
        Program(score_mod, None, types, (), compute), direction="backward", base2=True,
        grads=frozenset(range(len(captures))), proved=proved,
    )  # fmt: skip
    assert [place.way for place in hooks.capture_grads] == [
        "head", "head", "query", "key", "distance", "distance", "pair", "pair", "scatter",
    ]  # fmt: skip
    raw = torch.randn(SIZES, dtype=dtype, requires_grad=True)
    arriving = torch.randn(SIZES, dtype=dtype)
    arriving[torch.rand(SIZES) < 0.3] = 0
    outputs, (exact_raw, *exact) = exact_gradients(score_mod, raw, arriving, captures, compute)

    module = load_module(template.render_triton("mods", mods=lower_triton_hooks(hooks)) + DRIVER)
    tiles = -(-rows // block[0])
    length = {"head": tiles, "query": rows, "key": columns, "distance": rows + columns}
    buffers = [
        torch.zeros(
            captures[place.capture].shape
            if place.way in ("pair", "scatter")
            else (batch * heads, length[place.way]),
            dtype=dtype,
        )
        for place in hooks.capture_grads
    ]
    found = torch.full(SIZES, torch.nan, dtype=dtype)
    tuples = (capture_arguments(captures), tuple(buffers), raw.detach(), outputs, arriving)
    module.rows[(batch * heads, tiles)](
        *tuples, found, batch, heads, rows, columns, tiles, *block, shared
    )
    module.keys[(batch * heads, -(-columns // block[1]))](*tuples, heads, rows, columns, *block)
    tolerance = 1e-4 if compute == F32 else 1e-10
    torch.testing.assert_close(found, exact_raw, rtol=tolerance, atol=tolerance)
    for number, wanted in enumerate(exact):
        ours = finish(hooks, number, buffers[number], captures)
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance * 10)


def exact_gradients(
    score_mod: Node, raw: Tensor, arriving: Tensor, captures: list[Tensor], compute: str
) -> tuple[Tensor, list[Tensor]]:
    """The modified scores, and the gradients of the raw ones and of all captures."""
    batch, heads, rows, columns = SIZES
    env = {
        "b": torch.arange(batch).view(-1, 1, 1, 1), "h": torch.arange(heads).view(-1, 1, 1),
        "q_idx": torch.arange(rows).view(-1, 1), "kv_idx": torch.arange(columns), "score": raw,
    }  # fmt: skip
    leaves = [capture.clone().requires_grad_() for capture in captures]
    output = evaluate(score_mod, env, leaves, compute)
    found = torch.autograd.grad(output, [raw, *leaves], arriving)
    return output.detach(), list(found)
