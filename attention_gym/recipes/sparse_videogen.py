"""Heads of a video model: some look along space, some along time, all at the prompt."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def sparse_videogen(
    spatial: Tensor, prompt: int = 226, frames: int = 13, tokens: int = 256, reach: int = 1
) -> MaskMod:
    """keep = prompt, or frames at most reach apart (spatial[h]), or nearly the same place"""
    width = reach * tokens // frames

    def mask_mod(b, h, q_idx, kv_idx):
        q_at, kv_at = q_idx - prompt, kv_idx - prompt
        near_frame = torch.abs(q_at // tokens - kv_at // tokens) <= reach
        near_place = torch.abs(q_at % tokens - kv_at % tokens) <= width
        seen = torch.where(spatial[h], near_frame, near_place)
        return (q_idx < prompt) | (kv_idx < prompt) | seen

    return mask_mod


def classified(sizes: Sizes) -> dict[str, Tensor]:
    """Heads in turn; in the model their class is found while it runs."""
    return {"spatial": torch.arange(sizes.heads) % 2 == 0}


def dense(
    score: Tensor, spatial: Tensor, prompt: int, frames: int, tokens: int, reach: int
) -> Tensor:
    """Two matrices by Kronecker products, chosen by head, with the prompt's rows and columns."""
    count = -(-(max(score.shape[-2:]) - prompt) // tokens)
    near = torch.ones(count, count).tril(reach).triu(-reach)
    width = reach * tokens // frames
    place = torch.ones(tokens, tokens).tril(width).triu(-width)
    kinds = [torch.kron(near, torch.ones(tokens, tokens)), torch.kron(torch.ones_like(near), place)]
    keep = torch.ones(score.shape[1:])
    rows, columns = score.shape[2] - prompt, score.shape[3] - prompt
    for head, flag in enumerate(spatial.tolist()):
        keep[head, prompt:, prompt:] = kinds[0 if flag else 1][:rows, :columns]
    return masked(score, keep > 0)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = prompt, or |frame_q - frame_kv| <= reach (spatial heads), or |place_q - "
    "place_kv| <= reach * tokens // frames (temporal heads)",
    sources=(Source("Sparse VideoGen (13 frames of 1350, prompt 226)", "arXiv:2502.01776"),),
    mask=sparse_videogen,
    captures=classified,
    parameters={
        "prompt": "tokens of the prompt, which come first [tokens]",
        "frames": "frames of the video [frames]",
        "tokens": "tokens of a frame [tokens]",
        "reach": "frames to each side, and share of a frame as reach / frames [frames]",
    },
    captured={"spatial": "[Hq] bool: True for heads that look along space"},
    equivalents=(
        "the published spatial mask is a band of reach * tokens around the diagonal; here whole "
        "frames are kept",
        "attention-gym generate_spatial_head_mask_mod, generate_temporal_head_mask_mod: bands",
    ),
    pictures=(
        # A prompt of one, three frames of two.
        Picture(
            """
            # # # # # # #
            # # # # # . .
            # # # # # . .
            # # # # # # #
            # # # # # # #
            # . . # # # #
            # . . # # # #
            """,
            given={
                "spatial": [True, False], "prompt": 1, "frames": 3, "tokens": 2, "reach": 1
            },
        ),
        Picture(
            """
            # # # # #
            # # . # .
            # . # . #
            # # . # .
            # . # . #
            """,
            given={
                "spatial": [True, False], "prompt": 1, "frames": 3, "tokens": 2, "reach": 1
            },
            head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=3554),
    small={"prompt": 7, "frames": 5, "tokens": 15},
)  # fmt: skip
