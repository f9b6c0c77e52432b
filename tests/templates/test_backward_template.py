"""backward.cpp against autograd through dense float64 attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense import attention, block_mask, check_grads, random_inputs
from mods_text import BIAS, CAUSAL, HOLES, ROOT, SOFTCAP
from template_kernels import BEST, COMBINATIONS, INPUTS, backward, build, compute, forward, tables
from torch import Tensor

DTYPES = list(INPUTS)
# B, Bkv, Hq, Hkv, M, N, D, Dv
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 1, 4, 2, 71, 133, 33, 17),
    (1, 1, 6, 2, 64, 129, 64, 64),
    (1, 1, 1, 1, 3, 300, 576, 3),
    (2, 2, 1, 1, 131, 7, 2, 65),
]


def mask_of(mods: str, m: int, n: int) -> Tensor | None:
    q, kv = torch.arange(m)[:, None], torch.arange(n)
    if mods == CAUSAL:
        return q >= kv
    return (q % 2 == 0) & ((q + kv) % 3 == 0) if mods == HOLES else None


def both(
    mods: str,
    dtype: torch.dtype,
    isa: int,
    inputs: tuple[Tensor, Tensor, Tensor],
    *,
    mask: Tensor | None = None,
    score_mod: Callable[[Tensor], Tensor] = lambda s: s,
    fields: dict[str, int | float | Tensor | None] | None = None,
    chunks: int = 1,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Our gradients of q, k, v and those of the oracle, for one random gradient of out and lse."""
    fields = fields or {}
    out, lse, _, _ = forward(build("forward", mods, dtype=dtype, isa=isa), *inputs, **fields)
    g = torch.Generator().manual_seed(1)
    dout = torch.randn(out.shape, generator=g).to(dtype)
    dlse = torch.randn(lse.shape, generator=g).to(compute(dtype))
    library = build("backward", mods, dtype=dtype, isa=isa)
    got = backward(
        *(library, *inputs, out, lse, dout), dlse=dlse, chunks=chunks, threads=2, **fields
    )
    leaves = [x.double().requires_grad_() for x in inputs]
    want_out, want_lse, _, _ = attention(*leaves, mask=mask, score_mod=score_mod)
    want_lse = torch.where(want_lse == -torch.inf, 0.0, want_lse)
    total = (want_out * dout.double()).sum() + (want_lse * dlse.double()).sum()
    return got, torch.autograd.grad(total, leaves)


@pytest.mark.parametrize(("dtype", "isa"), COMBINATIONS)
def test_shapes(dtype: torch.dtype, isa: int) -> None:
    for mods in ("", HOLES):
        for number, shape in enumerate(SHAPES):
            q, k, v = random_inputs(shape, dtype)
            mask = mask_of(mods, q.shape[2], k.shape[2])
            check_grads(*both(mods, dtype, isa, (q, k, v), mask=mask, chunks=1 + number % 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_small_size(dtype: torch.dtype) -> None:
    for size in range(1, 40):
        shape = (1, 1, 1, 1, size, 41 - size, (7 * size) % 37 + 1, (11 * size) % 35 + 1)
        q, k, v = random_inputs(shape, dtype, seed=size)
        mask = mask_of(CAUSAL, q.shape[2], k.shape[2])
        check_grads(*both(CAUSAL, dtype, BEST, (q, k, v), mask=mask))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(5, 0), (0, 5)])
def test_length_zero(dtype: torch.dtype, m: int, n: int) -> None:
    q, k, v = random_inputs((1, 1, 2, 1, m, n, 8, 4), dtype)
    out, lse, _, _ = forward(build("forward", CAUSAL, dtype=dtype, isa=BEST), q, k, v)
    library = build("backward", CAUSAL, dtype=dtype, isa=BEST)
    for chunks in (1, 2):
        got = backward(library, q, k, v, out, lse, out, chunks=chunks)
        assert all(bool((g == 0).all()) for g in got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(dtype: torch.dtype) -> None:
    q, k, v = random_inputs((2, 2, 4, 4, 70, 90, 24, 40), dtype)
    token_major = tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    head_dim_outer = tuple(x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v))
    expanded = (q, k[:, :1, :1].expand(k.shape), v[:1, :, :1].expand(v.shape))
    for inputs in (token_major, head_dim_outer, expanded):
        check_grads(*both("", dtype, BEST, inputs))
    library = build("backward", "", dtype=dtype, isa=BEST)
    out, lse, _, _ = forward(build("forward", "", dtype=dtype, isa=BEST), q, k, v)
    one = torch.ones((), dtype=dtype).expand(out.shape)  # the gradient of a sum
    spread, packed = (
        backward(library, q, k, v, out, lse, dout) for dout in (one, one.contiguous())
    )
    check_grads(spread, packed, factor=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("q_block", "kv_block"), [(1, 1), (48, 48), (128, 128), (16, 80), (1000, 3)]
)
def test_block_tables(dtype: torch.dtype, q_block: int, kv_block: int) -> None:
    m, n = 150, 301
    inputs = random_inputs((1, 1, 2, 1, m, n, 20, 12), dtype)
    partial, full, dense_partial, dense_full = block_mask(m, n, q_block, kv_block)
    fields = tables(partial, full, q_block, kv_block)
    mask = dense_partial & (torch.arange(m)[:, None] >= torch.arange(n)) | dense_full
    check_grads(*both(CAUSAL, dtype, BEST, inputs, mask=mask, fields=fields, chunks=2))


@pytest.mark.parametrize(("dtype", "isa"), COMBINATIONS)
def test_derivative_of_a_score_mod(dtype: torch.dtype, isa: int) -> None:
    inputs = random_inputs((1, 1, 3, 3, 70, 70, 16, 16), dtype)
    inputs = (inputs[0] * 8, inputs[1], inputs[2])
    got, want = both(SOFTCAP, dtype, isa, inputs, score_mod=lambda s: torch.tanh(s / 20) * 20)
    check_grads(got, want, factor=16)


def test_only_the_wanted_gradients() -> None:
    q, k, v = random_inputs((1, 1, 2, 2, 20, 30, 8, 8), torch.float32)
    out, lse, _, _ = forward(build("forward", "", dtype=torch.float32, isa=BEST), q, k, v)
    library = build("backward", "", dtype=torch.float32, isa=BEST)
    every = backward(library, q, k, v, out, lse, out)
    for wanted in ("q", "k", "v", ""):
        for name, one, all_ in zip(
            "qkv", backward(library, q, k, v, out, lse, out, wanted=wanted), every, strict=True
        ):
            assert torch.equal(one, all_) if name in wanted else bool(one.isnan().all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_captures(dtype: torch.dtype) -> None:
    m, n, heads, groups = 71, 150, 4, 2
    q, k, v = random_inputs((2, 2, heads, 2, m, n, 8, 8), dtype)
    g = torch.Generator().manual_seed(2)
    captures = [torch.randn(s, generator=g) for s in ((m, n), (n,), (heads,))]
    fields: dict[str, int | float | Tensor | None] = {
        "captures": torch.tensor([c.data_ptr() for c in captures]),
        "capture_sizes": torch.tensor([m, n, n, heads]),
        "capture_strides": torch.tensor([n, 1, 1, 1]),
    }
    out, lse, _, _ = forward(build("forward", BIAS, dtype=dtype, isa=BEST), q, k, v, **fields)
    dout = torch.randn(out.shape, generator=g).to(dtype)
    f = compute(dtype)
    sums = [
        torch.zeros((groups, *c.shape), dtype=f if i == 0 else torch.float64)
        for i, c in enumerate(captures)
    ]
    # items (bkv, hkv, chunk) of 2 x 2 x 2 in two groups
    fields |= {
        "grads": torch.tensor([s.data_ptr() for s in sums]),
        "grad_group_strides": torch.tensor([s.stride(0) for s in sums]),
        "groups": groups,
        "group_start": torch.tensor([0, 3, 8]),
        "group_items": torch.tensor([1, 0, 2, 7, 6, 5, 4, 3]),
    }
    got = backward(
        build("backward", BIAS, dtype=dtype, isa=BEST),
        *(q, k, v, out, lse, dout),
        chunks=2,
        threads=2,
        **fields,
    )
    leaves = [x.double().requires_grad_() for x in (q, k, v, *captures)]
    table, row, head = leaves[3:]
    want = attention(*leaves[:3], score_mod=lambda s: s + table + row + head[:, None, None])[0]
    grads = torch.autograd.grad((want * dout.double()).sum(), leaves)
    check_grads(got, grads[:3])
    for ours, theirs in zip(sums, grads[3:], strict=True):
        error = (ours.sum(0).double() - theirs).abs().max()
        assert error <= (1e-12 if dtype == torch.float64 else 6e-2 if f != dtype else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinite_derivatives_where_no_weight_is(dtype: torch.dtype) -> None:
    q, k, v = random_inputs((1, 1, 1, 1, 21, 33, 8, 8), dtype)
    k[0, 0, 5] = 0  # sqrt'(0) is infinite there
    mask = torch.ones(21, 33, dtype=torch.bool)
    mask[:, 5] = False
    number = torch.tensor([[[2]]], dtype=torch.int32)
    index = torch.tensor([[[[0, 1]]]], dtype=torch.int32)
    hide_5 = """
static VM mask_mod(const Site& s, i64 i, i64 j) { return splat<VM>(-(s.kv_idx<int>(j) != 5)); }
"""
    got, want = both(
        *(ROOT + hide_5, dtype, BEST, (q, k, v)),
        mask=mask,
        score_mod=lambda s: torch.where(mask, s, 1.0).abs().sqrt(),
        fields=tables((number, index), None, 1000, 32),
    )
    check_grads(got, want, factor=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [1, 3])
def test_threads_do_not_change_a_bit(dtype: torch.dtype, chunks: int) -> None:
    q, k, v = random_inputs((1, 1, 3, 3, 500, 500, 33, 33), dtype)
    out, lse, _, _ = forward(build("forward", CAUSAL, dtype=dtype, isa=BEST), q, k, v)
    library = build("backward", CAUSAL, dtype=dtype, isa=BEST)
    one, two, again = (
        backward(library, q, k, v, out, lse, out, chunks=chunks, threads=t) for t in (1, 2, 2)
    )
    for a, b, c in zip(one, two, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("causal", [False, True])
def test_no_less_precise_than_sdpa(causal: bool) -> None:
    dtype = torch.bfloat16
    mods = CAUSAL if causal else ""
    inputs = random_inputs((1, 1, 4, 4, 384, 384, 64, 64), dtype)
    g = torch.Generator().manual_seed(1)
    dout = torch.randn(inputs[0].shape, generator=g).to(dtype)
    out, lse, _, _ = forward(build("forward", mods, dtype=dtype, isa=BEST), *inputs)
    ours = backward(build("backward", mods, dtype=dtype, isa=BEST), *inputs, out, lse, dout)
    leaves = [x.clone().requires_grad_() for x in inputs]
    sdpa = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
    theirs = torch.autograd.grad(sdpa, leaves, dout)
    exact = [x.double().requires_grad_() for x in inputs]
    want_out = attention(*exact, mask=mask_of(mods, 384, 384))[0]
    want = torch.autograd.grad(want_out, exact, dout.double())
    for a, b, c in zip(ours, theirs, want, strict=True):
        error, allowed = (a.double() - c).abs(), (b.double() - c).abs()
        assert error.norm() <= 1.2 * allowed.norm()
        assert error.max() <= 2 * allowed.max()
