"""A window of its own length to the left and to the right."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def asymmetric_window(left: int = 16, right: int = 4) -> MaskMod:
    """keep = 0 <= q - kv < left or 0 < kv - q < right"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        return ((back >= 0) & (back < left)) | ((back < 0) & (-back < right))

    return mask_mod


def dense(score: Tensor, left: int, right: int) -> Tensor:
    """Row by row, from left - 1 keys before to right - 1 keys after."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        if left > 0:
            keep[q, max(0, q - left + 1) : q + 1] = True
        keep[q, q + 1 : max(q + 1, q + right)] = True
    return masked(score, keep)


def model(score: Tensor, left: int, right: int) -> Tensor:
    """The function Moonshine's streaming encoder gives to its layers."""
    from transformers.models.moonshine_streaming import modeling_moonshine_streaming as moonshine

    keep = moonshine.sliding_window_mask_function((left, right))
    q, kv = torch.arange(score.shape[2])[:, None], torch.arange(score.shape[3])
    return masked(score, keep(0, 0, q, kv))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = 0 <= q - kv < left or 0 < kv - q < right",
    sources=(
        Source("Moonshine streaming encoder (16, 4)", "transformers models/moonshine_streaming"),
        Source("Gemma 4 audio encoder", "transformers models/gemma4"),
    ),
    mask=asymmetric_window,
    parameters={
        "left": "keys seen up to the query, itself included [tokens]",
        "right": "keys seen from the query on, itself included [tokens]",
    },
    equivalents=(
        "flash-attn window_size=(L, R): left = L + 1 and right = R + 1, both ends inclusive",
        "transformers sliding_windows (left, right): the same, the right end is exclusive",
    ),
    pictures=(
        Picture(
            """
            # # # . . .
            # # # # . .
            . # # # # .
            . . # # # #
            . . . # # #
            """,
            given={"left": 2, "right": 3},
        ),
        Picture("# . . .\n# # . .\n# # # .\n. # # #", given={"left": 3, "right": 1}),
        Picture("# # . .\n. # # .\n. . # #", given={"left": 1, "right": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"left": 1, "right": 0}),
        Reference(source="transformers moonshine_streaming mask function", scores=model),
    ),
    sizes=Sizes(q_len=2048),
    small={"left": 5, "right": 3},
)
