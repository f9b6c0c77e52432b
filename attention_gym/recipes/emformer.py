"""Speech in segments with left context, look-ahead, and one memory vector per earlier segment."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def emformer(first: Tensor, last: Tensor, segment: Tensor, memory: Tensor) -> MaskMod:
    """keep = first[q] <= kv < last[q] or (memory[kv] and segment[kv] < segment[q])"""

    def mask_mod(b, h, q_idx, kv_idx):
        near = (first[q_idx] <= kv_idx) & (kv_idx < last[q_idx])
        return near | (memory[kv_idx] & (segment[kv_idx] < segment[q_idx]))

    return mask_mod


def segments(sizes: Sizes, length: int = 64, left: int = 32, ahead: int = 16) -> dict[str, Tensor]:
    """Each segment is ``length`` frames, the last of which stands for its memory vector."""
    total = max(sizes.q_len, sizes.kv_len)
    position = torch.arange(total)
    number = position // length
    return {
        "first": (number * length - left).clamp(min=0),
        "last": ((number + 1) * length + ahead).clamp(max=total),
        "segment": number,
        "memory": position % length == length - 1,
    }


def dense(score: Tensor, length: int, left: int, ahead: int) -> Tensor:
    """Segment by segment: a rectangle, and the last column of all segments before."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for start in range(0, score.shape[2], length):
        rows = keep[start : start + length]
        rows[:, max(0, start - left) : start + length + ahead] = True
        rows[:, range(length - 1, min(start, score.shape[3]), length)] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = first[q] <= kv < last[q] or (memory[kv] and segment[kv] < segment[q])",
    sources=(
        Source("Emformer (segment 64, left 32, ahead 16 frames)", "arXiv:2010.10759"),
        Source("torchaudio Emformer", "torchaudio/models/emformer.py"),
    ),
    mask=emformer,
    captures=segments,
    parameters={
        "length": "frames of a segment [frames]",
        "left": "frames seen before the segment [frames]",
        "ahead": "frames seen after the segment [frames]",
    },
    captured={
        "first": "[S] int64: first frame in reach of each query, S = max(Q_LEN, KV_LEN)",
        "last": "[S] int64: one past the last frame in reach",
        "segment": "[S] int64: segment of each frame",
        "memory": "[S] bool: True for the key that sums up its segment",
    },
    equivalents=(
        "torchaudio lays memory and look-ahead copies out before the frames; the mask is the same "
        "rule on another order of tokens",
    ),
    pictures=(
        Picture(
            """
            # # # # . .
            # # # # . .
            . # # # # #
            . # # # # #
            . # . # # #
            . # . # # #
            """,
            given={
                "first": [0, 0, 1, 1, 3, 3],
                "last": [4, 4, 6, 6, 6, 6],
                "segment": [0, 0, 1, 1, 2, 2],
                "memory": [False, True, False, True, False, True],
            },
        ),
        Picture(
            """
            # # . .
            # # . .
            # . # #
            # . # #
            """,
            given={
                "first": [0, 0, 2, 2],
                "last": [2, 2, 4, 4],
                "segment": [0, 0, 1, 1],
                "memory": [True, False, True, False],
            },
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"length": 10, "left": 4, "ahead": 3},
)
