"""Causal attention within chunks of fixed length, counted from each sequence's first real token."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def chunked_causal(left_padding: Tensor, chunk: int = 1024) -> MaskMod:
    """keep = q >= kv and (q - left_padding[b]) // chunk == (kv - left_padding[b]) // chunk"""

    def mask_mod(b, h, q_idx, kv_idx):
        start = left_padding[b]
        return (q_idx >= kv_idx) & ((q_idx - start) // chunk == (kv_idx - start) // chunk)

    return mask_mod


def padded_left(sizes: Sizes, longest: int = 100) -> dict[str, Tensor]:
    """No padding in the first sequence, up to ``longest`` tokens in the last."""
    share = torch.linspace(0, 1, sizes.batch) if sizes.batch > 1 else torch.zeros(1)
    return {"left_padding": (share * min(longest, sizes.q_len - 1)).long()}


def dense(score: Tensor, left_padding: Tensor, chunk: int) -> Tensor:
    """Cuts of each sequence; a query sees back to its last cut."""
    keep = torch.zeros(score.shape[0], 1, *score.shape[-2:], dtype=torch.bool)
    for b, start in enumerate(left_padding.tolist()):
        cuts = {0, *range(start % chunk, score.shape[2], chunk)}
        for q in range(score.shape[2]):
            keep[b, 0, q, max(c for c in cuts if c <= q) : q + 1] = True
    return masked(score, keep)


def model(score: Tensor, left_padding: Tensor, chunk: int) -> Tensor:
    """Llama 4's chunked layers; padded keys, which they drop too, are put back."""
    from transformers import Llama4TextConfig
    from transformers.masking_utils import create_chunked_causal_mask

    config = Llama4TextConfig(attention_chunk_size=chunk)
    real = torch.arange(score.shape[3]) >= left_padding[:, None]
    made = model_mask(create_chunked_causal_mask, config, score, attention_mask=real.long())
    got = added(score, made)
    return torch.where(real[:, None, None], got, dense(score, left_padding, chunk))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv and (q - pad[b]) // chunk == (kv - pad[b]) // chunk",
    sources=(
        Source("Llama 4 (chunk 8192)", "transformers models/llama4"),
        Source("JAX Splash ChunkedCausalMask", "splash_attention_mask.py"),
    ),
    mask=chunked_causal,
    captures=padded_left,
    parameters={
        "chunk": "keys of a chunk [tokens]",
        "longest": "padding before the shortest sequence [tokens]",
    },
    captured={"left_padding": "[B] int64: tokens of padding before each sequence"},
    equivalents=(
        "transformers attention_chunk_size: the same, and padded keys are dropped as well",
        "without padding: block by block causal, as document with documents of equal length",
    ),
    pictures=(
        Picture(
            """
            # . . . .
            # # . . .
            # # # . .
            . . . # .
            . . . # #
            """,
            given={"left_padding": [0, 1], "chunk": 3},
        ),
        Picture(
            """
            # . . . .
            . # . . .
            . # # . .
            . # # # .
            . . . . #
            """,
            given={"left_padding": [0, 1], "chunk": 3},
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_chunked_causal_mask (Llama 4)", scores=model, sizes=SQUARE
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=4096),
    small={"chunk": 9, "longest": 5},
)
