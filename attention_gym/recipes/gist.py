"""After the gist tokens the prompt before them is hidden: they have to sum it up."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def gist(first: int = 256, last: int = 260) -> MaskMod:
    """keep = q >= kv and not (q >= last and kv < first)"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & ~((q_idx >= last) & (kv_idx < first))

    return mask_mod


def dense(score: Tensor, first: int, last: int) -> Tensor:
    """A triangle with its lower left corner cut away."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    keep[..., last:, :first] = False
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = q >= kv and not (q >= last and kv < first)",
    sources=(Source("Gist tokens", "arXiv:2304.08467"),),
    mask=gist,
    parameters={
        "first": "position of the first gist token [tokens]",
        "last": "position after the last gist token [tokens]",
    },
    equivalents=("the published code builds it from the positions of gist tokens: the same",),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # # # # . .
            . . # # # .
            . . # # # #
            """,
            given={"first": 2, "last": 4},
        ),
        Picture("# . .\n# # .\n. # #", given={"first": 1, "last": 2}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"first": 12, "last": 15},
)
