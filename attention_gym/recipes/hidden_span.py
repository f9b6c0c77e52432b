"""Reasoning of earlier turns is hidden from later turns."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def hidden_span(turn: Tensor, hidden: Tensor) -> MaskMod:
    """keep = q >= kv and (not hidden[kv] or turn[q] == turn[kv])"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (~hidden[kv_idx] | (turn[q_idx] == turn[kv_idx]))

    return mask_mod


def thinking(sizes: Sizes, turns: int = 4, share: float = 0.5) -> dict[str, Tensor]:
    """Turns of nearly equal length; the middle ``share`` of each is thought."""
    total = max(sizes.q_len, sizes.kv_len)
    place = torch.arange(total) * turns / total
    within = place - place.floor()
    return {"turn": place.long(), "hidden": (within - 0.5).abs() < share / 2}


def dense(score: Tensor, turn: Tensor, hidden: Tensor) -> Tensor:
    """Turn by turn: what was thought before it is struck out of its rows."""
    keep = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    for number in range(int(turn.max()) + 1):
        rows = (turn == number)[: score.shape[2]]
        gone = (hidden & (turn < number))[: score.shape[3]]
        keep[rows] &= ~gone
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = q >= kv and (not hidden[kv] or turn[q] == turn[kv])",
    sources=(
        Source("Qwen3, earlier reasoning is stripped", "arXiv:2505.09388"),
        Source("DeepSeek-R1, the same in its chat format", "arXiv:2501.12948"),
    ),
    mask=hidden_span,
    captures=thinking,
    parameters={
        "turns": "turns of the conversation [count]",
        "share": "part of each turn that is reasoning [1]",
    },
    captured={
        "turn": "[S] int64: the turn each token belongs to, S = max(Q_LEN, KV_LEN)",
        "hidden": "[S] bool: True for tokens of reasoning",
    },
    equivalents=(
        "training all turns at once on what generation sees turn by turn; positions then differ "
        "from a stripped conversation unless they are set too",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # . # # . .
            # . # # # .
            # . # # # #
            """,
            given={
                "turn": [0, 0, 0, 1, 1, 1],
                "hidden": [False, True, False, False, True, False],
            },
        ),
        Picture("# . .\n. # .\n. . #", given={"turn": [0, 1, 2], "hidden": [True, True, True]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
)
