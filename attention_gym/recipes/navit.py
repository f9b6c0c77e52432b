"""Images of different sizes packed into one sequence; each sees itself."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.document import document
from attention_gym.reference import added, masked, model_mask


def navit(image: Tensor) -> MaskMod:
    """keep = image[b, q] == image[b, kv]"""
    return document(image)


def packed_images(sizes: Sizes, largest: int = 16) -> dict[str, Tensor]:
    """Images of random height and width up to ``largest`` patches, as many as fit."""
    length = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(sizes.batch):
        sides = torch.randint(1, largest + 1, (length, 2), generator=generator)
        ends = sides.prod(1).cumsum(0)
        rows.append(torch.searchsorted(ends, torch.arange(length), right=True))
    return {"image": torch.stack(rows)}


def dense(score: Tensor, image: Tensor) -> Tensor:
    """Image by image, a square."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, row in enumerate(image):
        for number in row.unique():
            mine = row == number
            keep[b] |= mine[: score.shape[2], None] & mine[None, : score.shape[3]]
    return masked(score, keep)


def model(score: Tensor, image: Tensor) -> Tensor:
    """transformers' mask of an encoder, cut by its function for packed sequences."""
    from transformers import ViTConfig
    from transformers.masking_utils import create_bidirectional_mask, packed_sequence_mask_function

    options = {"and_mask_function": packed_sequence_mask_function(image)}
    return added(score, model_mask(create_bidirectional_mask, ViTConfig(), score, **options))


RECIPE = Recipe(
    family="vision and video",
    formula="keep = image[b, q] == image[b, kv]",
    sources=(
        Source("NaViT", "arXiv:2307.06304"),
        Source("SigLIP 2 NaFlex", "arXiv:2502.14786"),
    ),
    mask=navit,
    captures=packed_images,
    parameters={"largest": "longest side of an image [patches]"},
    captured={"image": "[B, S] int64: image of each patch, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "document: the same",
        "Qwen2-VL cu_seqlens: the same as cumulative lengths",
    ),
    pictures=(
        Picture("# . . .\n. # # .\n. # # .\n. . . #", given={"image": [[0, 1, 1, 2]]}),
        Picture("# # .\n# # .\n. . #", given={"image": [[0, 0, 0], [3, 3, 5]]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_bidirectional_mask(packed_sequence_mask_function)",
            scores=model, sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=61),
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"largest": 5},
)  # fmt: skip
