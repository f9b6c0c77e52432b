"""The neighbourhoods of natten_2d, with the image stored tile by tile: fewer blocks are visited."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.natten_2d import near, windows
from attention_gym.reference import masked


def tiled_natten(
    height: int = 32, width: int = 32, kernel: int = 7, tile_height: int = 8, tile_width: int = 16
) -> MaskMod:
    """keep = near on both axes, with rows and columns of tokens that lie tile after tile"""
    tile, across = tile_height * tile_width, width // tile_width

    def place(token):
        row = token // tile // across * tile_height + token % tile // tile_width
        return row, token // tile % across * tile_width + token % tile_width

    def mask_mod(b, h, q_idx, kv_idx):
        (q_row, q_column), (kv_row, kv_column) = place(q_idx), place(kv_idx)
        rows = near(q_row, kv_row, height, kernel)
        return rows & near(q_column, kv_column, width, kernel)

    return mask_mod


def order(height: int, width: int, tile_height: int, tile_width: int) -> list[tuple[int, int]]:
    """Row and column of each token as stored: tiles row by row, pixels row by row in each."""
    return [
        (top + row, left + column)
        for top in range(0, height, tile_height)
        for left in range(0, width, tile_width)
        for row in range(tile_height)
        for column in range(tile_width)
    ]


def dense(
    score: Tensor, height: int, width: int, kernel: int, tile_height: int, tile_width: int
) -> Tensor:
    """Neighbourhoods on the image, looked up for the stored order."""
    rows, columns = windows(height, min(kernel, height)), windows(width, min(kernel, width))
    places = order(height, width, tile_height, tile_width)
    keep = [[r in rows[q] and c in columns[p] for r, c in places] for q, p in places]
    return masked(score, torch.tensor(keep))


RECIPE = Recipe(
    family="vision and video",
    formula="keep as natten_2d's, for tokens stored tile by tile",
    sources=(
        Source("Tiled neighbourhood attention", "attention-gym generate_tiled_natten"),
        Source("Generalized Neighborhood Attention, token permutation", "arXiv:2504.16922"),
    ),
    mask=tiled_natten,
    parameters={
        "height": "rows of the image, a multiple of tile_height [tokens]",
        "width": "columns of the image, a multiple of tile_width [tokens]",
        "kernel": "rows and columns of the neighbourhood [tokens]",
        "tile_height": "rows of a tile [tokens]",
        "tile_width": "columns of a tile [tokens]",
    },
    equivalents=(
        "natten_2d after a permutation of the tokens: the same result, permuted",
        "tiles of as many tokens as a block of the mask make most blocks empty or full",
    ),
    pictures=(
        # Two rows of four in two tiles of two by two; each pixel sees the nearest three columns.
        Picture(
            """
            # # # # # . # .
            # # # # # . # .
            # # # # # . # .
            # # # # # . # .
            . # . # # # # #
            . # . # # # # #
            . # . # # # # #
            . # . # # # # #
            """,
            given={"height": 2, "width": 4, "kernel": 3, "tile_height": 2, "tile_width": 2},
        ),
        Picture(
            "# # .\n# # .\n. # #",
            given={"height": 3, "width": 1, "kernel": 2, "tile_height": 1, "tile_width": 1},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024),
    small={"height": 4, "width": 12, "kernel": 3, "tile_height": 2, "tile_width": 3},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=48),
)
