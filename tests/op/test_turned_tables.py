"""Captured tables whose rows belong to queries: read along keys and turned round, by blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_attention import dense_attention
from torch import Tensor

from flexattn import create_block_mask, flex_attention
from flexattn.kernel.isa import ISAS, host

H, M, N = 3, 77, 131  # no multiple of a vector
HERE = [name for name, isa in ISAS.items() if isa.level <= host().level]


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, H, n, 24, dtype=dtype) for n in (M, N, N)]


def check(q: Tensor, k: Tensor, v: Tensor, score_mod: Any, mask_mod: Any = None) -> None:
    out = flex_attention(q, k, v, score_mod, mask_mod=mask_mod, backend="cpp")
    want = dense_attention(*(t.double() for t in (q, k, v)), score_mod=score_mod, mask_mod=mask_mod)
    atol = 1e-12 if q.dtype == torch.float64 else 1e-2 if q.dtype == torch.bfloat16 else 3e-6
    torch.testing.assert_close(out.double(), want[0], atol=atol, rtol=0)


@pytest.mark.parametrize("isa", HERE)
def test_on_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_ISA", isa)
    bias = torch.randn(H, M, N)
    check(*inputs(), lambda s, b, h, i, j: s + bias[h, i, j])
    check(*inputs(torch.bfloat16), lambda s, b, h, i, j: s + bias[h, i, j])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int64", "bool"])
def test_storage(dtype: str) -> None:
    table = torch.randint(-3, 3, (2, H, M, N)).to(getattr(torch, dtype))
    check(*inputs(), lambda s, b, h, i, j: s + 0.5 * table[b, h, i, j])
    check(*inputs(torch.float64), lambda s, b, h, i, j: s + 0.5 * table[b, h, i, j])


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, :, :N],
        lambda t: t[:, :, 7 : N + 7],
        lambda t: t[:, :, ::2],
        lambda t: t[:, :, :N].transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: t[:1, :, :N].expand(H, -1, -1),
        lambda t: t[:, :1, :N].expand(-1, M, -1),
    ],
    ids=["plain", "shifted", "every-other", "along-queries", "one-head", "one-row"],
)
def test_strides(view: Any) -> None:
    bias = view(torch.randn(H, M, 2 * N))
    check(*inputs(), lambda s, b, h, i, j: s + bias[h, i, j])


def test_shifted_keys_and_rows_chosen_by_query() -> None:
    """Blocks of neighbours that would begin before the table, or end behind it."""
    table, row = torch.randn(5, N + 3), torch.randint(0, 5, (2, M))
    check(*inputs(), lambda s, b, h, i, j: s + table[row[b, i], j + 3])
    check(*inputs(), lambda s, b, h, i, j: s + table[row[b, i], N - 1 - j])
    check(*inputs(), lambda s, b, h, i, j: s + table[(i + h) % 5, 3 + j - 3])


def test_dense_mask() -> None:
    kept, bias = torch.rand(H, M, N) < 0.4, torch.randn(M, N)
    kept[..., 0] = True
    check(*inputs(), lambda s, b, h, i, j: s * bias[i, j], lambda b, h, i, j: kept[h, i, j])


def test_long_tables_and_blocks() -> None:
    """Many tiles of queries and keys, of which most are skipped."""
    S = 600
    q, k, v = (torch.randn(1, 2, S, 16) for _ in range(3))
    bias = torch.randn(2, S, S)

    def window(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & (i - j < 70 + 100 * h)

    mask = create_block_mask(window, None, 2, S, S, device="cpu")
    out = flex_attention(q, k, v, lambda s, b, h, i, j: s + bias[h, i, j], mask)
    want = dense_attention(
        *(t.double() for t in (q, k, v)),
        score_mod=lambda s, b, h, i, j: s + bias[h, i, j],
        mask_mod=window,
    )[0]
    torch.testing.assert_close(out.double(), want, atol=3e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("keys", ["together", "apart"])
def test_gradients(batch: int, keys: str) -> None:
    q, k, v = (torch.randn(batch, H, n, 24, requires_grad=True) for n in (M, N, N))
    bias = torch.randn(H, M, N) if keys == "together" else torch.randn(H, N, M)
    leaves = (q, k, v, bias.requires_grad_())

    def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        def read(h: Any, i: Any, j: Any) -> Any:
            return bias[h, i, j] if keys == "together" else bias[h, j, i]

        return attention(q, k, v, lambda s, b, h, i, j: s + read(h, i, j) * 2)

    out = attend(flex_attention, *leaves)
    pull = torch.randn_like(out)
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    want = attend(lambda *a: dense_attention(*a[:3], score_mod=a[3])[0], *doubles)
    got = torch.autograd.grad(out, leaves, pull)
    for one, other in zip(got, torch.autograd.grad(want, doubles, pull.double()), strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)
