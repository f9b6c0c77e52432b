"""Every pixel sees a square around it, cut off at the border of the image."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def sasa(width: int = 32, height: int = 32, reach: int = 3) -> MaskMod:
    """keep = |row_q - row_kv| <= reach and |column_q - column_kv| <= reach"""

    def mask_mod(b, h, q_idx, kv_idx):
        rows = torch.abs(q_idx // width - kv_idx // width) <= reach
        return rows & (torch.abs(q_idx % width - kv_idx % width) <= reach)

    return mask_mod


def dense(score: Tensor, width: int, height: int, reach: int) -> Tensor:
    """A box of ones slides over a padded image."""
    image = torch.eye(height * width).view(-1, 1, height, width)
    side = 2 * reach + 1
    spread = torch.nn.functional.max_pool2d(image, side, stride=1, padding=reach)
    return masked(score, spread.view(height * width, -1) > 0)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = |r_q - r_kv| <= reach and |c_q - c_kv| <= reach",
    sources=(Source("Stand-Alone Self-Attention (7 × 7)", "arXiv:1906.05909"),),
    mask=sasa,
    parameters={
        "width": "columns of the image [tokens]",
        "height": "rows of the image [tokens]",
        "reach": "rows and columns seen to each side [tokens]",
    },
    equivalents=(
        "the paper's k = 2 * reach + 1, with zeros for pixels outside the image",
        "natten_2d: the same far from the border; there it moves the square inside",
    ),
    pictures=(
        Picture(
            """
            # # . # # .
            # # # # # #
            . # # . # #
            # # . # # .
            # # # # # #
            . # # . # #
            """,
            given={"width": 3, "height": 2, "reach": 1},
        ),
        # One column: rows alone.
        Picture("# # .\n# # #\n. # #", given={"width": 1, "height": 3, "reach": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024),
    small={"width": 9, "height": 5, "reach": 2},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=45),
    image=("height", "width"),
)
