"""The masks whose building is timed: each can be made anew with other numbers and other ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LENGTHS = (4096, 8192, 16384, 32768, 131072, 1048576)
"""Tokens; powers of two, as in the target table."""


@dataclass(frozen=True)
class Case:
    """A kind of mask.

    Attributes:
        make: (tokens, turn) to a fresh mask_mod; another turn has other numbers, other ids.
        B: Batches, or None for a mask that all share.
        H: Heads, or None.
        lengths: Tokens it is built for.
        sides: Tokens to (Q_LEN, KV_LEN); both are the tokens by default.
    """

    name: str
    make: Callable[[int, int], Callable[..., Any]]
    B: int | None = None
    H: int | None = None
    lengths: tuple[int, ...] = LENGTHS
    sides: Callable[[int], tuple[int, int]] | None = None

    def shape(self, tokens: int) -> tuple[int, int, int, int]:
        """(B, H, Q_LEN, KV_LEN)."""
        q_len, kv_len = (tokens, tokens) if self.sides is None else self.sides(tokens)
        return self.B or 1, self.H or 1, q_len, kv_len


def documents(tokens: int, turn: int, batches: int = 1) -> Tensor:
    """Sorted ids int64 [batches, tokens] of documents of 64 to 8,192 tokens each."""
    generator = torch.Generator().manual_seed(turn)
    most = tokens // 64 + 1
    lengths = torch.randint(64, 8193, (batches, most), generator=generator)
    starts = torch.zeros(batches, tokens + 1, dtype=torch.int64)
    starts.scatter_(1, lengths.cumsum(1).clamp_(max=tokens), 1)
    return starts[:, :tokens].cumsum(1)


def causal(tokens: int, turn: int) -> Callable[..., Any]:
    return lambda b, h, q_idx, kv_idx: q_idx >= kv_idx


def sliding_window(tokens: int, turn: int) -> Callable[..., Any]:
    window = min(4096, tokens // 4) + turn
    return lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < window)


def prefix_lm(tokens: int, turn: int) -> Callable[..., Any]:
    prefix = tokens // 8 + turn
    return lambda b, h, q_idx, kv_idx: (kv_idx < prefix) | (q_idx >= kv_idx)


def chunked(tokens: int, turn: int) -> Callable[..., Any]:
    chunk = min(8192, tokens // 4) + turn
    return lambda b, h, q_idx, kv_idx: (q_idx // chunk == kv_idx // chunk) & (q_idx >= kv_idx)


def sink_window(tokens: int, turn: int) -> Callable[..., Any]:
    sink, window = 4 + turn, min(4096, tokens // 4) + turn
    return lambda b, h, q_idx, kv_idx: (
        (q_idx >= kv_idx) & ((kv_idx < sink) | (q_idx - kv_idx < window))
    )


def causal_document(tokens: int, turn: int) -> Callable[..., Any]:
    ids = documents(tokens, turn)[0]
    return lambda b, h, q_idx, kv_idx: (ids[q_idx] == ids[kv_idx]) & (q_idx >= kv_idx)


def document_batch(tokens: int, turn: int) -> Callable[..., Any]:
    ids = documents(tokens, turn, 64)
    return lambda b, h, q_idx, kv_idx: (ids[b, q_idx] == ids[b, kv_idx]) & (q_idx >= kv_idx)


CASES = (
    Case("causal", causal),
    Case("sliding window", sliding_window),
    Case("prefix-LM", prefix_lm),
    Case("chunked", chunked),
    Case("sink + window", sink_window),
    Case("causal & document", causal_document),
    Case("64 batches of documents x 32 heads", document_batch, 64, 32, (4096, 32768)),
)
