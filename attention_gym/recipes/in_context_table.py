"""Rows to be predicted see the training rows, and no one sees them."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def in_context_table(train: int = 768) -> MaskMod:
    """keep = kv < train"""

    def mask_mod(b, h, q_idx, kv_idx):
        return kv_idx < train

    return mask_mod


def dense(score: Tensor, train: int) -> Tensor:
    """Columns of ones and columns of zeros."""
    keep = torch.ones_like(score, dtype=torch.bool)
    keep[..., train:] = False
    return masked(score, keep)


RECIPE = Recipe(
    family="science and tables",
    formula="keep = kv < train",
    sources=(
        Source("TabPFN", "arXiv:2207.01848"),
        Source("TabPFN v2, attention between samples", "doi:10.1038/s41586-024-08328-6"),
    ),
    mask=in_context_table,
    parameters={"train": "training rows, which stand first [rows]"},
    equivalents=(
        "prefix_lm hides nothing before the query; here a test row does not even see itself",
        "the same as passing only the first keys and values",
    ),
    pictures=(
        Picture("# # . .\n# # . .\n# # . .\n# # . .", given={"train": 2}),
        Picture("# . .\n# . .", given={"train": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024),
    small={"train": 60},
)
