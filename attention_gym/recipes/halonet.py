"""Blocks of pixels see their block and a halo around it."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def halonet(height: int = 32, width: int = 32, block: int = 8, halo: int = 3) -> MaskMod:
    """keep = -halo <= i_kv - block * (i_q // block) < block + halo on both axes"""

    def mask_mod(b, h, q_idx, kv_idx):
        row = kv_idx // width - q_idx // width // block * block
        column = kv_idx % width - q_idx % width // block * block
        rows = (row >= -halo) & (row < block + halo)
        return rows & (column >= -halo) & (column < block + halo)

    return mask_mod


def dense(score: Tensor, height: int, width: int, block: int, halo: int) -> Tensor:
    """Block by block, a larger rectangle of keys."""
    keep = torch.zeros(height, width, height, width, dtype=torch.bool)
    for top in range(0, height, block):
        for left in range(0, width, block):
            rows = slice(max(0, top - halo), top + block + halo)
            columns = slice(max(0, left - halo), left + block + halo)
            keep[top : top + block, left : left + block, rows, columns] = True
    return masked(score, keep.view(height * width, height * width))


RECIPE = Recipe(
    family="vision and video",
    formula="keep = -halo <= i_kv - block (i_q // block) < block + halo on both axes",
    sources=(Source("HaloNet (block 8, halo 3)", "arXiv:2103.12731"),),
    mask=halonet,
    parameters={
        "height": "rows of the image [tokens]",
        "width": "columns of the image [tokens]",
        "block": "rows and columns of a block of queries [tokens]",
        "halo": "rows and columns around it that are seen too [tokens]",
    },
    equivalents=(
        "HaloNet pads the image with zeros, which take part in its softmax; here they do not",
        "halo 0: windows side by side; block 1: sasa with reach = halo",
    ),
    pictures=(
        # One row of six, blocks of two.
        Picture(
            """
            # # # . . .
            # # # . . .
            . # # # # .
            . # # # # .
            . . . # # #
            . . . # # #
            """,
            given={"height": 1, "width": 6, "block": 2, "halo": 1},
        ),
        # One column of two: both are in the halo of each.
        Picture("# #\n# #", given={"height": 2, "width": 1, "block": 1, "halo": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024),
    small={"height": 6, "width": 9, "block": 3, "halo": 1},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=54),
    image=("height", "width"),
)
