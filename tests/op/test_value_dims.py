"""bf16 and fp16 where values have a head dim of their own, against torch in the same dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexattn import flex_attention


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value_dim", [40, 64, 72])
def test_low_precision_at_other_value_dims(value_dim: int, dtype: torch.dtype) -> None:
    """With Dv != D torch computes in float32, and rounds only what it returns."""
    dims = (64, 64, value_dim, value_dim)
    q, k, v, grad = (torch.randn(1, 4, 256, dim).to(dtype) for dim in dims)

    def run(attend: Callable[..., Tensor], kind: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(kind).detach().requires_grad_() for tensor in (q, k, v)]
        out = attend(*leaves)
        return [out, *torch.autograd.grad(out, leaves, grad.to(kind))]

    peer = torch.nn.functional.scaled_dot_product_attention
    exact, plain = run(peer, torch.float64), run(peer, dtype)
    for found, want, other in zip(run(flex_attention, dtype), exact, plain):
        error, allowed = found.double() - want, other.double() - want
        assert error.norm() <= 1.2 * allowed.norm()
        assert error.abs().max() <= 2 * allowed.abs().max()
