"""A tree of drafted tokens after a prefix: each sees the prefix and its own branch."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def tree_verification(ancestor: Tensor, prefix: int = 1024) -> MaskMod:
    """keep = kv < prefix or ancestor[q, kv - prefix]"""
    last = ancestor.shape[1] - 1

    def mask_mod(b, h, q_idx, kv_idx):
        node = (kv_idx - prefix).clamp(0, last)
        inside = kv_idx - prefix <= last
        return (kv_idx < prefix) | (inside & ancestor[q_idx, node])

    return mask_mod


def draft(sizes: Sizes, branches: int = 3) -> dict[str, Tensor]:
    """A full tree of ``branches`` children a node, one node for each query, parents first."""
    ancestor = torch.eye(sizes.q_len, dtype=torch.bool)
    for node in range(1, sizes.q_len):
        ancestor[node] |= ancestor[(node - 1) // branches]
    return {"ancestor": ancestor}


def dense(score: Tensor, prefix: int, branches: int) -> Tensor:
    """Walk from every node up to the root."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    keep[:, :prefix] = True
    for q in range(score.shape[2]):
        node = q
        while True:
            if prefix + node < score.shape[3]:
                keep[q, prefix + node] = True
            if node == 0:
                break
            node = (node - 1) // branches
    return masked(score, keep)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = kv < prefix or ancestor[q, kv - prefix]",
    sources=(
        Source("SpecInfer, tree verification", "arXiv:2305.09781"),
        Source("Medusa", "arXiv:2401.10774"),
        Source("EAGLE-2", "arXiv:2406.16858"),
    ),
    mask=tree_verification,
    captures=draft,
    parameters={
        "prefix": "keys of the accepted text, before the drafted ones [tokens]",
        "branches": "drafted continuations of each node [count]",
    },
    captured={
        "ancestor": "[nodes, nodes] bool: True where the second leads to the first, or is it"
    },
    equivalents=(
        "Medusa's tree mask, EAGLE's tree_mask: ancestor, with the prefix laid before it",
        "attention-gym generate_jetspec_tree_causal_mask_mod(prefix, ancestors): the same",
    ),
    pictures=(
        Picture(
            """
            # # # . . .
            # # # # . .
            # # # . # .
            # # # # . #
            """,
            given={
                "prefix": 2,
                "ancestor": [
                    [True, False, False, False],
                    [True, True, False, False],
                    [True, False, True, False],
                    [True, True, False, True],
                ],
            },
        ),
        Picture("# .\n. #", given={"prefix": 0, "ancestor": [[True, False], [False, True]]}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=64, kv_len=1088),
    small={"prefix": 24},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=37, kv_len=61),
)
