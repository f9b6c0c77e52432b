"""Training a block diffusion model: a noisy copy of the text beside the clean one."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def block_diffusion(length: int = 1024, block: int = 16) -> MaskMod:
    """keep = own noisy block, clean blocks before it; among clean ones block-causal"""

    def mask_mod(b, h, q_idx, kv_idx):
        q_clean, kv_clean = q_idx >= length, kv_idx >= length
        q_block = torch.where(q_clean, q_idx - length, q_idx) // block
        kv_block = torch.where(kv_clean, kv_idx - length, kv_idx) // block
        own = (q_block == kv_block) & ~q_clean & ~kv_clean
        before = (q_block > kv_block) & ~q_clean & kv_clean
        clean = (q_block >= kv_block) & q_clean & kv_clean
        return own | before | clean

    return mask_mod


def dense(score: Tensor, length: int, block: int) -> Tensor:
    """Four quarters: squares, a staircase, nothing, and the staircase with its squares."""
    number = torch.arange(length) // block
    squares = number[:, None] == number
    below = number[:, None] > number
    top = torch.cat([squares, below], 1)
    bottom = torch.cat([torch.zeros_like(squares), below | squares], 1)
    return masked(score, torch.cat([top, bottom]))


RECIPE = Recipe(
    family="generation structure",
    formula="keep = (noisy q, noisy kv, same block) or (noisy q, clean kv, block before) or (clean "
    "q, clean kv, block before or same)",
    sources=(Source("BD3-LM (blocks of 4 to 16)", "arXiv:2503.09573"),),
    mask=block_diffusion,
    parameters={
        "length": "tokens of the text; the sequence is twice as long, noisy half first [tokens]",
        "block": "tokens of a block [tokens]",
    },
    equivalents=(
        "attention-gym generate_block_diffusion_mask(seq_len, block_size): the same",
        "clean tokens never see noisy ones",
    ),
    pictures=(
        Picture(
            """
            # # . . . . . .
            # # . . . . . .
            . . # # # # . .
            . . # # # # . .
            . . . . # # . .
            . . . . # # . .
            . . . . # # # #
            . . . . # # # #
            """,
            given={"length": 4, "block": 2},
        ),
        Picture(
            """
            # . . . . .
            . # . # . .
            . . # # # .
            . . . # . .
            . . . # # .
            . . . # # #
            """,
            given={"length": 3, "block": 1},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"length": 27, "block": 5},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=54),
)
