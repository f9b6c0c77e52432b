"""Windows in space and time with a learned bias of three offsets."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.reference import masked


def video_swin(
    table: Tensor, frames: int = 4, side: int = 4, height: int = 8, width: int = 8
) -> ScoreMod:
    """s' = s + table[offset of frames, rows and columns within the window, h]"""
    page, wide = height * width, 2 * side - 1

    def score_mod(score, b, h, q_idx, kv_idx):
        time = q_idx // page % frames - kv_idx // page % frames + frames - 1
        row = q_idx // width % height % side - kv_idx // width % height % side + side - 1
        column = q_idx % width % side - kv_idx % width % side + side - 1
        return score + table[(time * wide + row) * wide + column, h]

    return score_mod


def same_window(frames: int = 4, side: int = 4, height: int = 8, width: int = 8) -> MaskMod:
    """keep = same window on all three axes"""
    page = height * width

    def mask_mod(b, h, q_idx, kv_idx):
        time = q_idx // page // frames == kv_idx // page // frames
        row = q_idx // width % height // side == kv_idx // width % height // side
        return time & row & (q_idx % width // side == kv_idx % width // side)

    return mask_mod


def learned_table(sizes: Sizes, frames: int = 4, side: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = ((2 * frames - 1) * (2 * side - 1) ** 2, sizes.heads)
    return {"table": torch.randn(shape, generator=generator)}


def dense(score: Tensor, table: Tensor, frames: int, side: int, height: int, width: int) -> Tensor:
    """Pair by pair, from coordinates."""
    grid = table.view(2 * frames - 1, 2 * side - 1, 2 * side - 1, -1)
    out = torch.full_like(score, -torch.inf)
    places = [
        (t, r, c) for t in range(-(-score.shape[2] // (height * width)))
        for r in range(height) for c in range(width)
    ]  # fmt: skip
    steps = (frames, side, side)
    for q, mine in enumerate(places):
        for kv, other in enumerate(places):
            if all(i // s == j // s for i, j, s in zip(mine, other, steps, strict=True)):
                away = [i - j + s - 1 for i, j, s in zip(mine, other, steps, strict=True)]
                out[:, :, q, kv] = score[:, :, q, kv] + grid[tuple(away)]
    return masked(out, out > -torch.inf)


RECIPE = Recipe(
    family="vision and video",
    formula="s' = s + table[(dt, dr, dc), h] where both lie in one window of frames × side × side",
    sources=(Source("Video Swin (8 × 7 × 7)", "arXiv:2106.13230"),),
    mask=same_window,
    score=video_swin,
    captures=learned_table,
    parameters={
        "frames": "frames of a window [frames]",
        "side": "rows and columns of a window [tokens]",
        "height": "rows of a frame, a multiple of side [tokens]",
        "width": "columns of a frame, a multiple of side [tokens]",
    },
    captured={"table": "[(2 frames - 1) (2 side - 1)^2, Hq] float: bias of each offset"},
    learned=frozenset({"table"}),
    equivalents=(
        "Video Swin relative_position_index: the row of the table, in the same order",
        "shifted windows: roll the video before, and add the regions of swin_window",
    ),
    pictures=(
        # Two frames of one row of two; windows of two frames and one column: offsets -1, 0, 1.
        Picture(
            """
            2 . 1 .
            . 2 . 1
            3 . 2 .
            . 3 . 2
            """,
            given={
                "table": [[1.0], [2.0], [3.0]], "frames": 2, "side": 1, "height": 1, "width": 2
            },
        ),
        # One frame of two by two in one window of side two.
        Picture(
            """
            5 4 2 1
            6 5 3 2
            8 7 5 4
            9 8 6 5
            """,
            given={
                "table": [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0], [9.0]],
                "frames": 1, "side": 2, "height": 2, "width": 2,
            },
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=2, q_len=512),
    small={"frames": 2, "side": 2, "height": 4, "width": 4},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=64),
)  # fmt: skip
