"""A query sees itself and the keys 1, 2, 4, 8, … tokens before it."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def log_sparse() -> MaskMod:
    """keep = q == kv or q - kv is a power of two"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        return (back >= 0) & ((back & (back - 1)) == 0)

    return mask_mod


def dense(score: Tensor) -> Tensor:
    """The diagonals 0, 1, 2, 4, 8, … under the main one."""
    keep = torch.eye(*score.shape[-2:], dtype=torch.bool)
    back = 1
    while back < score.shape[2]:
        keep.diagonal(-back).fill_(True)
        back *= 2
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q == kv or q - kv in {1, 2, 4, 8, ...}",
    sources=(Source("LogSparse Transformer, time series", "arXiv:1907.00235"),),
    mask=log_sparse,
    equivalents=(
        "x & (x - 1) == 0 holds for powers of two and for 0, which is the query itself",
        "the paper also has windows around each of these keys, and restarts",
    ),
    pictures=(
        Picture(
            """
            # . . . . . .
            # # . . . . .
            # # # . . . .
            . # # # . . .
            # . # # # . .
            . # . # # # .
            . . # . # # #
            """
        ),
        Picture("# . . . .\n# # . . .\n# # # . ."),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
)
