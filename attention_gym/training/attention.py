"""The attentions that the training job compares, all with the same document and causal mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attention_gym.recipe import MaskMod
from attention_gym.recipes.tanh_softcap import tanh_softcap
from attention_gym.training.model import Attend
from flexattn import create_block_mask, flex_attention


def causal_document(document: Tensor) -> MaskMod:
    """keep = q >= kv and document[b, q] == document[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (document[b, q_idx] == document[b, kv_idx])

    return mask_mod


def dense_mask(document: Tensor) -> Tensor:
    """The same as a bool tensor [B, 1, S, S]."""
    same = document[:, None, :, None] == document[:, None, None, :]
    return same.tril()


def flex(document: Tensor, cap: float | None) -> Attend:
    batch, length = document.shape
    mask = create_block_mask(causal_document(document), batch, None, length, length, device="cpu")
    score_mod = None if cap is None else tanh_softcap(cap)
    return lambda q, k, v: flex_attention(q, k, v, score_mod=score_mod, block_mask=mask)


def sdpa(document: Tensor, cap: float | None) -> Attend:
    if cap is not None:
        raise ValueError("scaled_dot_product_attention has no place for a soft cap")
    mask = dense_mask(document)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def dense(document: Tensor, cap: float | None) -> Attend:
    mask = dense_mask(document)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        return torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1) @ value

    return attend


@dataclass(frozen=True)
class Contender:
    """One row of the speed table.

    Attributes:
        name: What is shown.
        prepare: (document [B, S], cap or None) -> attention; run once a step, for all layers.
        capped: Whether it computes the model that is trained (soft cap), or the one without.
    """

    name: str
    prepare: Callable[[Tensor, float | None], Attend]
    capped: bool


CONTENDERS = (
    Contender("flex_attention", flex, True),
    Contender("matmul, tanh, softmax with a dense mask", dense, True),
    Contender("flex_attention", flex, False),
    Contender("scaled_dot_product_attention with a dense mask", sdpa, False),
)
