"""Retrieved passages do not see each other; the question after them sees all."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def block_attention(passage: Tensor, question: Tensor) -> MaskMod:
    """keep = q >= kv and (passage[q] == passage[kv] or question[q])"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & ((passage[q_idx] == passage[kv_idx]) | question[q_idx])

    return mask_mod


def retrieved(sizes: Sizes, passages: int = 5) -> dict[str, Tensor]:
    """Passages of nearly equal length; the last one is the question."""
    total = max(sizes.q_len, sizes.kv_len)
    passage = torch.arange(total) * (passages + 1) // total
    return {"passage": passage, "question": passage == passages}


def dense(score: Tensor, passage: Tensor, passages: int) -> Tensor:
    """Triangles of the passages, and the whole triangle's last rows."""
    lower = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    keep = torch.zeros_like(lower)
    for number in range(passages):
        mine = passage == number
        keep |= mine[: score.shape[2], None] & mine[None, : score.shape[3]]
    keep &= lower
    first = int((passage < passages).sum())
    keep[first:] = lower[first:]
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = q >= kv and (passage[q] == passage[kv] or question[q])",
    sources=(
        Source("Block-Attention", "arXiv:2409.15355"),
        Source("Parallel context windows", "arXiv:2212.10947"),
    ),
    mask=block_attention,
    captures=retrieved,
    parameters={"passages": "retrieved passages before the question [count]"},
    captured={
        "passage": "[S] int64: the passage each token belongs to, S = max(Q_LEN, KV_LEN)",
        "question": "[S] bool: True for tokens that see all earlier ones",
    },
    equivalents=("positions of the passages may begin anew: set them before the call",),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            . . # . . .
            . . # # . .
            # # # # # .
            # # # # # #
            """,
            given={
                "passage": [0, 0, 1, 1, 2, 2],
                "question": [False, False, False, False, True, True],
            },
        ),
        Picture(
            "# . . .\n. # . .\n# # # .\n. . . #",
            given={"passage": [0, 1, 2, 3], "question": [False, False, True, False]},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=8192),
)
