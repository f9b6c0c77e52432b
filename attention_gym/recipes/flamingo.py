"""Text sees the tokens of the images it is told of by intervals: cross attention of Flamingo."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def flamingo(interval: Tensor, tokens: int = 64) -> MaskMod:
    """keep = interval[i, 0] <= q < interval[i, 1], i = kv // tokens"""
    last = interval.shape[0] - 1

    def mask_mod(b, h, q_idx, kv_idx):
        image = (kv_idx // tokens).clamp(max=last)
        return (interval[image, 0] <= q_idx) & (q_idx < interval[image, 1])

    return mask_mod


def interleaved(sizes: Sizes, tokens: int = 64) -> dict[str, Tensor]:
    """Images spread over the text; each is seen until the next one comes."""
    images = -(-sizes.kv_len // tokens)
    start = torch.arange(1, images + 1) * sizes.q_len // (images + 1)
    end = torch.cat([start[1:], torch.tensor([sizes.q_len])])
    return {"interval": torch.stack([start, end], 1)}


def dense(score: Tensor, interval: Tensor, tokens: int) -> Tensor:
    """One rectangle an image."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for image, (start, end) in enumerate(interval.tolist()):
        keep[start:end, image * tokens : (image + 1) * tokens] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="multimodal",
    formula="keep = interval[i, 0] <= q < interval[i, 1], i = kv // tokens",
    sources=(
        Source("Flamingo (64 tokens an image)", "arXiv:2204.14198"),
        Source("IDEFICS", "arXiv:2306.16527"),
    ),
    mask=flamingo,
    captures=interleaved,
    parameters={"tokens": "tokens of an image [tokens]"},
    captured={"interval": "[images, 2] int64: first text token that sees it, and one past it"},
    equivalents=(
        "attention-gym generate_vision_cross_attention_mask_mod(intervals, tokens): the same",
        "text before the first image sees nothing: output 0, lse -inf",
    ),
    pictures=(
        Picture(
            """
            . . . .
            # # . .
            # # . .
            . . # #
            . . # #
            """,
            given={"interval": [[1, 3], [3, 5]], "tokens": 2},
        ),
        # Two images at one place.
        Picture("# # .\n# # #\n. . #", given={"interval": [[0, 2], [0, 2], [1, 3]], "tokens": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1024, kv_len=512),
    small={"tokens": 9},
)
