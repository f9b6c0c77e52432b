"""Packed documents with a causal sliding window: all three rules must hold."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.document import packed_documents
from attention_gym.reference import masked


def causal_window_document(document_id: Tensor, window: int = 256) -> MaskMod:
    """keep = 0 <= q - kv < window and document_id[b, q] == document_id[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        causal = q_idx >= kv_idx
        near = q_idx - kv_idx < window
        same = document_id[b, q_idx] == document_id[b, kv_idx]
        return causal & near & same

    return mask_mod


def dense(score: Tensor, document_id: Tensor, window: int) -> Tensor:
    """Row by row: from the document's first key, or the window's, up to the query."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b in range(score.shape[0]):
        for q in range(score.shape[2]):
            first = int((document_id[b] == document_id[b, q]).nonzero()[0])
            keep[b, :, q, max(first, q - window + 1) : q + 1] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = 0 <= q - kv < window and document_id[b, q] == document_id[b, kv]",
    sources=(
        Source("Mistral 7B window, trained on packed sequences", "arXiv:2310.06825"),
        Source("torchtitan packed training", "torchtitan/models/attention.py"),
    ),
    mask=causal_window_document,
    captures=packed_documents,
    parameters={
        "window": "keys visible to one query, itself included [tokens]",
        "documents": "documents packed into each sequence [count]",
    },
    captured={
        "document_id": "[B, S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)"
    },
    equivalents=(
        "flash-attn varlen with causal=True, window_size=(W - 1, 0): the same",
        "flexattn and_masks(sliding_window, document): the same",
        "attention-gym generate_sliding_window(W) inside a document mask: W + 1 keys, one more",
    ),
    pictures=(
        Picture(
            """
            # . . . . . .
            # # . . . . .
            . # # . . . .
            . . # # . . .
            . . . . # . .
            . . . . # # .
            . . . . . # #
            """,
            given={"document_id": [[0, 0, 0, 0, 1, 1, 1]], "window": 2},
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"window": 5, "documents": 3},
)
