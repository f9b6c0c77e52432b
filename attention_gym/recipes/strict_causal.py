"""A query sees the keys before it and not itself."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def strict_causal() -> MaskMod:
    """keep = q > kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx > kv_idx

    return mask_mod


def dense(score: Tensor) -> Tensor:
    """The lower triangle without its diagonal."""
    return masked(score, torch.ones_like(score, dtype=torch.bool).tril(-1))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q > kv",
    sources=(
        Source("Reformer, shared queries and keys", "arXiv:2001.04451"),
        Source("Leave-one-out prediction", "the query's own token is the target"),
    ),
    mask=strict_causal,
    equivalents=(
        "causal without the diagonal: the first query sees nothing",
        "an empty row gives output 0, lse -inf and gradients 0",
        "Reformer only lowers the own key's score (by 1e5), so that its first query sees itself",
    ),
    pictures=(
        Picture(". . . .\n# . . .\n# # . .\n# # # ."),
        Picture(". . .\n# . .\n# # .\n# # #\n# # #"),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
)
