"""forward.cpp against dense float64 attention."""

from __future__ import annotations

import pytest
import torch
from dense import attention, block_mask, check_forward, random_inputs
from mods_text import CAUSAL, DOCUMENT, FAULTY, HOLES, SOFTCAP
from template_kernels import BEST, COMBINATIONS, INPUTS, build, compute, forward, tables
from torch import Tensor

DTYPES = list(INPUTS)
# B, Bkv, Hq, Hkv, M, N, D, Dv
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 1, 4, 2, 71, 133, 33, 17),
    (1, 1, 6, 2, 64, 128, 64, 64),
    (1, 1, 1, 1, 3, 300, 576, 3),
    (2, 2, 1, 1, 130, 7, 2, 65),
]


def triangle(m: int, n: int) -> Tensor:
    return torch.arange(m)[:, None] >= torch.arange(n)


def holes(m: int, n: int) -> Tensor:
    q, kv = torch.arange(m)[:, None], torch.arange(n)
    return (q % 2 == 0) & ((q + kv) % 3 == 0)


@pytest.mark.parametrize(("dtype", "isa"), COMBINATIONS)
def test_shapes(dtype: torch.dtype, isa: int) -> None:
    for mods, mask_of in (("", None), (HOLES, holes)):
        library = build("forward", mods, dtype=dtype, isa=isa)
        for shape in SHAPES:
            q, k, v = random_inputs(shape, dtype)
            mask = None if mask_of is None else mask_of(q.shape[2], k.shape[2])
            check_forward(forward(library, q, k, v), attention(q, k, v, mask=mask), v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_small_size(dtype: torch.dtype) -> None:
    library = build("forward", CAUSAL, dtype=dtype, isa=BEST)
    for size in range(1, 40):
        shape = (1, 1, 1, 1, size, 41 - size, (7 * size) % 37 + 1, (11 * size) % 35 + 1)
        q, k, v = random_inputs(shape, dtype, seed=size)
        mask = triangle(q.shape[2], k.shape[2])
        check_forward(forward(library, q, k, v), attention(q, k, v, mask=mask), v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(5, 0), (0, 5)])
def test_length_zero(dtype: torch.dtype, m: int, n: int) -> None:
    q, k, v = random_inputs((1, 1, 2, 1, m, n, 8, 4), dtype)
    out, lse, peak, status = forward(build("forward", CAUSAL, dtype=dtype, isa=BEST), q, k, v)
    assert status == 0
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all())
    assert bool((peak == -torch.inf).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(dtype: torch.dtype) -> None:
    library = build("forward", "", dtype=dtype, isa=BEST)
    q, k, v = random_inputs((2, 2, 4, 4, 70, 90, 24, 40), dtype)
    token_major = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    head_dim_outer = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)]
    every_other = [torch.stack([x, x * 3], -1)[..., 0] for x in (q, k, v)]
    expanded = [q, k[:, :1, :1].expand(k.shape), v[:1, :, :1].expand(v.shape)]
    one_column = [x[..., :1].expand(x.shape) for x in (q, k, v)]
    for case in (token_major, head_dim_outer, every_other, expanded, one_column):
        want, rough = (attention(*case, dtype=t) for t in (torch.float64, torch.float32))
        check_forward(forward(library, *case), want, case[2], rough=rough)


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_strides(dtype: torch.dtype) -> None:
    q, k, v = random_inputs((2, 2, 3, 3, 20, 9, 16, 5), dtype)
    room = torch.full((2, 20, 3, 9), 7.0, dtype=dtype)
    out = room.transpose(1, 2)[..., :5]
    got = forward(build("forward", "", dtype=dtype, isa=BEST), q, k, v, out=out)
    check_forward(got, attention(q, k, v), v)
    assert bool((room[..., 5:] == 7).all())


@pytest.mark.parametrize(
    ("dtype", "isa"), [(torch.float32, 0), (torch.float32, BEST), (torch.bfloat16, BEST)]
)
@pytest.mark.parametrize(
    ("q_block", "kv_block"), [(1, 1), (48, 48), (128, 128), (16, 80), (1000, 3), (7, 1 << 30)]
)
def test_block_tables(dtype: torch.dtype, isa: int, q_block: int, kv_block: int) -> None:
    m, n = 150, 301
    q, k, v = random_inputs((1, 1, 2, 1, m, n, 20, 12), dtype)
    partial, full, dense_partial, dense_full = block_mask(m, n, q_block, kv_block)
    fields = tables(partial, full, q_block, kv_block)
    for mods, inside in ((CAUSAL, triangle(m, n)), ("", torch.tensor(True))):
        library = build("forward", mods, dtype=dtype, isa=isa)
        got = forward(library, q, k, v, **fields)
        check_forward(got, attention(q, k, v, mask=dense_partial & inside | dense_full), v)
    got = forward(library, q, k, v, **tables(partial, None, q_block, kv_block))
    check_forward(got, attention(q, k, v, mask=dense_partial), v)


def test_tables_per_head_and_short_tables() -> None:
    library = build("forward", CAUSAL, dtype=torch.float32, isa=BEST)
    q, k, v = random_inputs((2, 2, 2, 2, 40, 64, 8, 8), torch.float32)
    number = torch.tensor([[[1], [2]], [[0], [9]]], dtype=torch.int32)  # [2, 2, 1]; 9 of 2 columns
    index = torch.tensor([[[[1, 0]], [[0, 1]]], [[[0, 0]], [[0, 3]]]], dtype=torch.int32)
    fields = tables(None, (number, index), 32, 32)  # queries 32..39 have no row
    mask = torch.zeros(2, 2, 40, 64, dtype=torch.bool)
    mask[0, 0, :32, 32:] = mask[0, 1, :32] = mask[1, 1, :32, :32] = True
    check_forward(forward(library, q, k, v, **fields), attention(q, k, v, mask=mask), v)


@pytest.mark.parametrize(("dtype", "isa"), COMBINATIONS)
def test_score_mods_and_captures(dtype: torch.dtype, isa: int) -> None:
    q, k, v = random_inputs((1, 1, 3, 3, 70, 70, 16, 16), dtype)
    document = torch.arange(140) // 33 * (1 << 33)  # equal in the low 32 bits
    slope = torch.tensor([0.5, -1.0, 3.0])
    pointers = torch.tensor([document.data_ptr(), slope.data_ptr()])
    strides = torch.tensor([2, 1])
    got = forward(
        build("forward", DOCUMENT, dtype=dtype, isa=isa),
        *(q, k, v),
        captures=pointers,
        capture_strides=strides,
    )
    same = document[::2, None] == document[::2]
    want = attention(q, k, v, score_mod=lambda s: s * slope.double()[:, None, None], mask=same)
    check_forward(got, want, v)
    got = forward(build("forward", SOFTCAP, dtype=dtype, isa=isa), q, k, v, scale=3.0)
    want, rough = (
        attention(q, k, v, scale=3.0, score_mod=lambda s: torch.tanh(s / 20) * 20, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    check_forward(got, want, v, rough=rough)


@pytest.mark.parametrize("isa", sorted({0, BEST}))
def test_nan_and_infinite_scores(isa: int) -> None:
    library = build("forward", CAUSAL, dtype=torch.float32, isa=isa)
    q, k, v = random_inputs((1, 1, 1, 1, 40, 40, 4, 4), torch.float32)
    k[0, 0, 9] = torch.nan
    q[0, 0, 30, 0] = torch.inf
    out, lse, peak, _ = forward(library, q, k, v)
    assert not bool(out[0, 0, :9].isnan().any())  # the mask keeps NaN away
    assert bool(out[0, 0, 9:].isnan().all())
    assert bool(lse[0, 0, 9:].isnan().all())
    assert bool(peak[0, 0, 9:30].isnan().all())
    minus = torch.full_like(k, -torch.inf)
    out, lse, _, _ = forward(library, q.abs() + 1, minus, v)
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all())
    out, _, _, _ = forward(
        build("forward", HOLES, dtype=torch.float32, isa=isa), q, k, v * torch.nan
    )
    assert bool((out[0, 0, 1::2] == 0).all())  # empty rows, whatever v holds


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_fault_is_reported(threads: int) -> None:
    library = build("forward", FAULTY, dtype=torch.float32, isa=BEST)
    q, k, v = random_inputs((2, 2, 2, 2, 200, 300, 8, 8), torch.float32)
    fault = torch.full((4,), -1)
    *got, status = forward(library, q, k, v, fault=fault, threads=threads)
    assert status == 1
    check_forward((*got, 0), attention(q, k, v, mask=triangle(200, 300)), v)
    assert fault.tolist() == [0, 0, 3, 2]
    fault.fill_(-1)
    *_, status = forward(library, q[:, :, :3], k, v, fault=fault, threads=threads)
    assert status == 0
    assert fault.tolist() == [-1] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    library = build("forward", CAUSAL, dtype=dtype, isa=BEST)
    q, k, v = random_inputs((1, 1, 3, 3, 500, 500, 33, 33), dtype)
    one = forward(library, q, k, v, threads=1)
    two = forward(library, q, k, v, threads=2)
    assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_no_less_precise_than_sdpa(dtype: torch.dtype, causal: bool) -> None:
    q, k, v = random_inputs((1, 1, 4, 4, 384, 384, 64, 64), dtype)
    mask = triangle(384, 384) if causal else None
    want = attention(q, k, v, mask=mask)[0]
    ours = forward(build("forward", CAUSAL if causal else "", dtype=dtype, isa=BEST), q, k, v)[0]
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    error, allowed = ((x.double() - want).abs() for x in (ours, theirs))
    assert error.norm() <= 1.2 * allowed.norm()
    assert error.max() <= 2 * allowed.max()
    assert ours.dtype == dtype
    assert compute(dtype) == torch.float32
