"""Dense attention in float64, random inputs and block lists: what templates are checked against."""

from __future__ import annotations

import torch
from template_calls import NO_FAULT, Blocks, accumulator, in_poison
from torch import Tensor

UNIT = {torch.float32: 4e-6, torch.float64: 1e-14, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v for (B, Bkv, Hq, Hkv, M, N, D, DV), in memory where NaNs follow each row."""
    b, b_kv, hq, hkv, m, n, d, dv = shape
    sizes = ((b, hq, m, d), (b_kv, hkv, n, d), (b_kv, hkv, n, dv))
    return [in_poison(torch.randn(s).to(dtype)) for s in sizes]


def dense(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None, mod=None, scale=None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, lse, max, and the weighted sum of |v|, which rounding errors are relative to."""
    shape = (q.shape[0], q.shape[1])
    k, v = (x.double().expand(shape[0], -1, -1, -1) for x in (k, v))
    k, v = (x.repeat_interleave(shape[1] // x.shape[1], 1) for x in (k, v))
    s = q.double() @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mod is not None:
        grid = [torch.arange(x).view([-1 if d == i else 1 for i in range(4)])
                for d, x in enumerate(s.shape)]  # fmt: skip
        s = mod(s, *grid)
    if keep is not None:
        s = torch.where(keep, s, -torch.inf)
    s = torch.cat([s, torch.full((*s.shape[:3], 1), -torch.inf)], -1)  # a length of 0 has a max
    peak = s.amax(-1)
    lse = s.logsumexp(-1)
    p = torch.exp(s - lse[..., None]).nan_to_num(0.0)[..., :-1]
    return p @ v, lse, peak, p @ v.abs()


def check(got: tuple, want: tuple[Tensor, ...], *, fault: int = NO_FAULT) -> None:
    out, lse, peak, at = got
    assert at == fault
    unit = UNIT[out.dtype]
    wrong = ~((out.double() - want[0]).abs() <= unit * want[3] + unit * 1e-3)
    assert not bool(wrong.any()), (out.double() - want[0]).abs().max()
    tolerance = 1e-13 if accumulator(out.dtype) == torch.float64 else 5e-6
    torch.testing.assert_close(lse.double(), want[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(peak.double(), want[2], rtol=tolerance, atol=tolerance)


def random_blocks(
    m: int, n: int, block: tuple[int, int], *, full: bool = True, shape: tuple[int, int] = (1, 1)
) -> tuple[Blocks, Tensor, Tensor]:
    """Block lists, and for each pair whether a partial and whether a full block holds it."""
    rows, cols = -(-m // block[0]), -(-n // block[1])
    kind = torch.randint(0, 3 if full else 2, (*shape, rows, cols))
    found: list[Tensor] = []
    pairs = []
    for wanted in (1, 2):
        number = (kind == wanted).sum(-1)
        entries = (kind != wanted).int().argsort(dim=-1, stable=True).int()
        beyond = torch.arange(cols) >= number[..., None]
        found += [number.int(), entries.masked_fill(beyond, -(10**6))]
        q_of, kv_of = torch.arange(m) // block[0], torch.arange(n) // block[1]
        pairs.append((kind == wanted)[..., q_of, :][..., kv_of])
    lists = found if full else [*found[:2], None, None]
    return Blocks(*lists, *block), *pairs
