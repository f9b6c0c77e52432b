"""The first tokens stay visible as sinks, beside a causal window."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def streaming_llm(sinks: int = 4, window: int = 1024) -> MaskMod:
    """keep = q >= kv and (kv < sinks or q - kv < window)"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & ((kv_idx < sinks) | (q_idx - kv_idx < window))

    return mask_mod


def dense(score: Tensor, sinks: int, window: int) -> Tensor:
    """Row by row, as two lists of keys."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        seen = set(range(min(sinks, q + 1))) | set(range(max(0, q - window + 1), q + 1))
        keep[q, [kv for kv in sorted(seen) if kv < score.shape[3]]] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (kv < sinks or q - kv < window)",
    sources=(
        Source("StreamingLLM (4 sinks)", "arXiv:2309.17453"),
        Source("LM-Infinite, the same shape", "arXiv:2308.16137"),
    ),
    mask=streaming_llm,
    parameters={
        "sinks": "first tokens that every later query sees [tokens]",
        "window": "keys visible to one query, itself included [tokens]",
    },
    equivalents=(
        "the A shape: sinks are the left stroke, the window the right one",
        "StreamingLLM also moves positions: keys count from the sinks on, before the call",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # . # # . .
            # . . # # .
            # . . . # #
            """,
            given={"sinks": 1, "window": 2},
        ),
        Picture("# . . .\n# # . .\n# # # .\n# # . #", given={"sinks": 2, "window": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=8192),
    small={"sinks": 2, "window": 6},
)
