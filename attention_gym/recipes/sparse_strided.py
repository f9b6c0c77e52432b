"""The last stride keys, and every stride-th key before them."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def sparse_strided(stride: int = 128) -> MaskMod:
    """keep = q >= kv and (q - kv < stride or (q - kv) % stride == 0)"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        return (back >= 0) & ((back < stride) | (back % stride == 0))

    return mask_mod


def dense(score: Tensor, stride: int) -> Tensor:
    """Row by row, as two lists of keys."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        for kv in {*range(q - stride + 1, q + 1), *range(q, -1, -stride)}:
            if 0 <= kv < score.shape[3]:
                keep[q, kv] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (q - kv < stride or (q - kv) % stride == 0)",
    sources=(
        Source("Sparse Transformer, strided (stride 128)", "arXiv:1904.10509"),
        Source("GPT-3, every other layer is of this family", "arXiv:2005.14165"),
    ),
    mask=sparse_strided,
    parameters={"stride": "keys of the window, and distance of those before it [tokens]"},
    equivalents=(
        "the paper gives its two parts to two heads or layers; here one head sees both",
        "on an image stored row by row with stride = width: the row so far and the column above",
    ),
    pictures=(
        Picture(
            """
            # . . . . . .
            # # . . . . .
            # # # . . . .
            # # # # . . .
            . # # # # . .
            . . # # # # .
            # . . # # # #
            """,
            given={"stride": 3},
        ),
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            . # # # . .
            # . # # # .
            . # . # # #
            """,
            given={"stride": 2},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"stride": 7},
)
