"""A learned number per head and distance bucket; buckets are exact near, logarithmic far."""

import math

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def t5_bias(table: Tensor, bucket: Tensor, bidirectional: bool = True) -> ScoreMod:
    """s' = s + table[bucket[distance] (+ half the buckets where kv > q), h]"""
    half = table.shape[0] // 2
    farthest = bucket.shape[0] - 1

    def score_mod(score, b, h, q_idx, kv_idx):
        if bidirectional:
            far = torch.abs(kv_idx - q_idx).clamp(max=farthest)
            row = bucket[far] + torch.where(kv_idx > q_idx, half, 0)
        else:
            row = bucket[(q_idx - kv_idx).clamp(0, farthest)]
        return score + table[row, h]

    return score_mod


def t5_bucket(buckets: int, max_distance: int) -> Tensor:
    """Bucket of each distance 0 … max_distance: exact below buckets / 2, then in log steps."""
    exact = buckets // 2
    distance = torch.arange(max_distance + 1)
    steps = torch.log(distance.clamp(min=1) / exact) / math.log(max_distance / exact)
    far = exact + (steps * (buckets - exact)).long()
    return torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


def learned_table(
    sizes: Sizes, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "table": torch.randn(buckets, sizes.heads, generator=generator),
        "bucket": t5_bucket(buckets // 2 if bidirectional else buckets, max_distance),
    }


def dense(score: Tensor, table: Tensor, max_distance: int, bidirectional: bool) -> Tensor:
    """Cell by cell, as the published code finds the bucket of one relative position."""
    half = table.shape[0] // 2 if bidirectional else table.shape[0]
    exact, bias = half // 2, torch.zeros_like(score)

    def bucket(relative: int) -> int:
        side = half if bidirectional and relative > 0 else 0
        distance = abs(relative) if bidirectional else max(-relative, 0)
        if distance < exact:
            return side + distance
        steps = math.log(distance / exact) / math.log(max_distance / exact) * (half - exact)
        return side + min(half - 1, exact + int(steps))

    for q in range(score.shape[2]):
        for kv in range(score.shape[3]):
            bias[:, :, q, kv] = table[bucket(kv - q)]
    return score + bias


def model(
    score: Tensor, table: Tensor, buckets: int, max_distance: int, bidirectional: bool
) -> Tensor:
    """T5's own bias, with the table as its weight."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(
        num_heads=table.shape[1], d_model=8, d_kv=4, relative_attention_num_buckets=buckets,
        relative_attention_max_distance=max_distance, is_decoder=not bidirectional,
    )  # fmt: skip
    attention = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    attention.relative_attention_bias.weight.data = table
    return score + attention.compute_bias(*score.shape[-2:])


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + table[bucket(kv - q), h], softmax scale 1",
    sources=(
        Source("T5 (32 buckets, farthest 128)", "arXiv:1910.10683"),
        Source("Flan-T5, UMT5, Pix2Struct", "transformers models/t5/modeling_t5.py"),
    ),
    score=t5_bias,
    captures=learned_table,
    parameters={
        "bidirectional": "separate buckets for keys after the query (encoder); False for a decoder",
        "buckets": "rows of the table, both directions together [count]",
        "max_distance": "distance from which on all tokens share the last bucket [tokens]",
    },
    captured={
        "table": "[buckets, Hq] float: the learned bias",
        "bucket": "[max_distance + 1] int64: bucket of each distance, in one direction",
    },
    learned=frozenset({"table"}),
    equivalents=(
        "transformers T5Attention._relative_position_bucket: the same buckets",
        "T5 does not scale scores: pass scale=1.0",
    ),
    pictures=(
        # 4 buckets, 2 a direction: 0 and 1 for the past, 2 and 3 for the future; 2 is never used,
        # for distance 0 counts as past.
        Picture(
            """
            10 40 40
            20 10 40
            20 20 10
            """,
            given={"table": [[10.0], [20.0], [30.0], [40.0]], "bucket": [0, 1]},
        ),
        Picture(
            """
            1 1 1 1
            2 1 1 1
            3 2 1 1
            3 3 2 1
            4 3 3 2
            """,
            given={
                "table": [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]],
                "bucket": [0, 1, 2, 2, 3],
                "bidirectional": False,
            },
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"bidirectional": False}),
        Reference(source="transformers T5Attention.compute_bias", scores=model),
        Reference(
            source="transformers T5Attention.compute_bias",
            scores=model,
            given={"bidirectional": False, "buckets": 32, "max_distance": 128},
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=512),
    scale=1.0,
    small={"buckets": 12, "max_distance": 16},
)
