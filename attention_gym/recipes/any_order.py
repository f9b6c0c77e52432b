"""Tokens are written in any order: each sees what was written before it, and itself."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def any_order(step: Tensor) -> MaskMod:
    """keep = step[b, kv] <= step[b, q]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return step[b, kv_idx] <= step[b, q_idx]

    return mask_mod


def in_turns(sizes: Sizes, turns: int = 8) -> dict[str, Tensor]:
    """Each token is written in one of ``turns`` rounds, at random."""
    length = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    return {"step": torch.randint(turns, (sizes.batch, length), generator=generator)}


def dense(score: Tensor, step: Tensor) -> Tensor:
    """Round by round: its rows take all columns written by then."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, row in enumerate(step):
        written: set[int] = set()
        for number in range(int(row.max()) + 1):
            now = (row == number).nonzero().flatten().tolist()
            written |= set(now)
            for q in now:
                if q < score.shape[2]:
                    keep[b, :, q, [kv for kv in written if kv < score.shape[3]]] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = step[b, kv] <= step[b, q]",
    sources=(
        Source("σ-GPT, any order", "arXiv:2404.09562"),
        Source("MAR, images in random sets", "arXiv:2406.11838"),
    ),
    mask=any_order,
    captures=in_turns,
    parameters={"turns": "rounds in which tokens are written [count]"},
    captured={"step": "[B, S] int64: round each token is written in, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "xlnet_content: one token a round",
        "next_scale: rounds in order of position",
    ),
    pictures=(
        Picture("# . # .\n# # # #\n# . # .\n# . # #", given={"step": [[0, 2, 0, 1]]}),
        Picture("# . #\n# # #\n. . #", given={"step": [[0, 0, 0], [1, 2, 0]]}, batch=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=1024),
)
