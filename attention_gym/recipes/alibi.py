"""Causal attention with a penalty that grows linearly with distance, steeper in earlier heads."""

import math

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal


def alibi(slopes: Tensor) -> ScoreMod:
    """s' = s - slopes[h] * (q - kv)"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score - slopes[h] * (q_idx - kv_idx)

    return score_mod


def alibi_slopes(heads: int) -> list[float]:
    """The paper's slopes: 2^(-8 i / n) for i = 1 … n, where n heads are a power of two.

    Otherwise the slopes of the next lower power, then every other slope of twice that power.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-4.0 * i / power) for i in range(1, 2 * power + 1, 2)]
    return slopes + between[: heads - power]


def slopes_for(sizes: Sizes) -> dict[str, Tensor]:
    return {"slopes": torch.tensor(alibi_slopes(sizes.heads))}


def dense(score: Tensor, slopes: Tensor) -> Tensor:
    """All distances as a matrix, times one slope a head; the future filled."""
    q_len, kv_len = score.shape[-2:]
    distance = torch.arange(q_len).view(-1, 1) - torch.arange(kv_len)
    bias = -distance.float() * slopes.view(1, -1, 1, 1)
    return (score + bias).masked_fill(distance < 0, -math.inf)


def from_keys(score: Tensor, bias: Tensor) -> Tensor:
    """A bias by key alone, made the same at the query's own place: softmax sees no difference."""
    q_len, kv_len = score.shape[-2:]
    bias = bias.view(-1, score.shape[1], 1, kv_len)
    moved = bias - bias.mT[..., :q_len, :]
    keep = torch.arange(q_len).view(-1, 1) >= torch.arange(kv_len)
    return torch.where(keep, score + moved, -math.inf)


def bloom(score: Tensor) -> Tensor:
    """BLOOM's own bias, slopes included."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    ones = torch.ones(1, score.shape[3])
    return from_keys(score, build_alibi_tensor(ones, score.shape[1], torch.float32))


def mpt(score: Tensor) -> Tensor:
    """MPT's own bias, slopes included."""
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    return from_keys(score, build_mpt_alibi_tensor(score.shape[1], score.shape[3]))


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s - slope[h] * (q - kv) where q >= kv",
    sources=(
        Source("ALiBi", "arXiv:2108.12409"),
        Source("BLOOM", "arXiv:2211.05100"),
        Source("MPT", "github.com/mosaicml/llm-foundry"),
    ),
    score=alibi,
    mask=causal,
    captures=slopes_for,
    captured={"slopes": "[Hq] float32: penalty per token of distance, one per query head"},
    equivalents=(
        "flash-attn alibi_slopes: the same for causal attention, -slope * |q - kv| otherwise",
        "BLOOM adds slope[h] * kv: another constant per row, so the same softmax",
        "MPT slopes: the same numbers in the same order",
        "attention-gym generate_alibi_bias(H) uses 2^(-8 (h + 1) / H) for every H: "
        "other slopes when H is not a power of two (H = 12 starts 0.63 in place of 0.5)",
    ),
    pictures=(
        Picture(
            """
            0    .    .    .
            -0.5 0    .    .
            -1   -0.5 0    .
            -1.5 -1   -0.5 0
            """,
            given={"slopes": [0.5, 0.25]},
        ),
        Picture(
            """
            1     .     .
            0.75  1     .
            0.5   0.75  1
            """,
            given={"slopes": [0.5, 0.25]},
            raw=1.0,
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers build_alibi_tensor (BLOOM)", scores=bloom, sizes=SQUARE),
        Reference(
            source="transformers build_alibi_tensor (BLOOM)", scores=bloom,
            sizes=Sizes(heads=12, q_len=40),
        ),
        Reference(source="transformers build_mpt_alibi_tensor", scores=mpt, sizes=SQUARE),
        Reference(
            source="transformers build_mpt_alibi_tensor", scores=mpt,
            sizes=Sizes(heads=20, q_len=40),
        ),
    ),
    sizes=Sizes(heads=12, q_len=1024),
)  # fmt: skip
