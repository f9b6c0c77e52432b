"""Causal text with images in it; tokens of one image see each other both ways."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def image_blocks(image: Tensor) -> MaskMod:
    """keep = q >= kv or (image[b, q] == image[b, kv] and image[b, q] >= 0)"""

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = image[b, q_idx], image[b, kv_idx]
        return (q_idx >= kv_idx) | ((mine == theirs) & (mine >= 0))

    return mask_mod


def interleaved(sizes: Sizes, images: int = 3, tokens: int = 256) -> dict[str, Tensor]:
    """Images of ``tokens`` tokens, evenly spread, one token later in each next batch entry."""
    length = max(sizes.q_len, sizes.kv_len)
    image = torch.full((sizes.batch, length), -1)
    for b in range(sizes.batch):
        for number in range(images):
            start = number * length // images + b + 1
            image[b, start : min(start + tokens, (number + 1) * length // images)] = number
    return {"image": image}


def dense(score: Tensor, image: Tensor) -> Tensor:
    """A triangle with a square over each image."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    for b, row in enumerate(image):
        for number in range(int(row.max()) + 1):
            places = (row == number).nonzero().flatten()
            first, last = int(places[0]), int(places[-1]) + 1
            keep[b, :, first:last, first:last] = True
    return masked(score, keep)


def model(score: Tensor, image: Tensor) -> Tensor:
    """Gemma 3's global layers: images are found from token types, then laid over causal."""
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import (
        create_masks_for_vision_model,
        get_block_sequence_ids_for_mask,
    )

    types = (image[:, : score.shape[2]] >= 0).long()

    def create(config: Gemma3TextConfig, **options: object) -> Tensor:
        return create_masks_for_vision_model(config, **options)["full_attention"]

    options = {
        "position_ids": None, "block_sequence_ids": get_block_sequence_ids_for_mask(types)
    }  # fmt: skip
    return added(score, model_mask(create, Gemma3TextConfig(), score, **options))


RECIPE = Recipe(
    family="multimodal",
    formula="keep = q >= kv or (image[b, q] == image[b, kv] and image[b, q] >= 0)",
    sources=(
        Source("Gemma 3, global layers (256 tokens an image)", "arXiv:2503.19786"),
        Source("Transfusion", "arXiv:2408.11039"),
        Source("GIT", "transformers models/git"),
    ),
    mask=image_blocks,
    captures=interleaved,
    parameters={
        "images": "images in each sequence [count]",
        "tokens": "tokens of an image [tokens]",
    },
    captured={"image": "[B, S] int64: image of each token, -1 for text, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "transformers block_sequence_ids over a causal mask: the same",
        "with a window the order matters: see gemma3_local",
    ),
    pictures=(
        Picture(
            """
            # . . . .
            # # # . .
            # # # . .
            # # # # .
            # # # # #
            """,
            given={"image": [[-1, 0, 0, -1, -1]]},
        ),
        Picture(
            "# # . .\n# # . .\n# # # #\n# # # #",
            given={"image": [[-1, -1, -1, -1], [0, 0, 1, 1]]},
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
    sizes=Sizes(batch=2, q_len=2048),
    small={"tokens": 9},
)  # fmt: skip
