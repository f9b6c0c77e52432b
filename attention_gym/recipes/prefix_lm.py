"""A prefix seen by all queries, causal after it."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def prefix_lm(prefix: int = 128) -> MaskMod:
    """keep = kv < prefix or q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (kv_idx < prefix) | (q_idx >= kv_idx)

    return mask_mod


def dense(score: Tensor, prefix: int) -> Tensor:
    """Causal, with the prefix's columns filled."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    keep[..., :prefix] = True
    return masked(score, keep)


def model(score: Tensor, prefix: int) -> Tensor:
    """HRM-text: token types mark the prefix, which forms a block over a causal mask."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask

    types = (torch.arange(score.shape[2]) < prefix).long().expand(score.shape[0], -1)
    options = {"block_sequence_ids": torch.where(types == 1, 0, -1)}
    return added(score, model_mask(create_causal_mask, LlamaConfig(), score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = kv < prefix or q >= kv",
    sources=(
        Source("T5, prefix language model", "arXiv:1910.10683"),
        Source("UL2", "arXiv:2205.05131"),
        Source("PaliGemma, image and prompt as prefix", "arXiv:2407.07726"),
    ),
    mask=prefix_lm,
    parameters={"prefix": "leading tokens that every query sees [tokens]"},
    equivalents=("attention-gym generate_prefix_lm_mask(P): the same",),
    pictures=(
        Picture(
            """
            # # . . .
            # # . . .
            # # # . .
            # # # # .
            # # # # #
            """,
            given={"prefix": 2},
        ),
        Picture(
            """
            # . .
            # # .
            # # #
            """,
            given={"prefix": 0},
        ),
        Picture(
            """
            # # #
            # # #
            """,
            given={"prefix": 9},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids) (HRM-text)", scores=model,
            sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=1024),
    small={"prefix": 4},
)  # fmt: skip
