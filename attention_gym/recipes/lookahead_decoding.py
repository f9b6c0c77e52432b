"""Guesses on several branches after a prefix: each sees lower levels of its own branch."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def lookahead_decoding(branch: Tensor, level: Tensor, prefix: int = 1024) -> MaskMod:
    """keep = kv < prefix or (branch[q] == branch[k] and level[k] <= level[q]), k = kv - prefix"""
    last = branch.shape[0] - 1

    def mask_mod(b, h, q_idx, kv_idx):
        own = (kv_idx - prefix).clamp(0, last)
        near = (branch[q_idx] == branch[own]) & (level[own] <= level[q_idx])
        return (kv_idx < prefix) | (near & (kv_idx - prefix <= last))

    return mask_mod


def guesses(sizes: Sizes, levels: int = 4) -> dict[str, Tensor]:
    """As many branches as fit, each ``levels`` long, one after another."""
    token = torch.arange(sizes.q_len)
    return {"branch": token // levels, "level": token % levels}


def dense(score: Tensor, prefix: int, levels: int) -> Tensor:
    """Branch by branch, a small triangle."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    keep[:, :prefix] = True
    for q in range(score.shape[2]):
        keep[q, prefix + q - q % levels : prefix + q + 1] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = kv < prefix or (branch[q] == branch[k] and level[k] <= level[q]), k = kv - "
    "prefix",
    sources=(Source("Lookahead decoding", "arXiv:2402.02057"),),
    mask=lookahead_decoding,
    captures=guesses,
    parameters={
        "prefix": "keys of the accepted text [tokens]",
        "levels": "tokens of a branch [tokens]",
    },
    captured={
        "branch": "[Q_LEN] int64: branch of each guessed token",
        "level": "[Q_LEN] int64: how deep in its branch it stands",
    },
    equivalents=(
        "the paper's window and n-grams are both branches; its window shares the first level, "
        "which takes a branch number that both parts know",
    ),
    pictures=(
        Picture(
            """
            # # . . .
            # # # . .
            # . . # .
            # . . # #
            """,
            given={"prefix": 1, "branch": [0, 0, 1, 1], "level": [0, 1, 0, 1]},
        ),
        # Levels count, not places: tokens of one level see each other.
        Picture("# # #\n# # #", given={"prefix": 1, "branch": [0, 0], "level": [1, 1]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=60, kv_len=1084),
    small={"prefix": 20},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=31, kv_len=51),
)
