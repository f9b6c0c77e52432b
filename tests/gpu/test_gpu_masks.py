"""create_block_mask on the device against the dense mask: proofs, evaluated blocks, odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_device import BACKEND, DEVICE, length
from torch import Tensor

from flexattn import BlockMask, create_block_mask

LENGTH = length(1543, 181)


def _document(size: int) -> Tensor:
    starts = torch.rand(size, device=DEVICE) < 0.01
    return starts.long().cumsum(0)


def _causal(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: q >= k


def _window(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: (q >= k) & (q - k < 97)


def _documents(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: data[q] == data[k]


def _scattered(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: (q * 31 + k * 17) * (q + 3 * k + 1 + h) % 61 == b


def _noise(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: (data[q] * 7 + data[k] * 3 + b) % 5 == h


def _all(data: Tensor) -> Callable[..., Any]:
    return lambda b, h, q, k: (q >= 0) & (k >= 0)


MASKS = [_causal, _window, _documents, _scattered, _noise, _all]


def blocks_of(mask: BlockMask) -> Tensor:
    """0, 1, 2 for empty, partial and full blocks: [B, H, rows, columns]."""
    rows, columns = mask.kv_num_blocks.shape[-1], mask.kv_indices.shape[-1]
    found = torch.zeros(*mask.kv_num_blocks.shape[:2], rows, columns + 1, dtype=torch.int64)
    lists = ((1, mask.kv_num_blocks, mask.kv_indices),)
    if mask.full_kv_num_blocks is not None:
        lists += ((2, mask.full_kv_num_blocks, mask.full_kv_indices),)
    for value, num, indices in lists:
        num, indices = num.cpu().long(), indices.cpu().long()
        listed = torch.arange(indices.shape[-1]) < num[..., None]
        found.scatter_(3, torch.where(listed, indices, columns), value)
        assert (num <= indices.shape[-1]).all()
    return found[..., :columns]


def dense_blocks(mask_mod: Any, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    B, H, M, N = shape
    grid = torch.meshgrid(*(torch.arange(n, device=DEVICE) for n in shape), indexing="ij")
    kept = mask_mod(*grid).expand(shape)
    rows, columns = -(-M // block[0]), -(-N // block[1])
    padding = (0, columns * block[1] - N, 0, rows * block[0] - M)
    some = torch.nn.functional.pad(kept, padding, value=False)
    every = torch.nn.functional.pad(kept, padding, value=True)
    view = (B, H, rows, block[0], columns, block[1])
    return (some.view(view).any(5).any(3).long() + every.view(view).all(5).all(3).long()).cpu()


@pytest.mark.parametrize("backend", [None, BACKEND])
@pytest.mark.parametrize("block", [(128, 128), (64, 200), (33, 16)])
@pytest.mark.parametrize("mask", MASKS)
def test_blocks(mask: Callable[..., Any], block: tuple[int, int], backend: str | None) -> None:
    shape = (2, 3, LENGTH, LENGTH - 40)
    mask_mod = mask(_document(LENGTH))
    made = create_block_mask(mask_mod, *shape, device=DEVICE, BLOCK_SIZE=block, backend=backend)
    assert made.kv_indices.device.type == DEVICE.type
    want = dense_blocks(mask_mod, shape, block)
    found = blocks_of(made).expand_as(want)
    # An edge block that is kept whole may be listed as partial, never the other way round.
    edge = torch.zeros_like(want, dtype=torch.bool)
    edge[..., -1, :] |= bool(shape[2] % block[0])
    edge[..., :, -1] |= bool(shape[3] % block[1])
    same = (found == want) | (edge & (want == 2) & (found == 1))
    assert same.all(), f"{int((~same).sum())} blocks differ"


def test_device_is_that_of_the_captures() -> None:
    made = create_block_mask(_documents(_document(256)), None, None, 256, 256)
    assert made.kv_num_blocks.device.type == DEVICE.type


def test_memory_is_bounded() -> None:
    """65,536 tokens that no proof decides: the pairs alone would be 4 GB."""
    if DEVICE.type != "cuda":
        pytest.skip("measures the memory of a GPU")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    create_block_mask(_scattered(torch.empty(0)), None, None, 65536, 65536, device=DEVICE)
    assert torch.cuda.max_memory_allocated() - before < 300e6
