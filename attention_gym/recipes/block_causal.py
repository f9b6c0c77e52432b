"""Causal between blocks, both ways within one."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def block_causal(block: int = 32) -> MaskMod:
    """keep = q // block >= kv // block"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx // block >= kv_idx // block

    return mask_mod


def dense(score: Tensor, block: int) -> Tensor:
    """Each row ends with its block."""
    ends = (torch.arange(score.shape[2]) // block + 1) * block
    return masked(score, torch.arange(score.shape[3]) < ends[:, None])


def model(score: Tensor, block: int) -> Tensor:
    """transformers' causal mask with groups that see themselves whole."""
    from transformers import Gemma3TextConfig
    from transformers.masking_utils import create_causal_mask

    group = (torch.arange(score.shape[2]) // block).expand(score.shape[0], -1)
    options = {"block_sequence_ids": group}
    return added(score, model_mask(create_causal_mask, Gemma3TextConfig(), score, **options))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q // block >= kv // block",
    sources=(
        Source("torchtitan block-causal", "torchtitan/models/attention.py"),
        Source("Semi-autoregressive decoding", "arXiv:1808.08583"),
    ),
    mask=block_causal,
    parameters={"block": "tokens of a block [tokens]"},
    equivalents=(
        "block 1: causal",
        "transformers block_sequence_ids = position // block over a causal mask: the same",
    ),
    pictures=(
        Picture("# # . . .\n# # . . .\n# # # # .\n# # # # .\n# # # # #", given={"block": 2}),
        Picture("# # # . .\n# # # . .\n# # # . .\n# # # # #", given={"block": 3}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids)", scores=model,
            sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"block": 7},
)  # fmt: skip
