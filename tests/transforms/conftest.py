"""One attention with everything in it, and the same in dense torch operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from flexattn import create_block_mask, flex_attention

B, H, S, D = 2, 4, 24, 8
BLOCK = 8


@dataclass
class Case:
    """Inputs, and attention on them two ways: ``fused`` (ours) and ``dense`` (the oracle).

    The mods read every index, two numbers and a learned bias [H, 2S - 1].
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value, self.bias

    @staticmethod
    def score_mod(bias: Tensor, cap: float = 3.0) -> Callable[..., Tensor]:
        middle = bias.shape[-1] // 2

        def softcap_with_bias(score, b, h, q_idx, kv_idx):
            return torch.tanh(score / cap) * cap + bias[h, q_idx - kv_idx + middle] * (b + 1)

        return softcap_with_bias

    @staticmethod
    def mask_mod(window: int = 9) -> Callable[..., Tensor]:
        return lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < window + b)

    @staticmethod
    def fused(query, key, value, bias, cap=3.0, window=9, block_mask=None):
        batch, _, length, _ = query.shape
        if block_mask is None:
            mod = Case.mask_mod(window)
            block_mask = create_block_mask(
                mod, batch, None, length, length, device="cpu", BLOCK_SIZE=BLOCK
            )
        return flex_attention(query, key, value, Case.score_mod(bias, cap), block_mask)

    @staticmethod
    def dense(query, key, value, bias, cap=3.0, window=9):
        batch, _, length, dim = query.shape
        middle = bias.shape[-1] // 2
        place = torch.arange(length)
        distance = place[:, None] - place
        b = torch.arange(batch).view(-1, 1, 1, 1)
        score = query @ key.transpose(-1, -2) / math.sqrt(dim)
        score = torch.tanh(score / cap) * cap + bias[:, distance + middle] * (b + 1)
        keep = (distance >= 0) & (distance < window + b)
        return torch.softmax(score.masked_fill(~keep, -torch.inf), dim=-1) @ value


@pytest.fixture
def case() -> Case:
    query, key, value = (torch.randn(B, H, S, D, requires_grad=True) for _ in range(3))
    return Case(query, key, value, torch.randn(H, 2 * S - 1, requires_grad=True))


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    """No graph of another test is reused or counted."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
