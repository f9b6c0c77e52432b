"""The prompt stays visible while what is generated slides through a window."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def reference_window(prompt: int = 1024, window: int = 256) -> MaskMod:
    """keep = q >= kv and (kv < prompt or q - kv < window)"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & ((kv_idx < prompt) | (q_idx - kv_idx < window))

    return mask_mod


def dense(score: Tensor, prompt: int, window: int) -> Tensor:
    """A cache played step by step: the prompt is kept, of the rest the newest window keys."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    kept: list[int] = []
    newest: list[int] = []
    for q in range(score.shape[2]):
        (kept if q < prompt else newest).append(q)
        newest = newest[max(0, len(newest) - window) :]
        seen = [kv for kv in kept + newest if kv < score.shape[3]]
        keep[q, seen] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (kv < prompt or q - kv < window)",
    sources=(Source("Unlimited-OCR", "transformers models/unlimited_ocr"),),
    mask=reference_window,
    parameters={
        "prompt": "first tokens, which stay visible to all later ones [tokens]",
        "window": "generated keys visible to one query, itself included [tokens]",
    },
    equivalents=("streaming_llm with sinks = prompt: the same rule, another use",),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # # # # . .
            # # . # # .
            # # . . # #
            """,
            given={"prompt": 2, "window": 2},
        ),
        Picture("# . .\n. # .\n. . #", given={"prompt": 0, "window": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"prompt": 20, "window": 6},
)
