"""Retrieval heads see all earlier keys, the other heads sinks and a window."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def duo_attention(retrieval: Tensor, sinks: int = 64, window: int = 256) -> MaskMod:
    """keep = q >= kv and (retrieval[h] or kv < sinks or q - kv < window)"""

    def mask_mod(b, h, q_idx, kv_idx):
        near = (kv_idx < sinks) | (q_idx - kv_idx < window)
        return (q_idx >= kv_idx) & (retrieval[h] | near)

    return mask_mod


def every_other_head(sizes: Sizes) -> dict[str, Tensor]:
    """Heads 1, 3, … are retrieval heads; in the model they are found by training."""
    return {"retrieval": torch.arange(sizes.heads) % 2 == 1}


def dense(score: Tensor, retrieval: Tensor, sinks: int, window: int) -> Tensor:
    """Two masks, chosen by head."""
    lower = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    near = lower & ~lower.tril(-window)
    near[:, :sinks] = lower[:, :sinks]
    return masked(score, torch.stack([lower if r else near for r in retrieval.tolist()]))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (retrieval[h] or kv < sinks or q - kv < window)",
    sources=(Source("DuoAttention (64 sinks, window 256)", "arXiv:2410.10819"),),
    mask=duo_attention,
    captures=every_other_head,
    parameters={
        "sinks": "first tokens that every later query sees [tokens]",
        "window": "keys visible to one query of the other heads, itself included [tokens]",
    },
    captured={"retrieval": "[Hq] bool: True for heads that see all earlier keys"},
    equivalents=("all retrieval heads: causal; none: streaming_llm",),
    pictures=(
        Picture(
            "# . . .\n# # . .\n# # # .\n# # # #",
            given={"retrieval": [False, True], "sinks": 1, "window": 1},
            head=1,
        ),
        Picture(
            "# . . .\n# # . .\n# . # .\n# . . #",
            given={"retrieval": [False, True], "sinks": 1, "window": 1},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=4096),
    small={"sinks": 2, "window": 5},
)
