"""One prompt, several continuations: each sees the prompt and itself, none sees another."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def shared_prefix(document: Tensor, prefix: Tensor) -> MaskMod:
    """keep = q >= kv and (document[kv] == document[q] or document[kv] == prefix[document[q]])"""

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = document[q_idx], document[kv_idx]
        return (q_idx >= kv_idx) & ((mine == theirs) | (theirs == prefix[mine]))

    return mask_mod


def rollouts(sizes: Sizes, prompts: int = 2, answers: int = 3) -> dict[str, Tensor]:
    """Groups of a prompt and its answers, all of nearly equal length."""
    count = prompts * (answers + 1)
    total = max(sizes.q_len, sizes.kv_len)
    number = torch.arange(count)
    return {
        "document": torch.arange(total) * count // total,
        "prefix": number - number % (answers + 1),
    }


def dense(score: Tensor, document: Tensor, prefix: Tensor) -> Tensor:
    """Sets of documents that each one reads, then the triangle."""
    reads = [{d, int(prefix[d])} for d in range(len(prefix))]
    names = document.tolist()
    rows = [
        [names[kv] in reads[names[q]] for kv in range(score.shape[3])]
        for q in range(score.shape[2])
    ]
    return masked(score, torch.tensor(rows).tril())


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = q >= kv and document[kv] in {document[q], prefix[document[q]]}",
    sources=(
        Source("GRPO and DPO with one prompt packed once", "arXiv:2402.03300"),
        Source("Shared prefixes", "attention-gym generate_shared_prefix_mask_mod"),
    ),
    mask=shared_prefix,
    captures=rollouts,
    parameters={
        "prompts": "groups in the sequence [count]",
        "answers": "continuations of each prompt [count]",
    },
    captured={
        "document": "[S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)",
        "prefix": "[documents] int64: the document each one continues; a prompt names itself",
    },
    equivalents=(
        "documents lie in order, a prompt before its continuations, so that q >= kv suffices",
        "positions of every continuation go on from the prompt's end: set them before the call",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # # # # . .
            # # . . # .
            # # . . # #
            """,
            given={"document": [0, 0, 1, 1, 2, 2], "prefix": [0, 0, 0]},
        ),
        Picture(
            """
            # . . . .
            # # . . .
            . . # . .
            . . # # .
            . . # . #
            """,
            given={"document": [0, 1, 2, 3, 4], "prefix": [0, 0, 2, 2, 2]},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=8192),
)
