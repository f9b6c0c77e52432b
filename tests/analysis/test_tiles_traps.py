"""Masks at the edges of arithmetic and of tiles, where a careless proof is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tile_truth import assert_sound, evaluate, prove

from flexattn.analysis.runs import to_classes
from flexattn.errors import ModReturnError, TracedBranchError
from flexattn.op.blocks import block_runs
from flexattn.op.symbolic import bind_mask

TOP = 2**63 - 1
NANS = torch.where(torch.arange(100) % 9 == 0, float("nan"), torch.arange(100) * 0.5)
TABLE = torch.randint(0, 9, (100,), generator=torch.Generator().manual_seed(0))

BYTES = torch.randint(0, 256, (100,), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
IDS = (torch.rand(100, generator=torch.Generator().manual_seed(2)) < 0.1).cumsum(0)
ODD_IDS = IDS * 2 + 1
FLAGS = torch.rand(100, generator=torch.Generator().manual_seed(3)) < 0.05
PAIRS = torch.rand(100, 100, generator=torch.Generator().manual_seed(4)) < 0.02
REAL = torch.rand(100, generator=torch.Generator().manual_seed(5))

TRAPS: dict[str, Callable[..., Any]] = {
    "sum wraps": lambda b, h, q, k: q + TOP >= k,
    "both sums wrap": lambda b, h, q, k: q + TOP >= k + (TOP - 30),
    "distance wraps": lambda b, h, q, k: q - k + TOP > 5,
    "constants add up": lambda b, h, q, k: (
        sum(((q + 2**39) * 2**19 - (q - 2**39) * 2**19 for _ in range(8)), q) >= k
    ),
    "lowest distance": lambda b, h, q, k: q - k - TOP - 1 < 5,
    "product wraps": lambda b, h, q, k: q * 2**62 > k,
    "product divided again": lambda b, h, q, k: (q * 2**40 * 2**40) // 2**40 == k,
    "mixed product wraps": lambda b, h, q, k: (q * k) * 2**58 > 5,
    "steps wrap": lambda b, h, q, k: torch.where(q % 2 == 0, TOP, -TOP - 1) == k,
    "product beyond 32 bits": lambda b, h, q, k: q * 65536 * 65536 > k * 2**31,
    "sum beyond 32 bits": lambda b, h, q, k: (q + 2**31 - 50) > k + 2**31 - 1,
    "byte widens": lambda b, h, q, k: BYTES[q].long() + 200 > k * 3 + 250,
    "negative quotient": lambda b, h, q, k: (q - 50) // -7 >= (k - 50) // 7,
    "negative remainder": lambda b, h, q, k: (q - 50) % 7 == (k - 60) % 7,
    "remainder by a negative": lambda b, h, q, k: (q - 50) % -7 > (k - 60) % -3,
    "quotient towards zero": lambda b, h, q, k: (
        torch.div(q - 50, 7, rounding_mode="trunc") >= torch.div(k - 50, 7, rounding_mode="trunc")
    ),
    "remainder of both": lambda b, h, q, k: (k - q - 3) % 64 < 20,
    "divisor that varies": lambda b, h, q, k: q // (k + 1) > 2,
    "shift of a negative": lambda b, h, q, k: (q - k) >> 3 > -3,
    "shift that wraps": lambda b, h, q, k: (q << 58) > k,
    "shift by a varying count": lambda b, h, q, k: (q >> (k % 5)) > 9,
    "float beyond 2**24": lambda b, h, q, k: (q + 2**24).float() > (k + 2**24).float(),
    "quotient of floats": lambda b, h, q, k: q / 3 > k / 7,
    "nan": lambda b, h, q, k: NANS[q] < NANS[k],
    "not nan": lambda b, h, q, k: ~(NANS[q] < NANS[k]),
    "negative index": lambda b, h, q, k: TABLE[q - k] > 4,
    "index that wraps once": lambda b, h, q, k: TABLE[q - 3] > TABLE[k - 1],
    "not of an integer": lambda b, h, q, k: ~q < -k,
    "not of a bool": lambda b, h, q, k: ~FLAGS[q] & (q >= k),
    "bits of integers": lambda b, h, q, k: ((q & 3) & (k & 4)) > -1,
    "bits of both": lambda b, h, q, k: (q & k) == 0,
    "negative bits": lambda b, h, q, k: ((q - 50) & (k - 50)) > 3,
    "where that agrees with itself": lambda b, h, q, k: (
        torch.where(q > 40, 1, 0) > torch.where(q > 40, 0, 1)
    ),
    "branches that exclude each other": lambda b, h, q, k: (
        torch.where(q > k, q - k, k - q) < torch.where(q > k, 3, 9)
    ),
    "contradiction": lambda b, h, q, k: (TABLE[q] == k) & (TABLE[q] != k),
    "tautology": lambda b, h, q, k: (TABLE[q] == k) | ~(TABLE[q] == k),
    "no guard survives": lambda b, h, q, k: (q > 1000) & (TABLE[q] != TABLE[k]),
    "few guards survive": lambda b, h, q, k: FLAGS[q] & (TABLE[q] != TABLE[k]),
    "ranges that meet with no value in common": lambda b, h, q, k: ODD_IDS[q] == ODD_IDS[k] + 1,
    "ids of one table, moved": lambda b, h, q, k: IDS[q] == IDS[torch.clamp(k + 7, max=99)],
    "table whose indices leave values out": lambda b, h, q, k: PAIRS[q % 2 * 50, k % 3 * 30],
    "table with sparse pairs": lambda b, h, q, k: PAIRS[q, k],
    "diagonals cut off at the end": lambda b, h, q, k: (q - k) % 32 == 31,
    "diagonals beyond the end": lambda b, h, q, k: q - k >= 90,
    "unknown on both sides": lambda b, h, q, k: torch.exp(REAL[q]) + REAL[k] > 2.0,
    "unknown beside a row's end": lambda b, h, q, k: (
        (q // 25 == k // 25) & (q % 25 >= k % 25) & (torch.exp(REAL[q]) > 1.5)
    ),
    "never": lambda b, h, q, k: q < 0,
    "strictly causal": lambda b, h, q, k: q > k,
    "all": lambda b, h, q, k: q >= 0,
    "all but the last": lambda b, h, q, k: (q < 99) | (k < 99),
}


@pytest.mark.parametrize("block", [(16, 16), (32, 8), (128, 128)])
@pytest.mark.parametrize("lengths", [(100, 100), (65, 97), (1, 100), (100, 1), (96, 96)])
@pytest.mark.parametrize("trap", TRAPS)
def test_no_claim_is_wrong(trap: str, lengths: tuple[int, int], block: tuple[int, int]) -> None:
    shape = (1, 1, *lengths)
    assert_sound(prove(TRAPS[trap], shape, block), evaluate(TRAPS[trap], shape), block)


@pytest.mark.parametrize("length", [32768, 1 << 20])
def test_products_of_long_sequences_are_those_of_64_bits(length: int) -> None:
    """q * k leaves 32 bits at 46,341 squared; every class is held against single pairs."""
    masks = (
        lambda b, h, q, k: q * k > 2**31 + 5,
        lambda b, h, q, k: (q * 65536) > (k * 65536) + 2**33,
        lambda b, h, q, k: (q * q) // 65536 >= k,
    )
    g = torch.Generator().manual_seed(0)
    for mod in masks:
        runs = block_runs(bind_mask(mod), (1, 1, length, length), (128, 128), torch.device("cpu"))
        rows = torch.randint(0, length // 128, (40,), generator=g).tolist()
        for row in rows:
            part = runs.part(row, row + 1)
            classes = to_classes(part)[0, 0]
            q = torch.arange(row * 128, row * 128 + 128)[:, None]
            for col in torch.randint(0, length // 128, (20,), generator=g).tolist():
                k = torch.arange(col * 128, col * 128 + 128)
                kept = mod(0, 0, q, k)
                assert classes[col] == int(kept.any()) + int(kept.all()), (row, col)


def test_conditions_chained_or_branched_on_are_refused() -> None:
    for mod in (
        lambda b, h, q, k: 0 <= q - k < 5,
        lambda b, h, q, k: k if q > 3 else q >= k,
        lambda b, h, q, k: max(q, k) > 3,
    ):
        with pytest.raises(TracedBranchError, match="branches on a traced value"):
            bind_mask(mod)


def test_integers_are_no_mask() -> None:
    with pytest.raises(ModReturnError):
        bind_mask(lambda b, h, q, k: (q & 3) & (k & 4))
