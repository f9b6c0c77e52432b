"""Dense attention in float64, by the textbook: the oracle of the kernel templates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Two roundings of one part in 2^8 (bf16) or 2^11 (f16): of the weights and of the result.
UNIT = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    score_mod: Callable[[Tensor], Tensor] = lambda s: s,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, row maxima, weights), differentiable; rows without a key give 0, -inf, -inf, 0."""
    heads = q.shape[1] // k.shape[1]
    k, v = (x.to(dtype).repeat_interleave(heads, 1) for x in (k, v))
    scores = q.to(dtype) @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = score_mod(scores)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    if k.shape[-2] == 0:
        peak = lse = torch.full(q.shape[:-1], -torch.inf, dtype=dtype)
        return torch.zeros(*q.shape[:-1], v.shape[-1], dtype=dtype), lse, peak, scores
    peak = scores.amax(-1)
    empty = (peak == -torch.inf)[..., None]
    weights = torch.where(empty, 0.0, torch.softmax(torch.where(empty, 0.0, scores), -1))
    lse = torch.where(empty[..., 0], -torch.inf, torch.logsumexp(scores, -1))
    return weights @ v, lse, peak, weights


def check_forward(
    got: tuple[Tensor, Tensor, Tensor, int],
    want: tuple[Tensor, ...],
    v: Tensor,
    *,
    rough: tuple[Tensor, ...] | None = None,
) -> None:
    """Each element within what rounding the weights and the result may cost.

    Or within twice the largest error of ``rough``, the same formula in float32.
    """
    out, lse, peak, status = got
    assert status == 0
    unit = UNIT[v.dtype]
    heads = out.shape[1] // v.shape[1]
    magnitude = want[3] @ v.double().abs().repeat_interleave(heads, 1)
    limit = unit * magnitude + 1e-30
    if rough is not None:
        limit += 2 * (rough[0] - want[0]).abs().max()
    wrong = (out.double() - want[0]).abs() > limit
    assert not bool(wrong.any()), (out.double() - want[0]).abs().max()
    tolerance = 1e-13 if v.dtype == torch.float64 else 5e-6
    for name, ours, theirs in (("lse", lse, want[1]), ("max", peak, want[2])):
        torch.testing.assert_close(
            ours.double(), theirs, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def check_grads(got: tuple[Tensor, ...], want: tuple[Tensor, ...], factor: float = 8) -> None:
    """Largest error relative to the largest element, and no NaN left."""
    for ours, theirs in zip(got, want, strict=True):
        assert not bool(ours.isnan().any())
        if theirs.numel():
            limit = factor * UNIT[ours.dtype] * theirs.abs().max() + 1e-30
            assert (ours.double() - theirs.double()).abs().max() <= limit


def random_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v for shape (B, Bkv, Hq, Hkv, M, N, D, Dv)."""
    b, b_kv, hq, hkv, m, n, d, dv = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((b, hq, m, d), (b_kv, hkv, n, d), (b_kv, hkv, n, dv))
    q, k, v = (torch.randn(s, generator=g).to(dtype) for s in sizes)
    return q, k, v


def block_mask(
    m: int, n: int, q_block: int, kv_block: int, *, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor, Tensor]:
    """Random tables: (partial pair, full pair, dense bool of partial, dense bool of full)."""
    g = torch.Generator().manual_seed(seed)
    rows, cols = -(-m // q_block), -(-n // kv_block)
    kind = torch.randint(0, 3, (rows, cols), generator=g)
    pairs = []
    dense = []
    for wanted in (1, 2):
        number = (kind == wanted).sum(1).int().view(1, 1, rows)
        width = max(1, int(number.max()))  # unpadded: as wide as the longest row
        index = torch.full((1, 1, rows, width), -7, dtype=torch.int32)
        for r in range(rows):
            at = (kind[r] == wanted).nonzero()[:, 0]
            index[0, 0, r, : len(at)] = at.int()
        pairs.append((number, index))
        row_of, col_of = torch.arange(m) // q_block, torch.arange(n) // kv_block
        dense.append((kind == wanted)[row_of][:, col_of])
    return pairs[0], pairs[1], dense[0], dense[1]
