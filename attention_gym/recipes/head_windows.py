"""Every head has a causal window and a dilation of its own."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def head_windows(window: Tensor, dilation: Tensor) -> MaskMod:
    """keep = 0 <= q - kv < window[h] and (q - kv) % dilation[h] == 0"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        return (back >= 0) & (back < window[h]) & (back % dilation[h] == 0)

    return mask_mod


def growing(sizes: Sizes, shortest: int = 128, widest_gap: int = 3) -> dict[str, Tensor]:
    """Windows double from head to head, gaps go round 1, 2, … ``widest_gap``."""
    head = torch.arange(sizes.heads)
    return {"window": shortest * 2**head, "dilation": head % widest_gap + 1}


def dense(score: Tensor, window: Tensor, dilation: Tensor) -> Tensor:
    """Head by head, one diagonal after the other."""
    keep = torch.zeros(score.shape[1:], dtype=torch.bool)
    for head in range(score.shape[1]):
        for back in range(0, min(int(window[head]), score.shape[2]), int(dilation[head])):
            keep[head].diagonal(-back).fill_(True)
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = 0 <= q - kv < window[h] and (q - kv) % dilation[h] == 0",
    sources=(
        Source("Longformer, dilation in two heads of a layer", "arXiv:2004.05150"),
        Source("MoA, a window a head", "arXiv:2406.14909"),
    ),
    mask=head_windows,
    captures=growing,
    parameters={
        "shortest": "window of the first head, itself included [tokens]",
        "widest_gap": "largest dilation [tokens]",
    },
    captured={
        "window": "[Hq] int64: keys in reach of each head, the query's own included",
        "dilation": "[Hq] int64: distance between keys that are seen",
    },
    equivalents=("one window and dilation 1 for all heads: sliding_window",),
    pictures=(
        Picture(
            """
            # . . . .
            . # . . .
            # . # . .
            . # . # .
            # . # . #
            """,
            given={"window": [2, 5], "dilation": [1, 2]},
            head=1,
        ),
        Picture("# . . .\n# # . .\n. # # .\n. . # #", given={"window": [2, 5], "dilation": [1, 2]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=4096),
    small={"shortest": 3},
)
