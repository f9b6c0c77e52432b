"""Scores of large magnitude on the Triton backend, interpreted: finite, and as torch has them."""

from __future__ import annotations

import pytest
import torch
from attention_calls import check, dense, qkv

from flexattn import AuxRequest, flex_attention

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where products end
LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("keys", [29, 150], ids=["forward", "decode"])
@pytest.mark.parametrize("lowest", [-1e9, -1e30, LOWEST])
def test_padding_by_a_very_negative_bias(lowest: float, keys: int) -> None:
    """Padded queries see the same low score everywhere: the mean of all values, no gradient."""
    inputs = qkv((2, 2, 2, 21, keys, 16, 16))
    real = torch.arange(21) < torch.tensor([[21], [13]])
    seen = torch.arange(keys) < torch.tensor([[keys], [keys - 8]])
    bias = torch.where(real[:, :, None] & seen[:, None, :], 0.0, lowest)

    def padded(score, b, h, q_idx, kv_idx):
        return score + bias[b, q_idx, kv_idx]

    grad = torch.randn(2, 2, 21, 16) * real[:, None, :, None]
    aux = AuxRequest(lse=True, max_scores=True)
    out, found = flex_attention(*inputs, padded, return_aux=aux, backend="triton")
    wanted, lse, top = dense(inputs, torch.float32, padded)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close((found.lse, found.max_scores), (lse, top))
    for got, exact in zip(*(torch.autograd.grad(each, inputs, grad) for each in (out, wanted))):
        torch.testing.assert_close(got, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("factor", [1e6, 1e12, 1e30])
@pytest.mark.parametrize("by_mod", [False, True])
def test_gradients_of_large_scores_are_finite(by_mod: bool, factor: float) -> None:
    """Weights are 1 at most though errors of rounding are of many powers of 2."""
    inputs = qkv((1, 2, 2, 37, 41, 16, 16))
    score_mod = (lambda s, b, h, q_idx, kv_idx: s * factor) if by_mod else None
    scale = 1.0 if by_mod else factor
    out = flex_attention(*inputs, score_mod, scale=scale, backend="triton")
    picks = (inputs[0] @ inputs[1].mT).argmax(-1, keepdim=True).expand(-1, -1, -1, 16)
    torch.testing.assert_close(out, inputs[2].gather(2, picks), atol=1e-5, rtol=0)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, inputs, grad)
    assert all(each.isfinite().all() for each in found)
    assert (found[2].abs() <= grad.abs().sum(2, keepdim=True) * 1.001).all()


@pytest.mark.parametrize("offset", [100.0, -100.0])
def test_a_shift_of_all_scores_costs_what_it_costs_torch(offset: float) -> None:
    check(qkv((1, 2, 2, 37, 41, 16, 16)), lambda s, b, h, q_idx, kv_idx: s + offset)
