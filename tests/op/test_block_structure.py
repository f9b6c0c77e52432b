"""Masks made from closed forms: the tables are PyTorch's, whatever the captures look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask as torch_block_mask

from flexattn import create_block_mask, errors

OFFSET = torch.tensor(50)
NARROW = (torch.arange(200) // 30).to(torch.uint8)
TEXT = torch.where(torch.arange(200) % 50 < 9, -1, torch.arange(200) // 50)
HUGE = torch.arange(200) // 40 + (1 << 40)
SPARSE = torch.arange(200) // 40 * 10_000_000
LENGTHS = torch.tensor([3, 120])
NARROW_WINDOWS = torch.tensor([5, 0])

MASKS: dict[str, Callable[..., Any]] = {
    "captured number": lambda b, h, q, k: q + OFFSET >= k,
    "captured true": lambda b, h, q, k: (q >= k) & torch.tensor(True),
    "no window": lambda b, h, q, k: (q >= k) & (q - k < 0),
    "negative window": lambda b, h, q, k: (q >= k) & (q - k < -7),
    "bytes": lambda b, h, q, k: NARROW[q] == NARROW[k],
    "text": lambda b, h, q, k: (TEXT[q] == TEXT[k]) & (TEXT[q] >= 0),
    "huge ids": lambda b, h, q, k: HUGE[q] == HUGE[k],
    "sparse ids": lambda b, h, q, k: (SPARSE[q] == SPARSE[k]) & (q >= k),
    "lengths": lambda b, h, q, k: (k < LENGTHS[b]) & (q < LENGTHS[b]),
    "narrow windows": lambda b, h, q, k: (q >= k) & (q - k < NARROW_WINDOWS[b]),
    "around": lambda b, h, q, k: (q - k).abs() < NARROW_WINDOWS[b],
    "dilated": lambda b, h, q, k: ((q - k) % 64 == 0) & (q >= k),
    "chunks": lambda b, h, q, k: (q + 3) // 48 == (k + 3) // 48,
    "negative chunks": lambda b, h, q, k: q // -48 == k // -48,
    "products": lambda b, h, q, k: q * 65536 * 65536 >= k * 65536 * 65536,
}
TABLES = [f"{full}{side}_{part}" for full in ("", "full_") for side in ("kv", "q")
          for part in ("num_blocks", "indices")]  # fmt: skip


@pytest.mark.parametrize("block", [(32, 32), (16, 48)])
@pytest.mark.parametrize("lengths", [(200, 200), (133, 190)])
@pytest.mark.parametrize("name", MASKS)
def test_the_tables_are_pytorchs(
    name: str, lengths: tuple[int, int], block: tuple[int, int]
) -> None:
    ours = create_block_mask(MASKS[name], 2, 1, *lengths, device="cpu", BLOCK_SIZE=block)
    theirs = torch_block_mask(MASKS[name], 2, 1, *lengths, device="cpu", BLOCK_SIZE=block)
    for table in TABLES:
        assert torch.equal(getattr(ours, table), getattr(theirs, table)), table


def test_an_index_outside_is_an_error() -> None:
    short = torch.arange(100)
    with pytest.raises(errors.IndexOutOfRangeError, match="index 100 of dimension 0"):
        create_block_mask(lambda b, h, q, k: short[q] >= k, None, None, 128, 128)


LONG = torch.arange(900) // 70
RUN = (torch.arange(900) >= 300) & (torch.arange(900) < 420)
ORDER = torch.arange(900) // 2 * 3 % 400


@pytest.mark.parametrize(
    "mask",
    [
        lambda b, h, q, k: (LONG[q + 256] == LONG[k + 256]) & (q >= k),
        lambda b, h, q, k: RUN[k + 256] & (q >= k - 30),
        lambda b, h, q, k: RUN[2 * k],
        lambda b, h, q, k: LONG[700 - k] <= LONG[700 - q],
        lambda b, h, q, k: LONG[ORDER[q]] == LONG[ORDER[k]],
        lambda b, h, q, k: LONG[k // 2 + 300] >= LONG[q // 2 + 300],
    ],
)
def test_tables_are_read_beyond_the_lengths(mask: Callable[..., Any]) -> None:
    for lengths in ((200, 200), (133, 190), (1, 1)):
        ours = create_block_mask(mask, 1, 1, *lengths, device="cpu", BLOCK_SIZE=32)
        theirs = torch_block_mask(mask, 1, 1, *lengths, device="cpu", BLOCK_SIZE=32)
        for table in TABLES:
            assert torch.equal(getattr(ours, table), getattr(theirs, table)), table


def test_the_mask_mod_of_a_part_makes_that_part_again() -> None:
    whole = create_block_mask(
        lambda b, h, q, k: (LONG[q] == LONG[k]) & (q >= k), None, None, 896, 896, BLOCK_SIZE=64
    )
    part = whole[:, :, 4:8, 4:8]
    again = create_block_mask(part.mask_mod, None, None, 256, 256, BLOCK_SIZE=64)
    assert part.sparsity() == again.sparsity() > 0
    assert torch.equal(part.to_dense(), again.to_dense())


@pytest.mark.parametrize("backend", [None, "cpp", "eager"])
def test_float64_is_compared_as_such(backend: str | None) -> None:
    close = 1 + torch.rand(64, dtype=torch.float64) * 1e-9
    options = {} if backend is None else {"backend": backend}
    for mask in (lambda b, h, q, k: close[q] >= close[k], lambda b, h, q, k: close[q] > close[k]):
        ours = create_block_mask(mask, 1, 1, 64, 64, device="cpu", BLOCK_SIZE=16, **options)
        theirs = torch_block_mask(mask, 1, 1, 64, 64, device="cpu", BLOCK_SIZE=16)
        for table in TABLES:
            assert torch.equal(getattr(ours, table), getattr(theirs, table)), table
