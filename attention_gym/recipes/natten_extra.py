"""Neighbourhoods on the image, and further keys that every pixel sees, of a text say."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.natten_2d import near, windows
from attention_gym.reference import masked


def natten_extra(height: int = 32, width: int = 32, kernel: int = 7) -> MaskMod:
    """keep = kv >= height * width or near on both axes"""

    def mask_mod(b, h, q_idx, kv_idx):
        rows = near(q_idx // width, kv_idx // width, height, kernel)
        columns = near(q_idx % width, kv_idx % width, width, kernel)
        return (kv_idx >= height * width) | (rows & columns)

    return mask_mod


def dense(score: Tensor, height: int, width: int, kernel: int) -> Tensor:
    """Pixel by pixel on the image, with columns of ones behind."""
    rows, columns = windows(height, kernel), windows(width, kernel)
    keep = torch.ones(height, width, score.shape[3], dtype=torch.bool)
    image = torch.zeros(height, width, height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            for seen in rows[row]:
                image[row, column, seen, list(columns[column])] = True
    keep[..., : height * width] = image.view(height, width, -1)
    return masked(score, keep.view(height * width, -1))


RECIPE = Recipe(
    family="vision and video",
    formula="keep = kv >= height * width or (near rows and near columns)",
    sources=(
        Source("NATTEN, additional keys and values", "natten na2d(additional_keys=…)"),
        Source("Diffusion transformers with text keys", "arXiv:2504.16922"),
    ),
    mask=natten_extra,
    parameters={
        "height": "rows of the image [tokens]",
        "width": "columns of the image [tokens]",
        "kernel": "rows and columns of the neighbourhood [tokens]",
    },
    equivalents=("natten merges two calls by their lse; here it is one softmax over both",),
    pictures=(
        Picture(
            """
            # # . # #
            # # . # #
            . # # # #
            """,
            given={"height": 1, "width": 3, "kernel": 2},
        ),
        Picture("# . #\n. # #", given={"height": 2, "width": 1, "kernel": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024, kv_len=1101),
    small={"height": 5, "width": 7, "kernel": 3},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=35, kv_len=41),
)
