"""Learned queries and text in one sequence, seen by task: contrast, caption, or matching."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def q_former(queries: int = 32, task: int = 1) -> MaskMod:
    """keep = same kind (task 0), queries or causal text (task 1), any pair (task 2)"""

    def mask_mod(b, h, q_idx, kv_idx):
        q_learned, kv_learned = q_idx < queries, kv_idx < queries
        contrast = q_learned == kv_learned
        caption = kv_learned | (~q_learned & (q_idx >= kv_idx))
        return contrast if task == 0 else caption if task == 1 else q_learned | ~q_learned

    return mask_mod


def dense(score: Tensor, queries: int, task: int) -> Tensor:
    """Four quarters: queries to queries, to text, and text to queries, to text."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    keep[:queries, :queries] = True
    keep[:queries, queries:] = task == 2
    keep[queries:, :queries] = task != 0
    text = keep[queries:, queries:]
    ones = torch.ones_like(text)
    text.copy_(ones.tril() if task == 1 else ones)
    return masked(score, keep)


RECIPE = Recipe(
    family="multimodal",
    formula="keep = same kind (contrast), kv learned or causal text (caption), any pair (matching)",
    sources=(Source("BLIP-2 Q-Former (32 queries)", "arXiv:2301.12597"),),
    mask=q_former,
    parameters={
        "queries": "learned queries before the text [tokens]",
        "task": "0 image-text contrast, 1 captioning, 2 image-text matching",
    },
    equivalents=(
        "captioning is a prefix_lm whose prefix is the queries",
        "matching is full attention; contrast keeps queries and text apart, as document would",
    ),
    pictures=(
        Picture("# # . .\n# # . .\n. . # #\n. . # #", given={"queries": 2, "task": 0}),
        Picture("# # . .\n# # . .\n# # # .\n# # # #", given={"queries": 2, "task": 1}),
        Picture("# # #\n# # #", given={"queries": 1, "task": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"task": 0}),
        Reference(source="dense formula", scores=dense, given={"task": 2}),
    ),
    sizes=Sizes(q_len=160),
    small={"queries": 12},
)
