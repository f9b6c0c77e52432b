"""A query sees itself and every key before it."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Source
from attention_gym.reference import added, masked, model_mask


def causal() -> MaskMod:
    """keep = q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    return mask_mod


def dense(score: Tensor) -> Tensor:
    """Everything above the diagonal is dropped."""
    return masked(score, torch.ones_like(score, dtype=torch.bool).tril())


def model(score: Tensor) -> Tensor:
    """The mask every decoder of transformers gets."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask

    return added(score, model_mask(create_causal_mask, LlamaConfig(), score))


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
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers create_causal_mask (Llama)", scores=model, sizes=SQUARE),
    ),
)
