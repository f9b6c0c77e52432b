"""Image and instruction, state, actions: each block sees those before it, and itself both ways."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def robot_blocks(observed: int = 816, state: int = 1) -> MaskMod:
    """keep = block[q] >= block[kv], blocks of observed, state, and all other tokens"""

    def mask_mod(b, h, q_idx, kv_idx):
        q_block = (q_idx >= observed).long() + (q_idx >= observed + state).long()
        kv_block = (kv_idx >= observed).long() + (kv_idx >= observed + state).long()
        return q_block >= kv_block

    return mask_mod


def dense(score: Tensor, observed: int, state: int) -> Tensor:
    """Three rectangles from the left edge, one under the other."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    keep[:observed, :observed] = True
    keep[observed : observed + state, : observed + state] = True
    keep[observed + state :] = True
    return masked(score, keep)


def model(score: Tensor, observed: int, state: int) -> Tensor:
    """π0 as transformers builds it: a causal mask with one group a block."""
    from transformers import GemmaConfig
    from transformers.masking_utils import create_causal_mask

    rest = score.shape[2] - observed - state
    group = torch.tensor([0] * observed + [1] * state + [2] * rest).expand(score.shape[0], -1)
    options = {"block_sequence_ids": group}
    return added(score, model_mask(create_causal_mask, GemmaConfig(), score, **options))


RECIPE = Recipe(
    family="generation structure",
    formula="keep = block[q] >= block[kv], block 0, 1, 2 for observed, state, action tokens",
    sources=(Source("π0 (3 images and text, 1 state, 50 actions)", "arXiv:2410.24164"),),
    mask=robot_blocks,
    parameters={
        "observed": "tokens of images and instruction [tokens]",
        "state": "tokens of the robot's state [tokens]",
    },
    equivalents=(
        "next_scale with levels 0, 1, 2: the same from a table",
        "openpi make_attn_mask(input_mask, mask_ar): the same by a cumulative sum of mask_ar",
    ),
    pictures=(
        Picture(
            """
            # # . . .
            # # . . .
            # # # . .
            # # # # #
            # # # # #
            """,
            given={"observed": 2, "state": 1},
        ),
        Picture("# . .\n# # #\n# # #", given={"observed": 1, "state": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids) (π0)", scores=model,
            sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=867),
    small={"observed": 15, "state": 3},
)  # fmt: skip
