"""A two-sided window with gaps: only every dilation-th distance is seen."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def dilated_window(reach: int = 256, dilation: int = 4) -> MaskMod:
    """keep = |q - kv| <= reach and (q - kv) % dilation == 0"""

    def mask_mod(b, h, q_idx, kv_idx):
        distance = torch.abs(q_idx - kv_idx)
        return (distance <= reach) & (distance % dilation == 0)

    return mask_mod


def dense(score: Tensor, reach: int, dilation: int) -> Tensor:
    """One diagonal after the other, every dilation-th from the middle outwards."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for step in range(0, reach + 1, dilation):
        keep.diagonal(step).fill_(True)
        keep.diagonal(-step).fill_(True)
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = |q - kv| <= reach and (q - kv) % dilation == 0",
    sources=(Source("Longformer, upper layers", "arXiv:2004.05150"),),
    mask=dilated_window,
    parameters={
        "reach": "farthest key seen on either side [tokens]",
        "dilation": "distance between keys that are seen [tokens]",
    },
    equivalents=(
        "attention-gym generate_dilated_sliding_window(W, d): the same",
        "Longformer counts keys: a one-sided window of w keys with gaps d reaches w * d tokens",
    ),
    pictures=(
        Picture(
            """
            # . # . . .
            . # . # . .
            # . # . # .
            . # . # . #
            """,
            given={"reach": 3, "dilation": 2},
        ),
        Picture(
            """
            # . . # . .
            . # . . # .
            """,
            given={"reach": 3, "dilation": 3},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"reach": 9, "dilation": 3},
)
