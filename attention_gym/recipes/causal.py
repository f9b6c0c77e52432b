"""A query sees itself and every key before it."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Source
from attention_gym.reference import masked


def causal() -> MaskMod:
    """keep = q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    return mask_mod


def dense(score: Tensor) -> Tensor:
    """Everything above the diagonal is dropped."""
    return masked(score, torch.ones_like(score, dtype=torch.bool).tril())


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv",
    sources=(
        Source("Transformer decoder", "arXiv:1706.03762"),
        Source("GPT-2", "Radford et al. 2019"),
    ),
    mask=causal,
    equivalents=(
        "torch scaled_dot_product_attention(is_causal=True): the same, aligned at the top left",
        "transformers causal_mask_function: the same",
        "flash-attn causal=True, from 2.1 on: aligned at the bottom right, "
        "so it differs when Q_LEN != KV_LEN (q + KV_LEN - Q_LEN >= kv)",
    ),
    pictures=(
        Picture(
            """
            # . . .
            # # . .
            # # # .
            # # # #
            """
        ),
        Picture(
            """
            # . . . . .
            # # . . . .
            """
        ),
        Picture(
            """
            # .
            # #
            # #
            """
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
)
