"""Tensors whose values are not what lies in their memory: negated views, freed storages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexattn import errors, flex_attention


def test_values_marked_as_negated() -> None:
    """A view may hold its values with the other sign; so does the imaginary part of a conj."""
    *inputs, grad, table = (
        torch.randn(shape, dtype=torch.complex64).conj().imag
        for shape in (*[(1, 2, 20, 4)] * 4, (20,))
    )
    assert all(tensor.is_neg() for tensor in (*inputs, grad, table))

    def trained(*tensors: Tensor) -> list[Tensor]:
        q, k, v, out_grad, bias = tensors
        leaves = [t.detach().requires_grad_() for t in (q, k, v, bias)]
        score_mod = lambda s, b, h, q, k: s + leaves[3][k]  # noqa: E731
        out = flex_attention(*leaves[:3], score_mod, backend="cpp")
        return [out, *torch.autograd.grad(out, leaves, out_grad)]

    marked = [*inputs, grad, table]
    found, want = trained(*marked), trained(*(tensor.resolve_neg() for tensor in marked))
    torch.testing.assert_close(found, want)


def _freed(*shape: int) -> Tensor:
    tensor = torch.randn(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def test_tensors_without_memory_are_no_crash() -> None:
    q, k, v = torch.randn(3, 1, 2, 16, 8)
    freed, table = _freed(*q.shape), _freed(16)
    for tensors in ([freed, k, v], [q, freed, v], [q, k, freed]):
        with pytest.raises(errors.LayoutError, match="has no memory"):
            flex_attention(*tensors)
    with pytest.raises(errors.LayoutError, match="captured tensor 0"):
        flex_attention(q, k, v, lambda s, b, h, q, k: s + table[k])
    out = flex_attention(q.requires_grad_(), k, v)
    with pytest.raises(errors.LayoutError, match="grad_out"):
        torch.autograd.grad(out, q, torch._efficientzerotensor(out.shape))
