"""Every pixel sees a rectangle of neighbours; at the border the rectangle is moved inside."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def near(place: Tensor, other: Tensor, length: int, kernel: int) -> Tensor:
    """Whether ``other`` is among the ``kernel`` neighbours of ``place`` on one axis."""
    kernel = min(kernel, length)
    start = (place - kernel // 2).clamp(0, length - kernel)
    return (start <= other) & (other < start + kernel)


def natten_2d(
    height: int = 32, width: int = 32, kernel_height: int = 7, kernel_width: int = 7
) -> MaskMod:
    """keep = near on both axes, start = clamp(i - kernel // 2, 0, length - kernel)"""

    def mask_mod(b, h, q_idx, kv_idx):
        rows = near(q_idx // width, kv_idx // width, height, kernel_height)
        return rows & near(q_idx % width, kv_idx % width, width, kernel_width)

    return mask_mod


def windows(length: int, kernel: int) -> list[range]:
    """Of each place on one axis, the neighbours: slid along until they fit."""
    found = []
    for place in range(length):
        first = place - kernel // 2
        while first < 0:
            first += 1
        while first + kernel > length:
            first -= 1
        found.append(range(first, first + kernel))
    return found


def dense(score: Tensor, height: int, width: int, kernel_height: int, kernel_width: int) -> Tensor:
    """Pixel by pixel on the image."""
    keep = torch.zeros(height, width, height, width, dtype=torch.bool)
    for row, rows in enumerate(windows(height, min(kernel_height, height))):
        for column, columns in enumerate(windows(width, min(kernel_width, width))):
            keep[row, column, rows.start : rows.stop, columns.start : columns.stop] = True
    return masked(score, keep.view(height * width, height * width))


RECIPE = Recipe(
    family="vision and video",
    formula="keep = start(r_q) <= r_kv < start(r_q) + K and the same for columns, start(i) = "
    "clamp(i - K // 2, 0, L - K)",
    sources=(
        Source("Neighborhood Attention Transformer (7 × 7)", "arXiv:2204.07143"),
        Source("DiNAT", "arXiv:2209.15001"),
    ),
    mask=natten_2d,
    parameters={
        "height": "rows of the image [tokens]",
        "width": "columns of the image [tokens]",
        "kernel_height": "rows of the neighbourhood [tokens]",
        "kernel_width": "columns of the neighbourhood [tokens]",
    },
    equivalents=(
        "natten na2d(kernel_size=(kernel_height, kernel_width)): the same, even sizes too",
        "attention-gym generate_natten: the same for square images and odd square kernels; it "
        "swaps the axes of others, and even kernels of K get K + 1 neighbours",
        "sasa: a window that is cut off at the border in place of being moved inside",
    ),
    pictures=(
        # Two rows of four, each by itself, three neighbours.
        Picture(
            """
            # # # . . . . .
            # # # . . . . .
            . # # # . . . .
            . # # # . . . .
            . . . . # # # .
            . . . . # # # .
            . . . . . # # #
            . . . . . # # #
            """,
            given={"height": 2, "width": 4, "kernel_height": 1, "kernel_width": 3},
        ),
        # An even kernel has its extra neighbour before the pixel: three rows of one, two each.
        Picture(
            "# # .\n# # .\n. # #",
            given={"height": 3, "width": 1, "kernel_height": 2, "kernel_width": 1},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="dense formula", scores=dense, given={"kernel_height": 2, "kernel_width": 4}
        ),
    ),
    sizes=Sizes(q_len=1024),
    small={"height": 5, "width": 9, "kernel_height": 3, "kernel_width": 5},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=45),
    image=("height", "width"),
)
