"""Video frame by frame: both ways within a frame, a window of frames back, and the first frame."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def frame_causal(tokens: int = 256, window: int = 8, sink: int = 1) -> MaskMod:
    """keep = frame[kv] <= frame[q] and (frame[q] - frame[kv] < window or frame[kv] < sink)"""

    def mask_mod(b, h, q_idx, kv_idx):
        q_frame, kv_frame = q_idx // tokens, kv_idx // tokens
        near = (q_frame - kv_frame < window) | (kv_frame < sink)
        return (kv_frame <= q_frame) & near

    return mask_mod


def dense(score: Tensor, tokens: int, window: int, sink: int) -> Tensor:
    """Frames as a small matrix, each cell blown up to tokens × tokens."""
    frames = -(-max(score.shape[-2:]) // tokens)
    lower = torch.ones(frames, frames, dtype=torch.bool).tril()
    small = lower & ~lower.tril(-window)
    small[:, :sink] = lower[:, :sink]
    large = small.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    return masked(score, large[: score.shape[2], : score.shape[3]])


RECIPE = Recipe(
    family="generation structure",
    formula="keep = f[kv] <= f[q] and (f[q] - f[kv] < window or f[kv] < sink), f = position // "
    "tokens",
    sources=(
        Source("CausVid", "arXiv:2412.07772"),
        Source("Self Forcing", "arXiv:2506.08009"),
    ),
    mask=frame_causal,
    parameters={
        "tokens": "tokens of a frame [tokens]",
        "window": "frames visible to one query, its own included [frames]",
        "sink": "first frames that stay visible [frames]",
    },
    equivalents=("a window as long as the video and no sink: block_causal",),
    pictures=(
        Picture(
            """
            # # . . . .
            # # . . . .
            # # # # . .
            # # # # . .
            . . # # # #
            . . # # # #
            """,
            given={"tokens": 2, "window": 2, "sink": 0},
        ),
        Picture("# . . .\n# # . .\n# . # .\n# . . #", given={"tokens": 1, "window": 1, "sink": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"tokens": 8, "window": 3},
)
