"""The attention variants that the GPU suite measures: mods, captured tensors, pairs kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

WINDOW = 1024
CAP = 30.0
REACH = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; bfloat16."""

    B: int
    Hq: int
    Hkv: int
    M: int
    N: int
    D: int
    dtype: torch.dtype = torch.bfloat16

    @property
    def kv_bytes(self) -> int:
        """Bytes of key and value together."""
        return 2 * self.B * self.Hkv * self.N * self.D * self.dtype.itemsize

    @property
    def q_bytes(self) -> int:
        """Bytes of the query, and of the output."""
        return self.B * self.Hq * self.M * self.D * self.dtype.itemsize

    def tiny(self) -> Shape:
        """A shape of the same kind for rehearsals: seconds on a CPU, also when interpreted."""
        group = min(2, self.Hq // self.Hkv)
        N = 48 + self.N // 8192
        M = N if self.M == self.N else min(self.M, 8)
        B = min(self.B, 2)
        return replace(self, B=B, Hq=group, Hkv=1, M=M, N=N, D=min(self.D // 4, 32))

    def facts(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("B", "Hq", "Hkv", "M", "N", "D")}


@dataclass
class Mods:
    """What a variant gives to one call.

    Attributes:
        learned: Captured tensors that want a gradient.
        peers: What other libraries take instead of mods, by argument name; None where they
            cannot compute the variant.
    """

    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None
    learned: list[Tensor] = field(default_factory=list)
    peers: dict[str, Any] | None = None


@dataclass(frozen=True)
class Variant:
    """One row of the table below.

    Attributes:
        make: Its mods for a shape on a device.
        pairs: (query, key) pairs that one head keeps; FLOPs are counted on these.
    """

    make: Callable[[Shape, torch.device], Mods]
    pairs: Callable[[Shape], float]


def causal_mask(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Keys up to the query itself."""
    return q_idx >= kv_idx


def softcap_score(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Scores bounded by ``CAP``, written as its users write it."""
    return CAP * torch.tanh(score / CAP)


def _full(shape: Shape, device: torch.device) -> Mods:
    return Mods(peers={})


def _causal(shape: Shape, device: torch.device) -> Mods:
    return Mods(mask_mod=causal_mask, peers={"causal": True})


def _window(shape: Shape, device: torch.device) -> Mods:
    window = window_of(shape)

    def sliding_window(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

    return Mods(mask_mod=sliding_window, peers={"causal": True, "window_size": (window - 1, 0)})


def window_of(shape: Shape) -> int:
    return min(WINDOW, max(1, shape.N // 2))


def _softcap(shape: Shape, device: torch.device) -> Mods:
    return Mods(softcap_score, causal_mask, peers={"causal": True, "softcap": CAP})


def _alibi(shape: Shape, device: torch.device) -> Mods:
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / shape.Hq) for h in range(shape.Hq)])
    slopes = slopes.to(device)

    def alibi(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score - slopes[h] * (q_idx - kv_idx)

    return Mods(alibi, causal_mask, peers={"causal": True, "alibi_slopes": slopes})


def document_lengths(total: int) -> list[int]:
    """The lengths of packed documents: about eight, some long, the same for every run."""
    generator = random.Random(0)
    weights = [generator.expovariate(1.0) + 0.05 for _ in range(min(8, total))]
    cuts = [round(total * sum(weights[: i + 1]) / sum(weights)) for i in range(len(weights))]
    lengths = [b - a for a, b in zip([0, *cuts], cuts)]
    return [length for length in lengths if length]


def _document(shape: Shape, device: torch.device) -> Mods:
    lengths = torch.tensor(document_lengths(shape.N), device=device)
    document = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    document = document.to(torch.int32)

    def causal_document(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return (q_idx >= kv_idx) & (document[q_idx] == document[kv_idx])

    return Mods(mask_mod=causal_document)


def _relative(shape: Shape, device: torch.device) -> Mods:
    last = shape.N - 1
    table = torch.randn(shape.Hq, shape.M + shape.N - 1, device=device).requires_grad_()

    def relative_bias(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score + table[h, q_idx - kv_idx + last]

    return Mods(relative_bias, causal_mask, [table])


def _clipped(shape: Shape, device: torch.device) -> Mods:
    reach = min(REACH, shape.N // 4)
    table = torch.randn(shape.Hq, 2 * reach + 1, device=device).requires_grad_()

    def clipped_bias(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score + table[h, (q_idx - kv_idx).clamp(-reach, reach) + reach]

    return Mods(clipped_bias, causal_mask, [table])


def _pair_bias(shape: Shape, device: torch.device) -> Mods:
    bias = torch.randn(shape.Hq, shape.M, shape.N, device=device).requires_grad_()

    def pair_bias(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score + bias[h, q_idx, kv_idx]

    return Mods(pair_bias, None, [bias])


def _tail(shape: Shape, device: torch.device) -> Mods:
    """Decoding of several tokens: the last query sees every key, the one before all but one."""
    ahead = shape.N - shape.M

    def causal_tail(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return q_idx + ahead >= kv_idx

    return Mods(mask_mod=causal_tail, peers={"causal": True, "bottom_right": True})


def all_pairs(shape: Shape) -> float:
    return float(shape.M * shape.N)


def causal_pairs(shape: Shape) -> float:
    return shape.M * (shape.M + 1) / 2


def _window_pairs(shape: Shape) -> float:
    window = window_of(shape)
    return window * (window + 1) / 2 + (shape.M - window) * window


def _document_pairs(shape: Shape) -> float:
    return sum(length * (length + 1) / 2 for length in document_lengths(shape.N))


def _tail_pairs(shape: Shape) -> float:
    return shape.M * shape.N - shape.M * (shape.M - 1) / 2


VARIANTS: dict[str, Variant] = {
    "full": Variant(_full, all_pairs),
    "causal": Variant(_causal, causal_pairs),
    "window 1024": Variant(_window, _window_pairs),
    "causal document": Variant(_document, _document_pairs),
    "soft-cap": Variant(_softcap, causal_pairs),
    "alibi": Variant(_alibi, causal_pairs),
    "relative bias": Variant(_relative, causal_pairs),
    "clipped relative bias": Variant(_clipped, causal_pairs),
    "pair bias": Variant(_pair_bias, all_pairs),
    "causal tail": Variant(_tail, _tail_pairs),
}


def flops(shape: Shape, variant: str) -> float:
    """Useful operations of the forward pass: two products over the pairs kept."""
    return 4.0 * shape.B * shape.Hq * shape.D * VARIANTS[variant].pairs(shape)
