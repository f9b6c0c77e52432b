"""The rotary part of multi-head latent attention as a second product, shared by all heads."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def mla_rope(query_rope: Tensor, key_rope: Tensor, factor: float = 0.0722) -> ScoreMod:
    """s' = s + factor * sum over i of query_rope[b, h, q, i] * key_rope[b, kv, i]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + factor * (query_rope[b, h, q_idx] * key_rope[b, kv_idx]).sum(-1)

    return score_mod


def rotated(sizes: Sizes, channels: int = 8) -> dict[str, Tensor]:
    """Random queries and keys of few channels, rotated by position."""
    generator = torch.Generator().manual_seed(0)

    def turn(tensor: Tensor) -> Tensor:
        half = channels // 2
        angle = torch.arange(tensor.shape[-2])[:, None] * 100.0 ** (-torch.arange(half) / half)
        first, second = tensor.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    shape = (sizes.batch, sizes.heads, sizes.q_len, channels)
    query = torch.randn(shape, generator=generator)
    key = torch.randn(sizes.batch, sizes.kv_len, channels, generator=generator)
    return {"query_rope": turn(query), "key_rope": turn(key)}


def dense(score: Tensor, query_rope: Tensor, key_rope: Tensor, factor: float) -> Tensor:
    """One matrix product."""
    return score + factor * query_rope @ key_rope[:, None].mT


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = s + factor <q_rope[b, h, q], k_rope[b, kv]>",
    sources=(Source("DeepSeek-V2, decoupled rotary positions (64 channels)", "arXiv:2405.04434"),),
    score=mla_rope,
    captures=rotated,
    parameters={
        "factor": "softmax scale of the second product, 1 / sqrt(D + channels) [1]",
        "channels": "channels of the rotary part [count]",
    },
    captured={
        "query_rope": "[B, Hq, Q_LEN, channels] float: rotated part of the queries (learned)",
        "key_rope": "[B, KV_LEN, channels] float: rotated key, one for all heads (learned)",
    },
    learned=frozenset({"query_rope", "key_rope"}),
    equivalents=(
        "concatenating both parts to queries and keys of 192 channels: the same, and faster where "
        "keys may be copied (mla_prefill)",
        "attention-gym generate_mla_rope_score_mod(query_rope, key_rope, heads, scale): the same",
    ),
    pictures=(
        Picture(
            "5 11\n# 2",
            given={
                "query_rope": [[[[1.0, 2.0], [2.0, -1.0]]]],
                "key_rope": [[[1.0, 2.0], [3.0, 4.0]]],
                "factor": 1.0,
            },
        ),
        Picture(
            "6",
            given={
                "query_rope": [[[[0.0]], [[0.0]]], [[[0.0]], [[3.0]]]],
                "key_rope": [[[0.0]], [[4.0]]],
                "factor": 0.5,
            },
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=512, head_dim=128),
)  # fmt: skip
