"""Packed documents where the inner mask counts positions within each document."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def packed_window(segment: Tensor, position: Tensor, stride: int = 64) -> MaskMod:
    """keep = segment[b, q] == segment[b, kv], causal chunks of stride in position[b]"""

    def mask_mod(b, h, q_idx, kv_idx):
        same = segment[b, q_idx] == segment[b, kv_idx]
        q_at, kv_at = position[b, q_idx], position[b, kv_idx]
        return same & (q_at >= kv_at) & (q_at // stride == kv_at // stride)

    return mask_mod


def documents(sizes: Sizes, count: int = 6) -> dict[str, Tensor]:
    """Cuts at random, other ones in every batch entry; positions begin anew at each."""
    total = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    new = torch.zeros(sizes.batch, total, dtype=torch.int64)
    for row in new:
        row[torch.randperm(total - 1, generator=generator)[: count - 1] + 1] = 1
    at = torch.arange(total)
    start = torch.where(new == 1, at, 0).cummax(1).values
    return {"segment": new.cumsum(1), "position": at - start}


def dense(score: Tensor, segment: Tensor, stride: int) -> Tensor:
    """Each document cut out, its chunks laid down as triangles."""
    keep = torch.zeros(score.shape[0], 1, *score.shape[-2:], dtype=torch.bool)
    for b, row in enumerate(segment.tolist()):
        first = 0
        for at in range(1, len(row) + 1):
            if at == len(row) or row[at] != row[first]:
                for begin in range(first, at, stride):
                    part = keep[b, 0, begin : min(at, begin + stride), begin:at]
                    part.copy_(torch.ones_like(part).tril())
                first = at
    return masked(score, keep)


def model(score: Tensor, position: Tensor, stride: int) -> Tensor:
    """transformers' chunked mask: it finds the documents by positions and remaps indices."""
    from transformers import Llama4TextConfig
    from transformers.masking_utils import create_chunked_causal_mask

    config = Llama4TextConfig(attention_chunk_size=stride)
    options = {"position_ids": position[:, : score.shape[2]]}
    return added(score, model_mask(create_chunked_causal_mask, config, score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = segment[b, q] == segment[b, kv] and inner(position[b, q], position[b, kv])",
    sources=(
        Source("Packed batches", "transformers masking_utils.remap_positions_for_packed_sequence"),
        Source("Packed documents with an inner mask", "attention-gym generate_doc_mask_mod"),
    ),
    mask=packed_window,
    captures=documents,
    parameters={
        "stride": "chunk of the inner mask, counted from each document's start [tokens]",
        "count": "documents packed into each sequence [count]",
    },
    captured={
        "segment": "[B, S] int64: the document each token belongs to, S = max(Q_LEN, KV_LEN)",
        "position": "[B, S] int64: position of each token in its document",
    },
    equivalents=(
        "an inner mask that depends on q - kv alone (causal, a window) needs no positions",
        "attention-gym generate_doc_mask_mod(mask_mod, offsets): the same for one sequence",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            . # . . . .
            . # # . . .
            . . . # . .
            . . . . # .
            . . . . . #
            """,
            given={
                "segment": [[0, 1, 1, 1, 2, 2]],
                "position": [[0, 0, 1, 2, 1, 2]],
                "stride": 2,
            },
        ),
        Picture(
            "# . . .\n# # . .\n. . # .\n. . # #",
            given={
                "segment": [[7, 7, 7, 7], [0, 0, 1, 1]],
                "position": [[0, 1, 2, 3], [0, 1, 0, 1]],
                "stride": 3,
            },
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_chunked_causal_mask(position_ids) (Llama 4)",
            scores=model, sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=83),
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=4096),
    small={"stride": 7, "count": 4},
)  # fmt: skip
