"""Global summary tokens first, then text in a window: all see the summaries, they see all."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def etc_global(summaries: int = 64, reach: int = 84, block: int = 32) -> MaskMod:
    """keep = kv is a summary, or q the summary of all or of kv's block, or |q - kv| <= reach"""

    def mask_mod(b, h, q_idx, kv_idx):
        to_summary = kv_idx < summaries
        own = (q_idx < summaries) & ((q_idx == 0) | ((kv_idx - summaries) // block == q_idx - 1))
        near = (q_idx >= summaries) & (torch.abs(q_idx - kv_idx) <= reach)
        return to_summary | own | near

    return mask_mod


def dense(score: Tensor, summaries: int, reach: int, block: int) -> Tensor:
    """Four quarters, as the paper lays them out."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    keep[:, :summaries] = True
    keep[:1] = True
    for number in range(1, min(summaries, score.shape[2])):
        start = summaries + (number - 1) * block
        keep[number, start : start + block] = True
    for q in range(summaries, score.shape[2]):
        keep[q, max(0, q - reach) : q + reach + 1] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="science and tables",
    formula="keep = kv < g or (q < g and (q == 0 or (kv - g) // block == q - 1)) or (q >= g and |q "
    "- kv| <= reach), g = summaries",
    sources=(Source("ETC, global-local attention (reach 84)", "arXiv:2004.08483"),),
    mask=etc_global,
    parameters={
        "summaries": "global tokens before the text: one of all, then one of each block [tokens]",
        "reach": "farthest key of the text seen on either side [tokens]",
        "block": "tokens of the text a summary stands for, a sentence say [tokens]",
    },
    equivalents=(
        "longformer: global tokens anywhere, and each sees all",
        "ETC has two sequences; here they are one, global tokens first",
    ),
    pictures=(
        # Three summaries (all, first block, second block) and two blocks of two.
        Picture(
            """
            # # # # # # #
            # # # # # . .
            # # # . . # #
            # # # # # . .
            # # # # # # .
            # # # . # # #
            # # # . . # #
            """,
            given={"summaries": 3, "reach": 1, "block": 2},
        ),
        Picture("# # #\n# # .\n# . #", given={"summaries": 1, "reach": 0, "block": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2112),
    small={"summaries": 9, "reach": 4, "block": 8},
)
