"""Head dims, dtypes, lengths, layouts and empty rows, with a backward wherever there is one."""

from __future__ import annotations

import pytest
import torch
from on_device import (
    BACKEND,
    REHEARSAL,
    Mods,
    causal,
    causal_mods,
    check,
    length,
    normal,
    ours,
    plain,
    problem,
)

from flexattn import AuxRequest, cache_info, flex_attention

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
DIMS = [16, 40, 64, 72, 80, 96, 112, 128, 192, 240, 256]


def capped(*learned: torch.Tensor) -> Mods:
    return lambda s, b, h, q, k: 5.0 * torch.tanh(s / 5.0), causal


@pytest.mark.parametrize("D", DIMS[:3] if REHEARSAL else DIMS)
def test_head_dims(D: int) -> None:
    check(problem(D=(D, D), mods=causal_mods))


@pytest.mark.parametrize("D", [1, 3, 17, 100])
def test_odd_head_dims(D: int) -> None:
    check(problem(D=(D, D), mods=capped))


@pytest.mark.parametrize("D", [(64, 128), (128, 64), (192, 128), (96, 40)])
def test_value_dims(D: tuple[int, int]) -> None:
    small = (D[0] // 4, D[1] // 4) if REHEARSAL else D
    check(problem(D=small, mods=causal_mods))


def test_latent_attention() -> None:
    """576/512: forward, as absorbed decoding uses it."""
    D = (72, 64) if REHEARSAL else (576, 512)
    check(problem(H=(4, 1), D=D, mods=causal_mods), backward=False)


@pytest.mark.parametrize("dtype", [F16, F32, F64])
@pytest.mark.parametrize("D", [64, 128])
def test_dtypes(dtype: torch.dtype, D: int) -> None:
    D = D // 4 if REHEARSAL else D
    check(problem(dtype, D=(D, D), mods=capped))


@pytest.mark.parametrize("M", [1, 2, 63, 64, 65, 127, 129, 1000])
@pytest.mark.parametrize("N", [1, 64, 130, 999])
def test_lengths(M: int, N: int) -> None:
    if REHEARSAL:
        M, N = min(M, 33), min(N, 35)
    check(problem(M=M, N=N, mods=capped))


@pytest.mark.parametrize("block", [(128, 128), (64, 32), (100, 60), (7, 500), (1024, 16)])
def test_block_sizes(block: tuple[int, int]) -> None:
    small = (max(1, block[0] // 8), max(1, block[1] // 8)) if REHEARSAL else block
    check(problem(M=length(513, 41), N=length(449, 39), mods=capped, block=small))


@pytest.mark.parametrize("mods", [plain, causal_mods])
def test_without_a_block_mask(mods: object) -> None:
    check(problem(mods=mods, block=None))


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 2), (5, 5)])
def test_heads(heads: tuple[int, int]) -> None:
    check(problem(H=heads, mods=causal_mods))


def test_shared_batch_of_keys() -> None:
    p = problem(B=3, mods=capped)
    p.key, p.value = (t.detach()[:1].requires_grad_() for t in (p.key, p.value))
    check(p)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_transposed_and_sliced_inputs(dtype: torch.dtype) -> None:
    """[B, S, H, D] memory, and rows that do not begin on 16 bytes."""
    M, D = length(203, 29), length(64, 16)
    p = problem(dtype, M=M, D=(D, D), mods=capped)
    p.query = normal(2, M, 4, D, dtype=dtype).transpose(1, 2)
    p.key = normal(2, M, 2, D + 3, dtype=dtype)[..., 1 : D + 1].transpose(1, 2)
    p.value = normal(2, 2, D, M, dtype=dtype).transpose(2, 3)
    check(p)


def _gaps(*learned: torch.Tensor) -> Mods:
    return None, lambda b, h, q, k: (q % 5 != 0) & (q > k) & (k % 4 != h)


def test_rows_with_nothing_to_attend() -> None:
    check(problem(mods=_gaps))
    p = problem(mods=lambda: (None, lambda b, h, q, k: (q < 0) & (k >= 0)))
    out, lse = ours(p)
    assert not out.any() and (lse == -torch.inf).all()
    assert not any(g.any() for g in torch.autograd.grad(out.sum(), p.leaves))


def test_row_maxima() -> None:
    q, k, v = (normal(2, 2, length(130, 21), 32, dtype=F32, grad=False) for _ in range(3))
    _, aux = flex_attention(
        q, k, v, lambda s, b, h, i, j: s * 2, backend=BACKEND,
        return_aux=AuxRequest(lse=True, max_scores=True),
    )  # fmt: skip
    scores = q.double() @ k.double().mT / 32**0.5 * 2
    torch.testing.assert_close(aux.max_scores.double(), scores.amax(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(aux.lse.double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -0.7, 1.0])
def test_scales(scale: float) -> None:
    check(problem(F32, mods=causal_mods, scale=scale))


def test_large_scores() -> None:
    """Scores of thousands: the maximum is subtracted before anything overflows."""
    p = problem(F32, mods=causal_mods)
    p.query = (p.query.detach() * 300).requires_grad_()
    out, _ = ours(p)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), p.leaves))


def test_two_runs_agree_bit_by_bit() -> None:
    p = problem(M=length(700, 40), D=(length(128, 16),) * 2, mods=capped)
    pull = torch.randn_like(p.query)
    runs = []
    for _ in range(3):
        out, lse = ours(p)
        runs.append([out, lse, *torch.autograd.grad((out * pull).sum(), p.leaves)])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run))


def test_numbers_and_lengths_do_not_recompile() -> None:
    def call(cap: float, M: int) -> None:
        q = normal(1, 2, M, 32, grad=False)
        flex_attention(q, q, q, lambda s, b, h, i, j: cap * torch.tanh(s / cap), backend=BACKEND)

    for cap, M in ((3.0, 64), (4.0, 80), (5.0, 50), (6.0, 19)):
        call(cap, M)
    before = cache_info()
    for cap, M in ((7.0, 33), (8.5, 77)):
        call(cap, M)
    assert cache_info().kernels_built == before.kernels_built
