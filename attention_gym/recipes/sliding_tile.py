"""Video tile by tile: all tokens of a tile see the tiles in a window, and the text."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def sliding_tile(
    frames: int = 3,
    rows: int = 3,
    columns: int = 5,
    tile: int = 64,
    kernel: int = 3,
    text: int = 32,
) -> MaskMod:
    """keep = text key, text query, or kv's tile in the window of q's tile, moved inside"""
    page = rows * columns
    video = frames * page * tile

    def near(place, other, length):
        size = min(kernel, length)
        centre = place.clamp(size // 2, length - 1 - (size - 1) // 2)
        return (other >= centre - size // 2) & (other <= centre + (size - 1) // 2)

    def mask_mod(b, h, q_idx, kv_idx):
        q_tile, kv_tile = q_idx // tile, kv_idx // tile
        times = near(q_tile // page, kv_tile // page, frames)
        down = near(q_tile // columns % rows, kv_tile // columns % rows, rows)
        across = near(q_tile % columns, kv_tile % columns, columns)
        return (kv_idx >= video) | (q_idx >= video) | (times & down & across)

    return mask_mod


def dense(
    score: Tensor, frames: int, rows: int, columns: int, tile: int, kernel: int, text: int
) -> Tensor:
    """One small matrix an axis, their Kronecker product, each cell blown up to a tile."""

    def axis(length: int) -> Tensor:
        size = min(kernel, length)
        keep = torch.zeros(length, length)
        for place in range(length):
            first = max(0, min(place - size // 2, length - size))
            keep[place, first : first + size] = 1
        return keep

    tiles = torch.kron(axis(frames), torch.kron(axis(rows), axis(columns)))
    video = torch.kron(tiles, torch.ones(tile, tile))
    keep = torch.ones(score.shape[-2:])
    keep[: len(video), : len(video)] = video[: score.shape[2], : score.shape[3]]
    return masked(score, keep > 0)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = kv or q text, or |tile_kv - clamp(tile_q)| <= kernel / 2 on all three axes",
    sources=(
        Source("Sliding Tile Attention, FastVideo", "arXiv:2502.04507"),
        Source("Its mask functions", "attention-gym generate_sta_mask_mod_3d"),
    ),
    mask=sliding_tile,
    parameters={
        "frames": "tiles along time [tiles]",
        "rows": "tiles down a frame [tiles]",
        "columns": "tiles across a frame [tiles]",
        "tile": "tokens of a tile, which lie together [tokens]",
        "kernel": "tiles of the window on each axis [tiles]",
        "text": "tokens of text after the video [tokens]",
    },
    equivalents=(
        "frames 1: the two-dimensional form",
        "an even kernel has kernel / 2 tiles before and one less after",
        "with tiles as long as the mask's blocks no block is partial but the text's",
    ),
    pictures=(
        # One row of four tiles of two tokens, three in the window.
        Picture(
            """
            # # # # # # . .
            # # # # # # . .
            # # # # # # . .
            # # # # # # . .
            . . # # # # # #
            . . # # # # # #
            . . # # # # # #
            . . # # # # # #
            """,
            given={"frames": 1, "rows": 1, "columns": 4, "tile": 2, "kernel": 3, "text": 0},
        ),
        # Two frames of one tile each, a window of one, and two tokens of text.
        Picture(
            "# . # #\n. # # #\n# # # #\n# # # #",
            given={"frames": 2, "rows": 1, "columns": 1, "tile": 1, "kernel": 1, "text": 2},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"kernel": 2}),
    ),
    sizes=Sizes(q_len=2912),
    small={"frames": 2, "rows": 3, "columns": 4, "tile": 2, "kernel": 3, "text": 5},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=53),
)
