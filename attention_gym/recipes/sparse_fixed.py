"""The query's own segment, and the last summary keys of every segment before it."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def sparse_fixed(segment: int = 128, summary: int = 8) -> MaskMod:
    """keep = q >= kv and (q // segment == kv // segment or kv % segment >= segment - summary)"""

    def mask_mod(b, h, q_idx, kv_idx):
        same = q_idx // segment == kv_idx // segment
        return (q_idx >= kv_idx) & (same | (kv_idx % segment >= segment - summary))

    return mask_mod


def dense(score: Tensor, segment: int, summary: int) -> Tensor:
    """Squares on the diagonal, and columns at the end of each segment, under the diagonal."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for start in range(0, max(keep.shape), segment):
        keep[start : start + segment, start : start + segment] = True
        keep[:, start + segment - summary : start + segment] = True
    return masked(score, keep.tril())


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (q // segment == kv // segment or kv % segment >= segment - "
    "summary)",
    sources=(Source("Sparse Transformer, fixed (segment 128, summary 8)", "arXiv:1904.10509"),),
    mask=sparse_fixed,
    parameters={
        "segment": "keys of a segment [tokens]",
        "summary": "last keys of each segment that all later queries see [tokens]",
    },
    equivalents=(
        "the paper's l is segment, its c is summary",
        "the paper gives its two parts to two heads or layers; here one head sees both",
    ),
    pictures=(
        Picture(
            """
            # . . . . . .
            # # . . . . .
            # # # . . . .
            . . # # . . .
            . . # # # . .
            . . # # # # .
            . . # . . # #
            """,
            given={"segment": 3, "summary": 1},
        ),
        Picture(
            """
            # . . . .
            # # . . .
            # # # . .
            # # # # .
            . # # # #
            """,
            given={"segment": 4, "summary": 3},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"segment": 7, "summary": 2},
)
