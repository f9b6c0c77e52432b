"""Masks at the edges of arithmetic and of tiles, where a careless proof is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tile_truth import assert_sound, evaluate, prove

TOP = 2**63 - 1
NANS = torch.where(torch.arange(100) % 9 == 0, float("nan"), torch.arange(100) * 0.5)
TABLE = torch.randint(0, 9, (100,), generator=torch.Generator().manual_seed(0))

TRAPS: dict[str, Callable[..., Any]] = {
    "sum wraps": lambda b, h, q, k: q + TOP >= k,
    "both sums wrap": lambda b, h, q, k: q + TOP >= k + (TOP - 30),
    "product wraps": lambda b, h, q, k: q * 2**62 > k,
    "product divided again": lambda b, h, q, k: (q * 2**40 * 2**40) // 2**40 == k,
    "mixed product wraps": lambda b, h, q, k: (q * k) * 2**58 > 5,
    "negative quotient": lambda b, h, q, k: (q - 50) // -7 >= (k - 50) // 7,
    "negative remainder": lambda b, h, q, k: (q - 50) % 7 == (k - 60) % 7,
    "remainder of both": lambda b, h, q, k: (k - q - 3) % 64 < 20,
    "shift of a negative": lambda b, h, q, k: (q - k) >> 3 > -3,
    "nan": lambda b, h, q, k: NANS[q] < NANS[k],
    "not nan": lambda b, h, q, k: ~(NANS[q] < NANS[k]),
    "negative index": lambda b, h, q, k: TABLE[q - k] > 4,
    "contradiction": lambda b, h, q, k: (TABLE[q] == k) & (TABLE[q] != k),
    "no guard survives": lambda b, h, q, k: (q > 1000) & (TABLE[q] != TABLE[k]),
    "never": lambda b, h, q, k: q < 0,
    "strictly causal": lambda b, h, q, k: q > k,
    "all": lambda b, h, q, k: q >= 0,
}


@pytest.mark.parametrize("block", [(16, 16), (32, 8), (128, 128)])
@pytest.mark.parametrize("lengths", [(100, 100), (65, 97), (1, 100), (100, 1), (96, 96)])
@pytest.mark.parametrize("trap", TRAPS)
def test_no_claim_is_wrong(trap: str, lengths: tuple[int, int], block: tuple[int, int]) -> None:
    shape = (1, 1, *lengths)
    assert_sound(prove(TRAPS[trap], shape, block), evaluate(TRAPS[trap], shape), block)
