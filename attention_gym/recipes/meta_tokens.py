"""A few learned tokens before the text, seen by all; the text looks through a window."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def meta_tokens(count: int = 128, window: int = 1024) -> MaskMod:
    """keep = kv < count or 0 <= q - kv < window"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        return (kv_idx < count) | ((back >= 0) & (back < window))

    return mask_mod


def dense(score: Tensor, count: int, window: int) -> Tensor:
    """A band beside columns of ones."""
    lower = torch.ones_like(score, dtype=torch.bool).tril()
    keep = lower & ~lower.tril(-window)
    keep[..., :count] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = kv < count or 0 <= q - kv < window",
    sources=(
        Source("Hymba (128 meta tokens, window 1024)", "arXiv:2411.13676"),
        Source("DINOv2 with registers (4, full attention)", "arXiv:2309.16588"),
    ),
    mask=meta_tokens,
    parameters={
        "count": "learned tokens before the text [tokens]",
        "window": "keys visible to one query, itself included [tokens]",
    },
    equivalents=(
        "streaming_llm keeps q >= kv among its sinks; here meta tokens see each other both ways",
        "prefix_lm: the same with a window as long as the sequence",
    ),
    pictures=(
        Picture(
            """
            # # . . . .
            # # . . . .
            # # # . . .
            # # # # . .
            # # . # # .
            # # . . # #
            """,
            given={"count": 2, "window": 2},
        ),
        Picture("# . .\n# # .\n# . #", given={"count": 1, "window": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"count": 3, "window": 6},
)
