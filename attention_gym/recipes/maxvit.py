"""Blocks of neighbouring pixels, or grids of pixels far apart."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def maxvit(height: int = 28, width: int = 28, group: int = 7, grid: bool = True) -> MaskMod:
    """keep = same block (r // group, c // group), or same place of a grid of group × group cells"""
    down, across = height // group, width // group

    def mask_mod(b, h, q_idx, kv_idx):
        q_row, q_column = q_idx // width, q_idx % width
        kv_row, kv_column = kv_idx // width, kv_idx % width
        if grid:
            return (q_row % down == kv_row % down) & (q_column % across == kv_column % across)
        return (q_row // group == kv_row // group) & (q_column // group == kv_column // group)

    return mask_mod


def dense(score: Tensor, height: int, width: int, group: int, grid: bool) -> Tensor:
    """The image cut up as the published code does it, every piece a square of ones."""
    image = torch.arange(height * width).view(height, width)
    if grid:
        pieces = image.view(group, height // group, group, width // group).permute(1, 3, 0, 2)
    else:
        pieces = image.view(height // group, group, width // group, group).permute(0, 2, 1, 3)
    keep = torch.zeros(height * width, height * width, dtype=torch.bool)
    for piece in pieces.reshape(-1, group * group):
        keep[piece[:, None], piece] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = (r_q // P, c_q // P) == (r_kv // P, c_kv // P), or the same of r % (H / P), c "
    "% (W / P)",
    sources=(Source("MaxViT (7 × 7)", "arXiv:2204.01697"),),
    mask=maxvit,
    parameters={
        "height": "rows of the image, a multiple of group [tokens]",
        "width": "columns of the image, a multiple of group [tokens]",
        "group": "rows and columns that attend to each other [tokens]",
        "grid": "pixels spread over the image; False for a block of neighbours",
    },
    equivalents=("either way group × group keys a query: block is local, grid is dilated",),
    pictures=(
        # Two rows of four, a grid of two by two: every other column, all rows.
        Picture(
            """
            # . # . # . # .
            . # . # . # . #
            # . # . # . # .
            . # . # . # . #
            # . # . # . # .
            . # . # . # . #
            # . # . # . # .
            . # . # . # . #
            """,
            given={"height": 2, "width": 4, "group": 2, "grid": True},
        ),
        Picture(
            """
            # # . . # # . .
            # # . . # # . .
            . . # # . . # #
            . . # # . . # #
            # # . . # # . .
            # # . . # # . .
            . . # # . . # #
            . . # # . . # #
            """,
            given={"height": 2, "width": 4, "group": 2, "grid": False},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"grid": False}),
    ),
    sizes=Sizes(q_len=784),
    small={"height": 6, "width": 9, "group": 3},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=54),
    image=("height", "width"),
)
