"""Causal attention in groups, which half of the heads shift by half a group."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def longlora(all_heads: int = 8, group: int = 2048) -> MaskMod:
    """keep = q >= kv and (q + shift) // group == (kv + shift) // group, shift by head"""
    half = group // 2

    def mask_mod(b, h, q_idx, kv_idx):
        shift = torch.where(h >= all_heads // 2, half, 0)
        same = (q_idx + shift) // group == (kv_idx + shift) // group
        return (q_idx >= kv_idx) & same

    return mask_mod


def dense(score: Tensor, all_heads: int, group: int) -> Tensor:
    """Cuts of the sequence, head by head; a query sees back to its last cut."""
    keep = torch.zeros(score.shape[1:], dtype=torch.bool)
    for head in range(score.shape[1]):
        first = 0 if head < all_heads // 2 else group - group // 2
        cuts = [0, *range(first, score.shape[2], group)]
        for q in range(score.shape[2]):
            keep[head, q, max(c for c in cuts if c <= q) : q + 1] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (q + shift[h]) // group == (kv + shift[h]) // group",
    sources=(Source("LongLoRA, shifted sparse attention (group 2048)", "arXiv:2309.12307"),),
    mask=longlora,
    parameters={
        "all_heads": "query heads; the second half of them is shifted [count]",
        "group": "keys of a group [tokens]",
    },
    equivalents=(
        "the published code rolls the sequence by half a group: its last half group then shares "
        "a group with the first; here that pair is masked, as causality wants",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # # # # . .
            . . . . # .
            . . . . # #
            """,
            given={"all_heads": 2, "group": 4},
        ),
        Picture(
            """
            # . . . . . .
            # # . . . . .
            . . # . . . .
            . . # # . . .
            . . # # # . .
            . . # # # # .
            . . . . . . #
            """,
            given={"all_heads": 2, "group": 4},
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"group": 7}),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=8192),
    small={"all_heads": 4, "group": 12},
)
