"""The neighbourhoods of natten_2d, with the image stored along a Z-shaped curve."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.natten_2d import near, windows
from attention_gym.reference import masked


def every_other_bit(token: Tensor) -> Tensor:
    """Bits 0, 2, 4, … of a number below 2^32, moved together."""
    bits = token & 0x55555555
    bits = (bits | (bits >> 1)) & 0x33333333
    bits = (bits | (bits >> 2)) & 0x0F0F0F0F
    bits = (bits | (bits >> 4)) & 0x00FF00FF
    return (bits | (bits >> 8)) & 0x0000FFFF


def morton_natten(side: int = 32, kernel: int = 7) -> MaskMod:
    """keep = near on both axes, column and row from the even and odd bits of the index"""

    def mask_mod(b, h, q_idx, kv_idx):
        rows = near(every_other_bit(q_idx >> 1), every_other_bit(kv_idx >> 1), side, kernel)
        return rows & near(every_other_bit(q_idx), every_other_bit(kv_idx), side, kernel)

    return mask_mod


def curve(side: int) -> list[tuple[int, int]]:
    """Row and column along the curve: four quarters, each a smaller curve."""
    if side == 1:
        return [(0, 0)]
    half = side // 2
    quarter = curve(half)
    corners = ((0, 0), (0, half), (half, 0), (half, half))
    return [(top + row, left + column) for top, left in corners for row, column in quarter]


def dense(score: Tensor, side: int, kernel: int) -> Tensor:
    """Neighbourhoods on the image, looked up along the curve."""
    near_to, places = windows(side, min(kernel, side)), curve(side)
    keep = [[r in near_to[q] and c in near_to[p] for r, c in places] for q, p in places]
    return masked(score, torch.tensor(keep))


RECIPE = Recipe(
    family="vision and video",
    formula="keep as natten_2d's, for tokens in Morton order",
    sources=(Source("Morton-ordered neighbourhoods", "attention-gym generate_morton_natten"),),
    mask=morton_natten,
    parameters={
        "side": "rows and columns of the image, a power of two [tokens]",
        "kernel": "rows and columns of the neighbourhood [tokens]",
    },
    equivalents=(
        "natten_2d after a permutation of the tokens: the same result, permuted",
        "the column is in the even bits and the row in the odd ones, as in a Z",
    ),
    pictures=(
        Picture("# # # #\n# # # #\n# # # #\n# # # #", given={"side": 2, "kernel": 2}),
        # A kernel of one: the pixel alone.
        Picture(
            "# . . .\n. # . .\n. . # .\n. . . #",
            given={"side": 4, "kernel": 1},
        ),
        Picture(
            """
            # # # # . . . .
            # # # # . . . .
            # # # # . . . .
            # # # # . . . .
            . # . # # . # .
            . . . . # # # #
            """,
            given={"side": 4, "kernel": 2},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"kernel": 4}),
    ),
    sizes=Sizes(q_len=1024),
    small={"side": 8, "kernel": 3},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=64),
)
