"""Draft blocks taken out of a text, trained at once: each sees the prefix and itself causally."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def jetspec_training(prefix: int = 1024, block: int = 8) -> MaskMod:
    """keep = kv < prefix or (q // block == (kv - prefix) // block and q >= kv - prefix)"""

    def mask_mod(b, h, q_idx, kv_idx):
        own = kv_idx - prefix
        return (kv_idx < prefix) | ((q_idx // block == own // block) & (q_idx >= own))

    return mask_mod


def dense(score: Tensor, prefix: int, block: int) -> Tensor:
    """Columns of ones, then small triangles along the diagonal."""
    q_len, kv_len = score.shape[-2:]
    triangles = torch.block_diag(*[torch.ones(block, block).tril()] * -(-q_len // block))
    room = max(q_len, kv_len - prefix)
    keep = torch.zeros(q_len, prefix + room, dtype=torch.bool)
    keep[:, :prefix] = True
    width = min(room, triangles.shape[1])
    keep[:, prefix : prefix + width] = triangles[:q_len, :width].bool()
    return masked(score, keep[:, :kv_len])


RECIPE = Recipe(
    family="generation structure",
    formula="keep = kv < prefix or (q // block == k // block and q >= k), k = kv - prefix",
    sources=(Source("JetSpec, training of the drafter", "arXiv:2606.18394"),),
    mask=jetspec_training,
    parameters={
        "prefix": "keys of the text, before the drafted ones [tokens]",
        "block": "tokens of a draft block [tokens]",
    },
    equivalents=("attention-gym generate_jetspec_training_mask_mod(prefix, block): the same",),
    pictures=(
        Picture(
            """
            # # # . . .
            # # # # . .
            # # . . # .
            # # . . # #
            """,
            given={"prefix": 2, "block": 2},
        ),
        Picture("# . .\n# # .\n# # #", given={"prefix": 0, "block": 3}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024, kv_len=2048),
    small={"prefix": 18, "block": 5},
)
