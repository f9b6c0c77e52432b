"""Gradients of captured tensors on the Triton backend, interpreted: each way they are summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_calls import check, qkv
from torch import Tensor

from flexattn import create_block_mask, flex_attention
from flexattn.errors import DeterminismError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf
B, H, M, N = 1, 2, 21, 19

# Way → (shape of the capture, score_mod of it).
WAYS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Callable[..., Any]]]] = {
    "head": ((H,), lambda t: lambda s, b, h, q, k: s + t[h] * (q - k) * 0.1),
    "number": ((), lambda t: lambda s, b, h, q, k: s * t),
    "query": ((H, M), lambda t: lambda s, b, h, q, k: s * t[h, q]),
    "key": ((N,), lambda t: lambda s, b, h, q, k: s + t[k] * s),
    "distance": ((H, M + N), lambda t: lambda s, b, h, q, k: s + t[h, q - k + N]),
    "distance, clamped": ((9,), lambda t: lambda s, b, h, q, k: s + t[(q - k).clamp(-4, 4) + 4]),
    "pair": ((B, H, M, N), lambda t: lambda s, b, h, q, k: s + t[b, h, q, k]),
    "pair of all heads": ((M, N), lambda t: lambda s, b, h, q, k: s + t[q, k]),
    "scatter": ((7,), lambda t: lambda s, b, h, q, k: s + t[(q * k) % 7]),
    "several": ((4,), lambda t: lambda s, b, h, q, k: s * t[h] + t[(q * 3) % 4] - t[k % 4]),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways(way: str) -> None:
    shape, make = WAYS[way]
    table = torch.randn(shape).requires_grad_()
    mask = create_block_mask(lambda b, h, q, k: q + 9 >= k, 1, 1, M, N, BLOCK_SIZE=16)
    check(qkv((B, H, 1, M, N, 16, 16)), make(table), mask, [table])


@pytest.mark.parametrize("way", ["head", "distance", "distance, clamped", "pair of all heads"])
def test_deterministic(way: str) -> None:
    shape, make = WAYS[way]
    table = torch.randn(shape).requires_grad_()
    options = {"BLOCK_M2": 16, "BLOCK_N2": 16}
    check(
        *(qkv((B, H, 1, M, N, 16, 16)), make(table), None, [table]),
        deterministic=True,
        kernel_options=options,
    )


@pytest.mark.parametrize("switch", ["argument", "global"])
def test_what_cannot_repeat_says_so(switch: str) -> None:
    table = torch.randn(7).requires_grad_()
    q, k, v = qkv((1, 1, 1, 4, 4, 16, 16))
    score = WAYS["scatter"][1](table)
    if switch == "argument":
        out = flex_attention(q, k, v, score, backend="triton", deterministic=True)
    else:
        torch.use_deterministic_algorithms(True)
        try:
            out = flex_attention(q, k, v, score, backend="triton")
        finally:
            torch.use_deterministic_algorithms(False)
    with pytest.raises(DeterminismError, match="captured tensor 0") as caught:
        out.sum().backward()
    assert caught.value.why and caught.value.fix
    flex_attention(q, k, v, score, backend="triton", deterministic=False).sum().backward()
    assert table.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_gradients_have_the_dtype_of_the_capture(dtype: torch.dtype) -> None:
    table = torch.randn(H, dtype=dtype, requires_grad=True)
    q, k, v = qkv((1, H, H, 8, 8, 16, 16), torch.float64)
    flex_attention(q, k, v, WAYS["head"][1](table), backend="triton").sum().backward()
    assert table.grad is not None and table.grad.dtype == dtype


def test_only_what_wants_a_gradient_gets_one() -> None:
    table = torch.randn(H, requires_grad=True)
    q, k, v = (t.detach() for t in qkv((1, H, H, 8, 9, 16, 16)))
    for leaf in (q, k, v, table):
        table.requires_grad_(leaf is table)
        leaf.requires_grad_()
        out = flex_attention(q, k, v, WAYS["head"][1](table), backend="triton")
        pull = torch.randn_like(out)
        (found,) = torch.autograd.grad(out, leaf, pull)
        again = flex_attention(q, k, v, WAYS["head"][1](table), backend="eager")
        (wanted,) = torch.autograd.grad(again, leaf, pull)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        leaf.requires_grad_(False)


def test_an_empty_capture_has_an_empty_gradient() -> None:
    table = torch.randn(0, requires_grad=True)
    q, k, v = qkv((1, 1, 1, 5, 6, 16, 16))

    def never(s, b, h, q_idx, kv_idx):
        return torch.where(q_idx < 0, table[q_idx], s)

    flex_attention(q, k, v, never, backend="triton").sum().backward()
    assert table.grad is not None and table.grad.shape == (0,)
