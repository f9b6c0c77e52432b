"""Documents packed into one sequence: a query sees the keys of its own document."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def document(document_id: Tensor) -> MaskMod:
    """keep = document_id[b, q] == document_id[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return document_id[b, q_idx] == document_id[b, kv_idx]

    return mask_mod


def packed_documents(sizes: Sizes, documents: int = 6) -> dict[str, Tensor]:
    """Document numbers 0, 1, … with cuts drawn at random, others in every batch entry."""
    length = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randint(1, max(2, length), (sizes.batch, documents - 1), generator=generator)
    starts = torch.zeros(sizes.batch, length + 1, dtype=torch.int64)
    starts.scatter_add_(1, cuts, torch.ones_like(cuts))
    return {"document_id": starts[:, :length].cumsum(1)}


def dense(score: Tensor, document_id: Tensor) -> Tensor:
    """Products of one-hot rows: 1 where two tokens share their document."""
    one_hot = torch.nn.functional.one_hot(document_id)
    q_len, kv_len = score.shape[-2:]
    return masked(score, (one_hot[:, :q_len] @ one_hot[:, :kv_len].mT)[:, None] == 1)


def model(score: Tensor, document_id: Tensor) -> Tensor:
    """transformers' function for packed sequences."""
    from transformers.masking_utils import packed_sequence_mask_function

    index = torch.meshgrid(*(torch.arange(score.shape[i]) for i in (0, 2, 3)), indexing="ij")
    keep = packed_sequence_mask_function(document_id)(index[0], 0, index[1], index[2])
    return masked(score, keep[:, None])


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = document_id[b, q] == document_id[b, kv]",
    sources=(
        Source("Packed pre-training (T5)", "arXiv:1910.10683"),
        Source("NaViT, images packed into one sequence", "arXiv:2307.06304"),
    ),
    mask=document,
    captures=packed_documents,
    parameters={"documents": "documents packed into each sequence [count]"},
    captured={
        "document_id": "[B, S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)"
    },
    equivalents=(
        "attention-gym generate_doc_mask_mod(mask_mod, offsets): the same from offsets [D + 1], "
        "with the inner mask on positions inside the document",
        "flash-attn varlen with cu_seqlens = offsets: the same",
        "transformers packed_sequence_mask_function(sequence_ids): the same",
    ),
    pictures=(
        Picture(
            """
            # # # . . .
            # # # . . .
            # # # . . .
            . . . # . .
            . . . . # #
            . . . . # #
            """,
            given={"document_id": [[0, 0, 0, 1, 2, 2]]},
        ),
        Picture(
            """
            # . # .
            . # . #
            # . # .
            . # . #
            """,
            given={"document_id": [[9, 9, 9, 9], [0, 1, 0, 1]]},
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers packed_sequence_mask_function", scores=model),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"documents": 3},
)
