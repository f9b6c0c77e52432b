"""A pixel sees its row, its column, or both."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def axial(width: int = 32, kind: int = 2) -> MaskMod:
    """keep = same row (kind 0), same column (kind 1), or either (kind 2)"""

    def mask_mod(b, h, q_idx, kv_idx):
        row = q_idx // width == kv_idx // width
        column = q_idx % width == kv_idx % width
        return row if kind == 0 else column if kind == 1 else row | column

    return mask_mod


def dense(score: Tensor, width: int, kind: int) -> Tensor:
    """Squares along the diagonal, combs of diagonals, or both."""
    q_len, kv_len = score.shape[-2:]
    side = -(-max(q_len, kv_len) // width)
    rows = torch.kron(torch.eye(side), torch.ones(width, width))
    columns = torch.kron(torch.ones(side, side), torch.eye(width))
    keep = (rows * (kind != 1) + columns * (kind != 0)) > 0
    return masked(score, keep[:q_len, :kv_len])


RECIPE = Recipe(
    family="vision and video",
    formula="keep = r_q == r_kv, c_q == c_kv, or either",
    sources=(
        Source("Axial attention", "arXiv:1912.12180"),
        Source("CCNet, criss-cross", "arXiv:1811.11721"),
    ),
    mask=axial,
    parameters={
        "width": "columns of the image [tokens]",
        "kind": "0 the row, 1 the column, 2 both [1]",
    },
    equivalents=(
        "kind 0: fixed_block with blocks of width",
        "CCNet counts the pixel itself once, as here",
    ),
    pictures=(
        Picture(
            """
            # # # # . .
            # # # . # .
            # # # . . #
            # . . # # #
            . # . # # #
            . . # # # #
            """,
            given={"width": 3, "kind": 2},
        ),
        Picture("# . # .\n. # . #\n# . # .\n. # . #", given={"width": 2, "kind": 1}),
        Picture("# # . .\n# # . .\n. . # #\n. . # #", given={"width": 2, "kind": 0}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"kind": 0}),
        Reference(source="dense formula", scores=dense, given={"kind": 1}),
    ),
    sizes=Sizes(q_len=1024),
    small={"width": 8},
)
