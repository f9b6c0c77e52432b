"""The suite masks: block masks built with fresh closures, beside PyTorch's builder and alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

from flexattn.bench.mask_builds import (
    first_seconds,
    fresh_timing,
    peer_fits,
    resident_peak,
    shares,
    stored_bytes,
    traced_peak,
)
from flexattn.bench.mask_cases import CASES, Case
from flexattn.op.create import create_block_mask

BLOCK = (128, 128)
BUILDS = 3  # ours per round: a build takes less than a millisecond
PEER_ROUNDS = 3  # PyTorch's builder takes seconds
NOT_MEASURED = "–"


def masks(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Milliseconds and megabytes to build masks of 4 thousand to a million tokens."""
    for case in CASES:
        for tokens in case.lengths:
            yield mask_row(case, tokens, rounds, peers)
            tick()


def steps() -> int:
    """Rows of the suite."""
    return sum(len(case.lengths) for case in CASES)


def mask_row(case: Case, tokens: int, rounds: int, peers: bool) -> dict[str, Any]:
    """One mask at one length: the first build, later ones, memory, shares, PyTorch's builder."""
    turns = count()
    ours = _builds(case, tokens, turns, create_block_mask)
    first = first_seconds(next(ours))
    for _ in range(2):  # a number that differs from call to call becomes an argument
        next(ours)()
    later = fresh_timing(ours, BUILDS * rounds)
    gc.collect()
    row: dict[str, Any] = {
        "mask": case.name,
        "tokens": tokens,
        "first_ms": 1e3 * first,
        "ours_ms": 1e3 * later.median,
        "spread": later.spread,
        "peak_mb": traced_peak(next(ours)) / 1e6,
        "resident_mb": _megabytes(resident_peak(next(ours))),
        "stored_mb": _megabytes(stored_bytes(next(ours)())),
        "torch_ms": NOT_MEASURED,
        "torch_resident_mb": NOT_MEASURED,
        "over_torch": NOT_MEASURED,
    }
    if peers and peer_fits(case.shape(tokens)):
        from torch.nn.attention.flex_attention import create_block_mask as peer

        theirs = _builds(case, tokens, turns, peer)
        row["torch_resident_mb"] = _megabytes(resident_peak(next(theirs)))
        timing = fresh_timing(theirs, min(rounds, PEER_ROUNDS))
        noisy = timing.noisy or later.noisy
        row["torch_ms"] = 1e3 * timing.median
        row["over_torch"] = None if noisy else timing.median / later.median
    found = shares(case.make(tokens, next(turns)), case.shape(tokens), BLOCK)
    return row | {stage.replace(" ", "_"): share for stage, share in found.items()}


def _builds(
    case: Case, tokens: int, turns: Iterator[int], create: Callable[..., Any]
) -> Iterator[Callable[[], Any]]:
    """Calls that build the mask, each with a closure of its own."""
    for turn in turns:
        mod = case.make(tokens, turn)
        sides = case.shape(tokens)[2:]
        yield partial(create, mod, case.B, case.H, *sides, device="cpu", BLOCK_SIZE=BLOCK[0])


def _megabytes(size: int | None) -> float | str:
    return NOT_MEASURED if size is None else size / 1e6
