"""A few latent queries over image tokens and themselves: keys are [image, latents]."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def perceiver_resampler(real: Tensor, images: int = 576) -> MaskMod:
    """keep = kv < real[b] or kv >= images"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (kv_idx < real[b]) | (kv_idx >= images)

    return mask_mod


def image_tokens(sizes: Sizes, images: int = 576, shortest: float = 0.5) -> dict[str, Tensor]:
    """Image tokens of each batch entry, fewer in each next one; the rest is padding."""
    share = torch.linspace(1.0, shortest, sizes.batch) if sizes.batch > 1 else torch.ones(1)
    return {"real": (share * images).round().long()}


def dense(score: Tensor, real: Tensor, images: int) -> Tensor:
    """Padding between an entry's image tokens and the latents is struck out."""
    keep = torch.ones_like(score, dtype=torch.bool)
    for b, count in enumerate(real.tolist()):
        keep[b, :, :, count:images] = False
    return masked(score, keep)


RECIPE = Recipe(
    family="multimodal",
    formula="keep = kv < real[b] or kv >= images",
    sources=(
        Source("Flamingo's resampler (64 latents)", "arXiv:2204.14198"),
        Source("IDEFICS, Idefics2", "arXiv:2405.02246"),
    ),
    mask=perceiver_resampler,
    captures=image_tokens,
    parameters={
        "images": "keys of image tokens, padding included; the latents follow [tokens]",
        "shortest": "image tokens of the last batch entry, as a share of the first's [1]",
    },
    captured={"real": "[B] int64: image tokens of each entry that are no padding"},
    equivalents=("without padding: full attention over [image, latents], Q_LEN < KV_LEN",),
    pictures=(
        Picture("# . # #\n# . # #", given={"real": [1, 2], "images": 2}),
        Picture("# # # #\n# # # #", given={"real": [1, 2], "images": 2}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=64, kv_len=640),
    small={"images": 47},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=12, kv_len=59),
)  # fmt: skip
