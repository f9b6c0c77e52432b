"""Tables that neighbouring queries read at neighbouring places, beside dense float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_attention import dense_attention
from torch import Tensor

from flexattn import flex_attention


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    "index",
    [
        lambda q, k: q - k + 130,
        lambda q, k: k - q + 130,
        lambda q, k: 140 - (q - k),
        lambda q, k: -(k - q) + 131,
        lambda q, k: (q + 3) + (k // 2),
        lambda q, k: 130 - q,
        lambda q, k: 2 * q + k,
    ],
    ids=["q-k", "k-q", "-(q-k)", "-(k-q)", "q+k//2", "-q", "2q"],
)
def test_tables_read_along_a_line_of_queries(index: Any, step: int) -> None:
    """Forwards, backwards, and where neighbours in the table are none in memory."""
    q, k, v = (torch.randn(1, 2, n, 16, requires_grad=True) for n in (77, 131, 131))
    table = torch.randn(2, 900, requires_grad=True)
    inputs = (q, k, v, table)

    def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        rows = table[:, ::step]
        return attention(q, k, v, lambda s, b, h, i, j: s + rows[h, index(i, j)])

    out = attend(flex_attention, *inputs)
    pull = torch.randn_like(out)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    want = attend(lambda *a: dense_attention(*a[:3], score_mod=a[3])[0], *doubles)
    torch.testing.assert_close(out.double(), want, atol=3e-6, rtol=0)
    got = torch.autograd.grad(out, inputs, pull)
    for one, other in zip(got, torch.autograd.grad(want, doubles, pull.double()), strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)
