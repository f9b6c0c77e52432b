"""Scores of quantised queries and keys, scaled back block by block."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def block_scaled(
    q_scale: Tensor, kv_scale: Tensor, q_block: int = 128, kv_block: int = 64
) -> ScoreMod:
    """s' = s * q_scale[b, h, q // q_block] * kv_scale[b, h, kv // kv_block]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * q_scale[b, h, q_idx // q_block] * kv_scale[b, h, kv_idx // kv_block]

    return score_mod


def block_maxima(sizes: Sizes, q_block: int = 128, kv_block: int = 64) -> dict[str, Tensor]:
    """Largest magnitude of each block over 127, of normal random numbers."""
    generator = torch.Generator().manual_seed(0)

    def scales(length: int, block: int) -> Tensor:
        count = -(-length // block)
        shape = (sizes.batch, sizes.heads, count, 16)
        return torch.randn(shape, generator=generator).abs().amax(-1) / 1.27

    return {"q_scale": scales(sizes.q_len, q_block), "kv_scale": scales(sizes.kv_len, kv_block)}


def dense(score: Tensor, q_scale: Tensor, kv_scale: Tensor, q_block: int, kv_block: int) -> Tensor:
    """Scales repeated to full length, their outer product."""
    rows = q_scale.repeat_interleave(q_block, -1)[..., : score.shape[2], None]
    columns = kv_scale.repeat_interleave(kv_block, -1)[..., None, : score.shape[3]]
    return score * (rows @ columns)


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = s a[b, h, q // q_block] c[b, h, kv // kv_block]",
    sources=(
        Source("SageAttention (blocks of 128 and 64)", "arXiv:2410.02367"),
        Source("FlashAttention-3, FP8 with block scales", "arXiv:2407.08608"),
    ),
    score=block_scaled,
    captures=block_maxima,
    parameters={
        "q_block": "queries that share a scale [tokens]",
        "kv_block": "keys that share a scale [tokens]",
    },
    captured={
        "q_scale": "[B, Hq, ceil(Q_LEN / q_block)] float: scale of each block of queries",
        "kv_scale": "[B, Hq, ceil(KV_LEN / kv_block)] float: scale of each block of keys",
    },
    equivalents=(
        "query and key hold whole numbers (in bfloat16 exact up to 256); values are not scaled",
        "one scale per token: blocks of 1",
    ),
    pictures=(
        Picture(
            "10 10 20\n10 10 20\n50 50 100",
            given={
                "q_scale": [[[1.0, 5.0]]], "kv_scale": [[[10.0, 20.0]]], "q_block": 2,
                "kv_block": 2,
            },
            raw=1.0,
        ),
        Picture(
            "6 12",
            given={
                "q_scale": [[[0.0], [3.0]]], "kv_scale": [[[0.0, 0.0], [1.0, 2.0]]],
                "q_block": 4, "kv_block": 1,
            },
            head=1, raw=2.0,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"q_block": 16, "kv_block": 9},
)  # fmt: skip
