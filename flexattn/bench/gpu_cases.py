"""Every row of the GPU suite, with how much it matters: when time runs out, the last are left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flexattn.bench.gpu_contest import Contest, Place, Row
from flexattn.bench.gpu_machine import copy, launches, masks, matmul, new_mods
from flexattn.bench.gpu_variants import Shape

TOKENS = 16384  # of one batch of shorter sequences together
FLEX = ("torch_flex",)
DECODERS = ("torch_flex", "sdpa_flash", "sdpa_cudnn")


@dataclass(frozen=True)
class Case:
    """One row, or a few that belong together.

    Attributes:
        rank: 0 for what a target is set for; rows of higher rank are left out first.
        contest: What to compare; None where ``measure`` says how.
    """

    name: str
    rank: int
    contest: Contest | None = None
    measure: Callable[[Place], Iterable[Row]] | None = None


def _self(
    length: int, D: int = 128, heads: int | None = None, kv_heads: int | None = None
) -> Shape:
    """Self-attention: 2,048 columns of query, batches that hold ``TOKENS`` tokens."""
    Hq = heads or 2048 // D
    return Shape(max(1, TOKENS // length), Hq, kv_heads or Hq, length, length, D)


def _decode(B: int, keys: int, tokens: int = 1, D: int = 128) -> Shape:
    return Shape(B, 64, 8, tokens, keys, D)


def _attention() -> Iterator[tuple[int, Contest]]:
    """Forward and backward, (rank, contest)."""
    doc, cap = "causal document", "soft-cap"
    plain = {"ours_without_mod": ("causal", _self(8192))}
    yield 0, Contest("forward", "causal", _self(16384))
    yield 0, Contest("backward", "causal", _self(8192))
    yield 0, Contest("forward", doc, _self(16384), peers=FLEX)
    yield 0, Contest("forward", cap, _self(8192), plain, peers=("torch_flex", "flash_attn"))
    yield 0, Contest("backward", "relative bias", _self(4096), peers=FLEX)
    yield 0, Contest("forward", "causal", _self(8192))
    yield 0, Contest("backward", "causal", _self(16384))
    yield 1, Contest("forward", "full", _self(8192))
    yield 1, Contest("backward", doc, _self(16384), peers=FLEX)
    yield 1, Contest("backward", "pair bias", _self(4096, heads=4), peers=FLEX)
    yield 1, Contest("backward", cap, _self(8192), plain, peers=("torch_flex", "flash_attn"))
    window = ("torch_flex", "flash_attn")
    for group in ("forward", "backward"):
        yield 1, Contest(group, "window 1024", _self(16384), peers=window)
        yield 1, Contest(group, "causal", _self(8192, D=64))
        yield 1, Contest(group, "causal", _self(8192, heads=64, kv_heads=8))
        yield 1, Contest(group, "causal", _self(8192, D=256))
        yield 1, Contest(group, "alibi", _self(8192), peers=window)
    yield 1, Contest("backward", "full", _self(8192))
    yield 1, Contest("backward", "clipped relative bias", _self(4096), peers=FLEX)
    yield 1, Contest("forward", "relative bias", _self(8192), peers=FLEX)
    for length in (2048, 4096, 32768):
        yield 2, Contest("forward", "causal", _self(length))
        yield 2, Contest("backward", "causal", _self(length))
    for group in ("forward", "backward"):
        yield 3, Contest(group, "full", _self(16384))
        yield 3, Contest(group, "full", _self(2048, D=64))
        yield 3, Contest(group, "full", _self(8192, D=256))


def _decoding() -> Iterator[tuple[int, Contest]]:
    one = {"ours_one_token": ("full", _decode(8, 32768))}
    yield 0, Contest("decode", "full", _decode(8, 32768), peers=DECODERS)
    yield 0, Contest("decode", "full", _decode(8, 32768, 8), one, peers=DECODERS)
    yield 1, Contest("decode", "full", _decode(32, 32768), peers=DECODERS)
    yield 1, Contest("decode", "causal tail", _decode(8, 32768, 8), one, peers=FLEX)
    yield 1, Contest("decode", "full", _decode(1, 8192), peers=DECODERS)
    yield 1, Contest("decode", "full", _decode(8, 131072), peers=DECODERS)
    yield 2, Contest("decode", "full", _decode(8, 8192), peers=DECODERS)
    yield 2, Contest("decode", "full", _decode(1, 131072), peers=DECODERS)
    yield 2, Contest("decode", "full", _decode(8, 8192, 8), peers=DECODERS)
    yield 2, Contest("decode", "full", _decode(8, 131072, 8), peers=DECODERS)


def _machine() -> Iterator[Case]:
    def one(measure: Callable[..., Row], *arguments: object) -> Callable[[Place], Iterable[Row]]:
        return lambda place: [measure(place, *arguments)]

    yield Case("ceiling copy", -1, measure=one(copy))
    yield Case("ceiling matmul", -1, measure=one(matmul))
    yield Case("new mods", 0, measure=new_mods)
    yield Case("launches", 0, measure=one(launches))
    for rank, kind, length in (
        (1, "causal", 8192),
        (1, "causal", 1 << 20),
        (1, "causal document", 131072),
        (2, "causal document", 1 << 20),
        (2, "scattered", 32768),
        (2, "causal", 32768),
        (3, "causal", 131072),
    ):
        yield Case(f"mask {kind} {length}", rank, measure=one(masks, kind, length))


@functools.cache
def cases() -> tuple[Case, ...]:
    """All rows, the most important first."""
    contests = [
        Case(contest.name, rank, contest) for rank, contest in (*_attention(), *_decoding())
    ]
    return tuple(sorted((*_machine(), *contests), key=lambda case: case.rank))
