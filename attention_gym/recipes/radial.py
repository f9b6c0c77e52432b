"""Video with attention that thins out with time: far frames are seen in a shrinking band."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def radial(tokens: int = 256, levels: int = 8) -> MaskMod:
    """keep = |place_q - place_kv| < tokens / 2^ceil(log2(d)), d = |frame_q - frame_kv| >= 1"""

    def mask_mod(b, h, q_idx, kv_idx):
        apart = torch.abs(q_idx // tokens - kv_idx // tokens)
        width = tokens + 0 * apart
        for level in range(levels):
            width = torch.where(apart > 2**level, tokens // 2 ** (level + 1), width)
        place = torch.abs(q_idx % tokens - kv_idx % tokens)
        # Bands narrower than one token: every 2^k-th frame keeps the token itself.
        sparse = (place == 0) & (apart % torch.where(width == 0, 2, 1) == 0)
        return (place < width) | sparse

    return mask_mod


def dense(score: Tensor, tokens: int, levels: int) -> Tensor:
    """Frame by frame, a square band whose width is found by halving."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    frames = -(-max(score.shape[-2:]) // tokens)
    ones = torch.ones(tokens, tokens, dtype=torch.bool)
    for q in range(frames):
        for kv in range(frames):
            distance, width, halvings = abs(q - kv), tokens, 0
            reach = 1
            while distance > reach and halvings < levels:
                reach, halvings = 2 * reach, halvings + 1
                width = tokens // 2**halvings
            band = ones.tril(width - 1).triu(1 - width) if width else torch.zeros_like(ones)
            if width or distance % 2 == 0:
                band = band | torch.eye(tokens, dtype=torch.bool)
            part = keep[q * tokens : (q + 1) * tokens, kv * tokens : (kv + 1) * tokens]
            part.copy_(band[: part.shape[0], : part.shape[1]])
    return masked(score, keep)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = |p_q - p_kv| < T / 2^ceil(log2 d), d = |f_q - f_kv|; where that is below one, "
    "p_q == p_kv in every other frame",
    sources=(Source("Radial Attention", "arXiv:2506.19852"),),
    mask=radial,
    parameters={
        "tokens": "tokens of a frame [tokens]",
        "levels": "times the band is halved at most [count]",
    },
    equivalents=(
        "the paper's band is counted in tokens of its whole sequence and rounded to blocks; the "
        "rule for each pair of frames is this one",
        "its first frame is also kept as a sink: or_masks with kv < tokens",
    ),
    pictures=(
        # Frames of two tokens: whole up to one frame away, half of that up to two.
        Picture(
            """
            # # # # # . # .
            # # # # . # . #
            # # # # # # # .
            # # # # # # . #
            """,
            given={"tokens": 2, "levels": 1},
        ),
        # Frames of one token: from two frames away on, every other one.
        Picture("# # # . #\n# # # # .", given={"tokens": 1, "levels": 3}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"tokens": 8, "levels": 4},
)
