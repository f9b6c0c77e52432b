"""Understanding and generation in one sequence: noisy copies are seen by themselves alone."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked

TEXT, CLEAN, NOISY = 0, 1, 2


def bagel(part: Tensor, kind: Tensor) -> MaskMod:
    """keep = an earlier part that is not noisy, or the own part (text: causal, images: whole)"""

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = part[q_idx], part[kv_idx]
        earlier = (mine > theirs) & (kind[kv_idx] != NOISY)
        own = (mine == theirs) & ((kind[q_idx] != TEXT) | (q_idx >= kv_idx))
        return earlier | own

    return mask_mod


def interleaved(sizes: Sizes, parts: int = 6) -> dict[str, Tensor]:
    """Parts of nearly equal length in turn: text, an image's noisy copy, its clean one, text, …"""
    total = max(sizes.q_len, sizes.kv_len)
    part = torch.arange(total) * parts // total
    return {"part": part, "kind": torch.tensor([TEXT, NOISY, CLEAN])[part % 3]}


def dense(score: Tensor, part: Tensor, kind: Tensor) -> Tensor:
    """Part by part, a list of rectangles."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for number in range(int(part.max()) + 1):
        own = part == number
        rows, columns = own[: score.shape[2]], own[: score.shape[3]]
        seen = ((part < number) & (kind != NOISY))[: score.shape[3]]
        keep |= rows[:, None] & seen
        square = rows[:, None] & columns
        text = int(kind[own][0]) == TEXT
        keep |= square.tril() if text else square
    return masked(score, keep)


RECIPE = Recipe(
    family="multimodal",
    formula="keep = (part[q] > part[kv] and kv not noisy) or (part[q] == part[kv] and (image or q "
    ">= kv))",
    sources=(Source("BAGEL", "arXiv:2505.14683"),),
    mask=bagel,
    captures=interleaved,
    parameters={"parts": "parts of the sequence: texts and copies of images [count]"},
    captured={
        "part": "[S] int64: part each token belongs to, S = max(Q_LEN, KV_LEN)",
        "kind": "[S] int64: 0 text, 1 clean image, 2 noisy image",
    },
    equivalents=(
        "image_blocks: no noisy copies",
        "Transfusion trains on noisy images that later text does see",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # # . .
            # # # # . .
            # # . . # .
            # # . . # #
            """,
            given={"part": [0, 0, 1, 1, 2, 3], "kind": [0, 0, 2, 2, 1, 0]},
        ),
        Picture("# # .\n# # .\n# # #", given={"part": [0, 0, 1], "kind": [1, 1, 2]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
)
