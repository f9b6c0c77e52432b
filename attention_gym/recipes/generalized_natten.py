"""Neighbourhoods with stride, dilation and, along rows, causality."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def reached(
    place: Tensor, other: Tensor, length: int, kernel: int, stride: int, dilation: int, causal: bool
) -> Tensor:
    """Whether ``other`` is seen from ``place`` on one axis; groups of stride share a window."""
    group = place % dilation
    size = (length - group + dilation - 1) // dilation  # places of this dilation group
    inner, outer = place // dilation, other // dilation
    lead = stride - 1 if causal else stride // 2
    leader = torch.minimum(inner // stride * stride + lead, size - 1)
    if causal:
        seen = (outer <= inner) & (leader - outer < kernel)
    else:
        start = torch.minimum((leader - kernel // 2).clamp(min=0), (size - kernel).clamp(min=0))
        seen = (start <= outer) & (outer < start + kernel)
    return seen & (other % dilation == group)


def generalized_natten(
    height: int = 32, width: int = 32, kernel: int = 8, stride: int = 4, dilation: int = 1,
    causal_rows: bool = False,
) -> MaskMod:  # fmt: skip
    """keep = reached on both axes; groups of stride pixels share the window of their leader"""

    def mask_mod(b, h, q_idx, kv_idx):
        q_row, kv_row = q_idx // width, kv_idx // width
        rows = reached(q_row, kv_row, height, kernel, stride, dilation, causal_rows)
        columns = reached(q_idx % width, kv_idx % width, width, kernel, stride, dilation, False)
        return rows & columns

    return mask_mod


def windows(length: int, kernel: int, stride: int, dilation: int, causal: bool) -> list[set[int]]:
    """Of each place, the places seen: each dilation group is an axis by itself."""
    found: list[set[int]] = [set() for _ in range(length)]
    for group in range(dilation):
        places = list(range(group, length, dilation))
        for first in range(0, len(places), stride):
            members = range(first, min(first + stride, len(places)))
            leader = min(first + (stride - 1 if causal else stride // 2), len(places) - 1)
            if causal:
                seen = range(max(0, leader - kernel + 1), leader + 1)
            else:
                start = max(0, min(leader - kernel // 2, len(places) - kernel))
                seen = range(start, min(start + kernel, len(places)))
            for member in members:
                mine = [i for i in seen if not causal or i <= member]
                found[places[member]] = {places[i] for i in mine}
    return found


def dense(
    score: Tensor, height: int, width: int, kernel: int, stride: int, dilation: int,
    causal_rows: bool,
) -> Tensor:  # fmt: skip
    """Pixel by pixel, from lists of what is seen on each axis."""
    rows = windows(height, kernel, stride, dilation, causal_rows)
    columns = windows(width, kernel, stride, dilation, False)
    keep = torch.zeros(height, width, height, width, dtype=torch.bool)
    for r in range(height):
        for c in range(width):
            for row in rows[r]:
                keep[r, c, row, list(columns[c])] = True
    return masked(score, keep.view(height * width, height * width))


RECIPE = Recipe(
    family="vision and video",
    formula="keep = i % d == j % d and start(leader(i // d)) <= j // d < start + K on both axes",
    sources=(
        Source("Generalized Neighborhood Attention", "arXiv:2504.16922"),
        Source("NATTEN's own FlexAttention mask", "natten/backends/flex.py"),
    ),
    mask=generalized_natten,
    parameters={
        "height": "rows of the image [tokens]",
        "width": "columns of the image [tokens]",
        "kernel": "rows and columns of the neighbourhood [tokens]",
        "stride": "neighbouring queries that share one window [tokens]",
        "dilation": "distance between neighbours [tokens]",
        "causal_rows": "rows after the query's own are hidden",
    },
    equivalents=(
        "stride 1, dilation 1: natten_2d; stride = kernel: windows side by side, as in Swin",
        "natten na2d(kernel_size, stride, dilation, is_causal=(causal_rows, False))",
    ),
    pictures=(
        # One row of six, windows of three shared by two: leaders are 1, 3, 5.
        Picture(
            """
            # # # . . .
            # # # . . .
            . . # # # .
            . . # # # .
            . . . # # #
            . . . # # #
            """,
            given={"height": 1, "width": 6, "kernel": 3, "stride": 2, "dilation": 1},
        ),
        # One row of six, every other pixel: two axes of three, two neighbours each.
        Picture(
            """
            # . # . . .
            . # . # . .
            # . # . . .
            . # . # . .
            . . # . # .
            . . . # . #
            """,
            given={"height": 1, "width": 6, "kernel": 2, "stride": 1, "dilation": 2},
        ),
        # One column of four, causal.
        Picture(
            "# . . .\n# # . .\n. # # .\n. . # #",
            given={
                "height": 4, "width": 1, "kernel": 2, "stride": 1, "dilation": 1,
                "causal_rows": True,
            },
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"dilation": 1, "stride": 3}),
        Reference(source="dense formula", scores=dense, given={"causal_rows": True}),
    ),
    sizes=Sizes(q_len=1024),
    small={"height": 6, "width": 9, "kernel": 3, "stride": 2, "dilation": 2},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=54),
    image=("height", "width"),
)  # fmt: skip
