"""Packed documents, causal: each query sees the keys from its document's start on."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def packed_causal(start: Tensor, document: Tensor) -> MaskMod:
    """keep = start[document[q]] <= kv <= q"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (kv_idx >= start[document[q_idx]]) & (q_idx >= kv_idx)

    return mask_mod


def lengths(sizes: Sizes, documents: int = 6) -> dict[str, Tensor]:
    """Cuts at random; offsets as flash-attn takes them, without the last."""
    total = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randperm(total - 1, generator=generator)[: documents - 1].sort().values + 1
    start = torch.cat([torch.zeros(1, dtype=torch.int64), cuts])
    document = torch.searchsorted(start, torch.arange(total), right=True) - 1
    return {"start": start, "document": document}


def dense(score: Tensor, start: Tensor) -> Tensor:
    """One triangle per document."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    ends = [*start.tolist()[1:], max(score.shape[-2:])]
    for first, end in zip(start.tolist(), ends, strict=True):
        part = keep[first:end, first:end]
        part.copy_(torch.ones_like(part).tril())
    return masked(score, keep)


def model(score: Tensor, start: Tensor, document: Tensor) -> Tensor:
    """transformers' causal mask for positions that begin anew: it finds the documents itself."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask

    length = score.shape[2]
    position = torch.arange(length) - start[document[:length]]
    options = {"position_ids": position.expand(score.shape[0], -1)}
    return added(score, model_mask(create_causal_mask, LlamaConfig(), score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = start[document[q]] <= kv <= q",
    sources=(
        Source("Packed pre-training of decoders", "torchtitan/models/attention.py"),
        Source("Llama 3, packed with a document mask", "arXiv:2407.21783"),
    ),
    mask=packed_causal,
    captures=lengths,
    parameters={"documents": "documents packed into the sequence [count]"},
    captured={
        "start": "[documents] int64: first token of each document",
        "document": "[S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)",
    },
    equivalents=(
        "and_masks(causal, document): the same; here the row is one stretch of keys",
        "flash-attn varlen with causal=True and cu_seqlens = start: the same",
        "attention-gym generate_packed_causal_doc_mask_mod(offsets): the same",
    ),
    pictures=(
        Picture(
            """
            # . . . .
            # # . . .
            . . # . .
            . . # # .
            . . # # #
            """,
            given={"start": [0, 2], "document": [0, 0, 1, 1, 1]},
        ),
        Picture("# . .\n. # .\n. . #", given={"start": [0, 1, 2], "document": [0, 1, 2]}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(position_ids) (Llama)", scores=model,
            sizes=Sizes(batch=1, heads=4, kv_heads=2, q_len=83),
        ),
    ),
    sizes=Sizes(q_len=8192),
    small={"documents": 4},
)  # fmt: skip
