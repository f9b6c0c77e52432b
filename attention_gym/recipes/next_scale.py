"""An image from coarse to fine: a token sees all coarser scales and its own."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def next_scale(level: Tensor) -> MaskMod:
    """keep = level[q] >= level[kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return level[q_idx] >= level[kv_idx]

    return mask_mod


def pyramid(sizes: Sizes, step: int = 2) -> dict[str, Tensor]:
    """Scales of 1, 1 + step, … patches a side, as many as fit; the rest is of the last."""
    length = max(sizes.q_len, sizes.kv_len)
    sides = range(1, length + 1, step)
    level = torch.cat([torch.full((side * side,), i) for i, side in enumerate(sides)][:40])
    last = torch.full((max(0, length - len(level)),), int(level.max()))
    return {"level": torch.cat([level, last])[:length]}


def dense(score: Tensor, step: int) -> Tensor:
    """Each row ends where its scale does."""
    end, side = 0, 1
    rows: list[int] = []
    while len(rows) < score.shape[2]:
        end += side * side
        rows += [end] * (side * side)
        side += step
    ends = torch.tensor(rows[: score.shape[2]])
    return masked(score, torch.arange(score.shape[3]) < ends[:, None])


RECIPE = Recipe(
    family="generation structure",
    formula="keep = level[q] >= level[kv]",
    sources=(Source("VAR (sides 1, 2, 3, 4, 5, 6, 8, 10, 13, 16)", "arXiv:2404.02905"),),
    mask=next_scale,
    captures=pyramid,
    parameters={"step": "growth of a scale's side over the one before [patches]"},
    captured={"level": "[S] int64: scale of each token, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "block-causal with blocks of different length",
        "VAR attn_bias_for_masking: the same as a dense bias of 0 and -inf",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # # # # .
            # # # # # .
            # # # # # .
            # # # # # .
            # # # # # #
            """,
            given={"level": [0, 1, 1, 1, 1, 2]},
        ),
        Picture("# # .\n# # .\n# # #", given={"level": [0, 0, 3]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=680),
    small={"step": 1},
)
