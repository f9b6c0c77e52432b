"""Masks combined like sets: causal and (local or early), with a word for not."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.causal import causal
from attention_gym.recipes.document import document, packed_documents
from attention_gym.recipes.sliding_window import sliding_window
from attention_gym.reference import masked
from flexattn import and_masks, not_mask, or_masks


def early(first: int) -> MaskMod:
    """keep = kv < first"""

    def mask_mod(b, h, q_idx, kv_idx):
        return kv_idx < first

    return mask_mod


def mask_algebra(
    document_id: Tensor, window: int = 256, first: int = 16, outside: bool = False
) -> MaskMod:
    """keep = causal and (window or early) and document, or with outside: not document"""
    same = document(document_id)
    near = or_masks(sliding_window(window), early(first))
    return and_masks(causal(), near, not_mask(same) if outside else same)


def dense(score: Tensor, document_id: Tensor, window: int, first: int, outside: bool) -> Tensor:
    """Sets of pairs, united and cut in Python."""
    out = torch.zeros(score.shape[0], 1, *score.shape[-2:], dtype=torch.bool)
    for b, names in enumerate(document_id.tolist()):
        for q in range(score.shape[2]):
            before = set(range(min(q + 1, score.shape[3])))
            local = {kv for kv in before if q - kv < window} | {kv for kv in before if kv < first}
            mine = {kv for kv in before if names[kv] == names[q]}
            seen = local - mine if outside else local & mine
            out[b, 0, q, sorted(seen)] = True
    return masked(score, out)


RECIPE = Recipe(
    family="systems",
    formula="keep = causal & (window | early) & document, or & ~document",
    sources=(
        Source("JAX Splash attention masks", "splash_attention_mask.py"),
        Source("FlexAttention and_masks, or_masks", "torch.nn.attention.flex_attention"),
    ),
    mask=mask_algebra,
    captures=packed_documents,
    parameters={
        "window": "keys visible to one query, itself included [tokens]",
        "first": "keys that every later query sees [tokens]",
        "outside": "only keys of other documents",
        "documents": "documents packed into each sequence [count]",
    },
    captured={
        "document_id": "[B, S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)"
    },
    equivalents=(
        "Splash CausalMask & LocalMask | ...: the same operators",
        "order matters: causal & (window | early) is not (causal & window) | early, which would "
        "show early keys to queries before them",
    ),
    pictures=(
        Picture(
            """
            # . . . .
            # # . . .
            # . # . .
            . . . # .
            . . . . #
            """,
            given={"document_id": [[0, 0, 0, 1, 1]], "window": 1, "first": 1, "outside": False},
        ),
        Picture(
            """
            . . . .
            . . . .
            # # . .
            # . . .
            """,
            given={"document_id": [[0, 0, 1, 1]], "window": 2, "first": 1, "outside": True},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"outside": True}),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=4096),
    small={"window": 6, "first": 3, "documents": 3},
)
