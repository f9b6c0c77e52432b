"""A query sees itself and the window - 1 keys before it."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def sliding_window(window: int = 256) -> MaskMod:
    """keep = 0 <= q - kv < window"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

    return mask_mod


def dense(score: Tensor, window: int) -> Tensor:
    """A band: the lower triangle without the triangle ``window`` rows further down."""
    lower = torch.ones_like(score, dtype=torch.bool).tril()
    return masked(score, lower & ~lower.tril(-window))


def model(score: Tensor, window: int) -> Tensor:
    """The mask Mistral gets, from its configuration."""
    from transformers import MistralConfig
    from transformers.masking_utils import create_sliding_window_causal_mask

    config = MistralConfig(sliding_window=window)
    return added(score, model_mask(create_sliding_window_causal_mask, config, score))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = 0 <= q - kv < window",
    sources=(
        Source("Mistral 7B (window 4096)", "arXiv:2310.06825"),
        Source("Gemma 2 local layers (window 4096)", "arXiv:2408.00118"),
        Source("gpt-oss local layers (window 128)", "arXiv:2508.10925"),
    ),
    mask=sliding_window,
    parameters={"window": "keys visible to one query, itself included [tokens]"},
    equivalents=(
        "transformers sliding_window=W (kv > q - W): the same W keys",
        "torchtitan sliding window (q - kv < W): the same W keys",
        "flash-attn window_size=(W - 1, 0): the same; window_size=(W, 0) shows one key more",
        "attention-gym generate_sliding_window(W) (q - kv <= W): W + 1 keys, one more than here",
    ),
    pictures=(
        Picture(
            """
            # . . . . .
            # # . . . .
            # # # . . .
            . # # # . .
            . . # # # .
            . . . # # #
            """,
            given={"window": 3},
        ),
        Picture(
            """
            # . .
            . # .
            . . #
            """,
            given={"window": 1},
        ),
        Picture(
            """
            # . .
            # # .
            . # #
            . . #
            . . .
            """,
            given={"window": 2},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_sliding_window_causal_mask (Mistral)", scores=model,
            sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"window": 5},
)  # fmt: skip
