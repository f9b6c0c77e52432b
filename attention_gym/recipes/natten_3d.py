"""Neighbourhoods in a video, on three axes; with one row and column it is the one-axis case."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.natten_2d import near, windows
from attention_gym.reference import masked


def natten_3d(
    frames: int = 8, height: int = 16, width: int = 16, kernel_frames: int = 3, kernel: int = 5
) -> MaskMod:
    """keep = near on all three axes"""
    page = height * width

    def mask_mod(b, h, q_idx, kv_idx):
        times = near(q_idx // page, kv_idx // page, frames, kernel_frames)
        rows = near(q_idx // width % height, kv_idx // width % height, height, kernel)
        return times & rows & near(q_idx % width, kv_idx % width, width, kernel)

    return mask_mod


def dense(
    score: Tensor, frames: int, height: int, width: int, kernel_frames: int, kernel: int
) -> Tensor:
    """One matrix an axis; their product, as Kronecker's."""

    def axis(length: int, kernel: int) -> Tensor:
        keep = torch.zeros(length, length)
        for place, seen in enumerate(windows(length, min(kernel, length))):
            keep[place, seen.start : seen.stop] = 1
        return keep

    spatial = torch.kron(axis(height, kernel), axis(width, kernel))
    return masked(score, torch.kron(axis(frames, kernel_frames), spatial) > 0)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = near(t) and near(r) and near(c), near as in natten_2d",
    sources=(
        Source("NATTEN na3d, na1d", "arXiv:2403.04690"),
        Source("Generalized Neighborhood Attention in HunyuanVideo, Cosmos", "arXiv:2504.16922"),
    ),
    mask=natten_3d,
    parameters={
        "frames": "frames of the video [frames]",
        "height": "rows of a frame [tokens]",
        "width": "columns of a frame [tokens]",
        "kernel_frames": "frames of the neighbourhood [frames]",
        "kernel": "rows and columns of the neighbourhood [tokens]",
    },
    equivalents=(
        "natten na3d(kernel_size=(kernel_frames, kernel, kernel)): the same",
        "height = width = 1: natten na1d",
    ),
    pictures=(
        # One axis of five.
        Picture(
            """
            # # # . .
            # # # . .
            . # # # .
            . . # # #
            . . # # #
            """,
            given={"frames": 5, "height": 1, "width": 1, "kernel_frames": 3, "kernel": 3},
        ),
        # Two frames of one row of three; two neighbours in a row, its own frame alone.
        Picture(
            """
            # # . . . .
            # # . . . .
            . # # . . .
            . . . # # .
            . . . # # .
            . . . . # #
            """,
            given={"frames": 2, "height": 1, "width": 3, "kernel_frames": 1, "kernel": 2},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"frames": 3, "height": 3, "width": 5, "kernel_frames": 2, "kernel": 3},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=45),
)
