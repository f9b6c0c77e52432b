"""Padding keys are seen by no query."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, model_mask


def key_padding(valid: Tensor) -> MaskMod:
    """keep = valid[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return valid[b, kv_idx]

    return mask_mod


def padded_batch(sizes: Sizes, shortest: float = 0.25) -> dict[str, Tensor]:
    """Lengths spread evenly from ``shortest * KV_LEN`` (at least 1) to KV_LEN over the batch."""
    share = torch.linspace(1.0, shortest, sizes.batch)
    length = (share * sizes.kv_len).round().clamp(min=1)
    return {"valid": torch.arange(sizes.kv_len) < length[:, None]}


def dense(score: Tensor, valid: Tensor) -> Tensor:
    """The logarithm of 1 or 0 is added."""
    return score + torch.log(valid[:, None, None].float())


def model(score: Tensor, valid: Tensor) -> Tensor:
    """The mask BERT gets from ones and zeros."""
    from transformers import BertConfig
    from transformers.masking_utils import create_bidirectional_mask

    options = {"attention_mask": valid.long()}
    return added(score, model_mask(create_bidirectional_mask, BertConfig(), score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = valid[b, kv]",
    sources=(
        Source("BERT and every padded encoder", "arXiv:1810.04805"),
        Source("Transformer, cross attention to padded text", "arXiv:1706.03762"),
    ),
    mask=key_padding,
    captures=padded_batch,
    parameters={"shortest": "length of the shortest sequence as a share of KV_LEN [1]"},
    captured={"valid": "[B, KV_LEN] bool: False for a padding key"},
    equivalents=(
        "transformers attention_mask [B, S] of ones and zeros: the same, where 1 means valid",
        "torch MultiheadAttention key_padding_mask: the opposite sense, True means padding",
        "a batch entry with no valid key gives output 0, lse -inf and gradients 0",
    ),
    pictures=(
        Picture(
            """
            # # # .
            # # # .
            # # # .
            # # # .
            """,
            given={"valid": [[True, True, True, False]]},
        ),
        Picture(
            """
            . # . # .
            . # . # .
            """,
            given={"valid": [[True] * 5, [False, True, False, True, False]]},
            batch=1,
        ),
        Picture(
            """
            . . .
            . . .
            """,
            given={"valid": [[False, False, False]]},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_bidirectional_mask (BERT)", scores=model, sizes=SQUARE
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=4, q_len=512),
)
