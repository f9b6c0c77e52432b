"""A window over causal text and images: the window cuts images too."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.image_blocks import interleaved
from attention_gym.reference import added, masked, model_mask


def gemma3_local(image: Tensor, window: int = 1024) -> MaskMod:
    """keep = q - kv < window and (q >= kv or same image)"""

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = image[b, q_idx], image[b, kv_idx]
        visible = (q_idx >= kv_idx) | ((mine == theirs) & (mine >= 0))
        return (q_idx - kv_idx < window) & visible

    return mask_mod


def dense(score: Tensor, image: Tensor, window: int) -> Tensor:
    """First the triangle with its squares, then all below the band is struck out."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    for b, row in enumerate(image):
        for number in range(int(row.max()) + 1):
            places = (row == number).nonzero().flatten()
            first, last = int(places[0]), int(places[-1]) + 1
            keep[b, :, first:last, first:last] = True
    return masked(score, keep.triu(1 - window))


def model(score: Tensor, image: Tensor, window: int) -> Tensor:
    """Gemma 3's local layers, with the order of composition they have."""
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import (
        create_masks_for_vision_model,
        get_block_sequence_ids_for_mask,
    )

    types = (image[:, : score.shape[2]] >= 0).long()

    def create(config: Gemma3TextConfig, **options: object) -> Tensor:
        return create_masks_for_vision_model(config, **options)["sliding_attention"]

    options = {
        "position_ids": None, "block_sequence_ids": get_block_sequence_ids_for_mask(types)
    }  # fmt: skip
    config = Gemma3TextConfig(sliding_window=window)
    return added(score, model_mask(create, config, score, **options))


RECIPE = Recipe(
    family="multimodal",
    formula="keep = q - kv < window and (q >= kv or same image)",
    sources=(
        Source("Gemma 3, local layers (window 1024)", "transformers models/gemma3"),
        Source("Gemma 4, local layers", "transformers models/gemma4"),
    ),
    mask=gemma3_local,
    captures=interleaved,
    parameters={
        "window": "keys back to which a query sees, itself included [tokens]",
        "images": "images in each sequence [count]",
        "tokens": "tokens of an image [tokens]",
    },
    captured={"image": "[B, S] int64: image of each token, -1 for text, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "window and (causal or image): the window is laid on last and cuts images behind it",
        "(window and causal) or image is another mask: there an image sees itself whole",
        "image_blocks: the same without a window",
    ),
    pictures=(
        # An image of four tokens and a window of two: row 4 no longer sees the image's start.
        Picture(
            """
            # . . . . .
            # # # # # .
            . # # # # .
            . . # # # .
            . . . # # .
            . . . . # #
            """,
            given={"image": [[-1, 0, 0, 0, 0, -1]], "window": 2},
        ),
        Picture(
            "# # .\n. # .\n. . #",
            given={"image": [[-1, -1, -1], [0, 0, -1]], "window": 1},
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_masks_for_vision_model (Gemma 3)", scores=model,
            sizes=SQUARE,
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=4096),
    small={"window": 6, "tokens": 10},
)  # fmt: skip
