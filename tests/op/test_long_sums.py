"""Sums over many keys or queries round once a tile, so errors hardly grow with the length."""

from __future__ import annotations

import pytest
import torch

from flexattn import flex_attention
from flexattn.kernel.isa import ISAS, host

HERE = [name for name, isa in ISAS.items() if isa.level <= host().level]


@pytest.mark.parametrize("queries", [1, 40], ids=["decode", "tiles"])
@pytest.mark.parametrize("isa", HERE)
def test_weights_of_many_keys_add_up_to_one(
    isa: str, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXATTN_ISA", isa)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, queries, 64, generator=generator)
    k = torch.randn(1, 1, 32768, 64, generator=generator)
    out = flex_attention(q, k, torch.ones(1, 1, 32768, 64))
    assert (out - 1).abs().max() < 1e-6  # summed key by key it is 7e-6 off


@pytest.mark.parametrize("isa", HERE)
def test_gradients_summed_over_many_queries(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal keys: every weight is 1/64, and dV is the sum of the gradients over 64."""
    monkeypatch.setenv("FLEXATTN_ISA", isa)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, 16384, 64, generator=generator)
    k = torch.randn(1, 1, 1, 64, generator=generator).expand(1, 1, 64, 64)
    v = torch.randn(1, 1, 64, 64, generator=generator).requires_grad_()
    out = flex_attention(q, k, v)
    pull = torch.rand(out.shape, generator=generator)
    (got,) = torch.autograd.grad(out, v, pull)
    want = pull.double().sum(2, keepdim=True) / 64
    assert (got / want - 1).abs().max() < 6e-7  # query by query it is 1e-6
