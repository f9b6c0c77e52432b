"""Documents in a tree: each sees its ancestors whole and itself causally."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def document_tree(document: Tensor, ancestor: Tensor) -> MaskMod:
    """keep = ancestor[document[q], document[kv]] and (another document or q >= kv)"""

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = document[q_idx], document[kv_idx]
        return ancestor[mine, theirs] & ((mine != theirs) | (q_idx >= kv_idx))

    return mask_mod


def ancestors(parents: list[int]) -> Tensor:
    """Closure of a tree; ``parents[i]`` < i, or i for a root. Each is its own ancestor."""
    count = len(parents)
    known = torch.eye(count, dtype=torch.bool)
    for child, parent in enumerate(parents):
        if parent != child:
            known[child] |= known[parent]
    return known


def branching(sizes: Sizes, branches: int = 2, levels: int = 3) -> dict[str, Tensor]:
    """A full tree of documents of nearly equal length, level by level."""
    count = sum(branches**level for level in range(levels))
    parents = [max(0, (i - 1) // branches) for i in range(count)]
    total = max(sizes.q_len, sizes.kv_len)
    return {"document": torch.arange(total) * count // total, "ancestor": ancestors(parents)}


def dense(score: Tensor, document: Tensor, branches: int) -> Tensor:
    """Walk up from every query's document to the root."""
    names = document.tolist()
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        node, chain = names[q], []
        while node:
            node = (node - 1) // branches
            chain.append(node)
        for kv in range(score.shape[3]):
            keep[q, kv] = names[kv] in chain or (names[kv] == names[q] and kv <= q)
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = ancestor[d[q], d[kv]] and (d[q] != d[kv] or q >= kv), d the document",
    sources=(
        Source("Tree rollouts of reinforcement learning", "shared prefixes on several levels"),
        Source("Branching chats", "one packed sequence for all branches"),
    ),
    mask=document_tree,
    captures=branching,
    parameters={
        "branches": "continuations of each document [count]",
        "levels": "documents from a root to a leaf [count]",
    },
    captured={
        "document": "[S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)",
        "ancestor": "[documents, documents] bool: True where the second leads to the first",
    },
    equivalents=("shared_prefix: two levels", "document with causal: only roots"),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            # # . # . .
            # # . # # .
            # # . # # #
            """,
            given={
                "document": [0, 0, 1, 2, 3, 3],
                "ancestor": [
                    [True, False, False, False],
                    [True, True, False, False],
                    [True, False, True, False],
                    [True, False, True, True],
                ],
            },
        ),
        # The parent may stand after its child: it is seen whole.
        Picture(
            "# . #\n# # #\n. . #",
            given={"document": [1, 1, 0], "ancestor": [[True, False], [True, True]]},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=8192),
)
