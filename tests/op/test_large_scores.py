"""Scores of large magnitude: finite gradients, and nothing lost beside a softmax of torch."""

from __future__ import annotations

import pytest
import torch
from dense_attention import assert_close_enough, dense_attention, gradients

from flexattn import AuxRequest, flex_attention
from flexattn.kernel.isa import host

BACKENDS = ("eager", "cpp")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lowest", [-1e9, -1e30, torch.finfo(torch.float32).min])
def test_padding_by_a_very_negative_bias(lowest: float, backend: str) -> None:
    """Padded queries see the same low score everywhere: the mean of all values, no gradient."""
    q, k, v = (torch.randn(2, 2, 40, 16, requires_grad=True) for _ in range(3))
    real = torch.arange(40) < torch.tensor([[40], [23]])
    bias = torch.where(real[:, :, None] & real[:, None, :], 0.0, lowest)

    def padded(score, b, h, q_idx, kv_idx):
        return score + bias[b, q_idx, kv_idx]

    grad = torch.randn(2, 2, 40, 16) * real[:, None, :, None]
    aux = AuxRequest(lse=True, max_scores=True)
    out, found = flex_attention(q, k, v, padded, return_aux=aux, backend=backend)
    want, lse, top = dense_attention(q, k, v, padded)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)
    torch.testing.assert_close((found.lse, found.max_scores), (lse, top))
    for got, exact in zip(gradients(out, [q, k, v], grad), gradients(want, [q, k, v], grad)):
        torch.testing.assert_close(got, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [1e6, 1e30])
@pytest.mark.parametrize("by_mod", [False, True])
def test_weights_of_large_scores_are_those_of_the_forward(
    by_mod: bool, factor: float, backend: str
) -> None:
    """Each row picks one key. Its weight is one in the backward too, not one times a rounding."""
    q, k, v = (torch.randn(1, 2, 64, 16, requires_grad=True) for _ in range(3))
    grad = torch.randn(1, 2, 64, 16)
    score_mod = (lambda s, b, h, q_idx, kv_idx: s * factor) if by_mod else None
    out = flex_attention(q, k, v, score_mod, scale=1.0 if by_mod else factor, backend=backend)
    (found,) = gradients(out, [v], grad)
    picks = torch.nn.functional.one_hot((q @ k.mT).argmax(-1), 64).float()
    torch.testing.assert_close(found, picks.mT @ grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [100.0, -100.0])
def test_a_shift_of_all_scores_costs_what_it_costs_torch(offset: float, backend: str) -> None:
    inputs = [torch.randn(1, 2, 64, 16) for _ in range(3)]
    grad = torch.randn(1, 2, 64, 16)

    def shifted(score, b, h, q_idx, kv_idx):
        return score + offset

    results = []
    for dtype in (torch.float32, torch.float64, torch.float32):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        if not results:
            out = flex_attention(*leaves, shifted, backend=backend)
        else:
            out = dense_attention(*leaves, shifted)[0]
        results.append([out, *gradients(out, leaves, grad)])
    for found, exact, plain in zip(*results):
        assert_close_enough(found, exact, plain, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keys", [1, 37])
def test_one_visible_key_has_no_gradient_through_its_weight(keys: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 3, n, 40).to(dtype).requires_grad_() for n in (37, keys, keys))
    mask_mod = None if keys == 1 else lambda b, h, q_idx, kv_idx: q_idx == kv_idx
    out = flex_attention(q, k, v, mask_mod=mask_mod, backend="cpp")
    grads = torch.autograd.grad(out, (q, k, v), torch.randn_like(out))
    # Tiles add products in an order of their own, so that one sum may differ from itself.
    rounding = 1e-5 if dtype == torch.bfloat16 and host().name == "amx" else 0.0
    assert grads[0].abs().max() <= rounding
    assert grads[1].abs().max() <= rounding
    assert grads[2].any()
