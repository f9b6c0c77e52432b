"""A small byte-level transformer whose attention is passed in, so that several can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_gym.training.data import VOCABULARY

# (query, key, value) -> out, all [B, H, S, D]; the masking is inside.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ModelSize:
    dim: int = 128
    layers: int = 4
    heads: int = 4


class Layer(nn.Module):
    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm = nn.LayerNorm(size.dim, bias=False)
        self.qkv = nn.Linear(size.dim, 3 * size.dim, bias=False)
        self.project = nn.Linear(size.dim, size.dim, bias=False)
        self.mlp_norm = nn.LayerNorm(size.dim, bias=False)
        self.widen = nn.Linear(size.dim, 4 * size.dim, bias=False)
        self.narrow = nn.Linear(4 * size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, H, S, D] each
        out = attend(rotate(query, turn), rotate(key, turn), value)
        x = x + self.project(out.transpose(1, 2).reshape(batch, length, dim))
        return x + self.narrow(F.gelu(self.widen(self.mlp_norm(x))))


class ByteTransformer(nn.Module):
    """Predicts the next byte; positions enter by rotation of query and key."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        self.head_dim = size.dim // size.heads
        self.embed = nn.Embedding(VOCABULARY, size.dim)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, bias=False)
        self.apply(self._initialise)
        for name, weight in self.named_parameters():
            if name.endswith(("project.weight", "narrow.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * size.layers) ** 0.5)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Logits [B, S, VOCABULARY] of the token after each."""
        x = self.embed(tokens)
        turn = rotation(tokens.shape[1], self.head_dim)
        for layer in self.layers:
            x = layer(x, turn, attend)
        return F.linear(self.norm(x), self.embed.weight)

    def loss(self, tokens: Tensor, targets: Tensor, attend: Attend) -> Tensor:
        return F.cross_entropy(self(tokens, attend).flatten(0, 1), targets.flatten())


def rotation(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """(cos, sin) of each position and pair of channels: [S, D / 2]."""
    speed = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.arange(length)[:, None] * speed
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (arXiv:2104.09864), first half of the channels with the second."""
    cos, sin = turn
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)
