"""What masks mean, pair by pair, by brute force: the oracle of the mask tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def documents(length: int, size: int) -> Callable[..., Any]:
    """A mask_mod that reads captured tensors: same document, or same parity of batch and head."""
    ids = torch.arange(length + 64) // size
    flips = torch.arange(8) % 3 == 0
    return lambda b, h, q, kv: (ids[q] == ids[kv]) | (flips[(b + h) % 8] & (q == kv + 1))


MODS: dict[str, Callable[..., Any]] = {
    "causal": lambda b, h, q, kv: q >= kv,
    "window": lambda b, h, q, kv: (q - kv < 5) & (q >= kv),
    "prefix": lambda b, h, q, kv: kv < 7 + b,
    "heads": lambda b, h, q, kv: (q + h) % 4 >= kv % (h + 2),
    "all": lambda b, h, q, kv: q >= 0,
    "none": lambda b, h, q, kv: q < 0,
    "documents": documents(200, 6),
    "noise": lambda b, h, q, kv: (q * 31 + kv * 17 + b * 5 + h * 3) % 7 != 0,
}


def dense_mod(mod: Callable[..., Any], shape: tuple[int, int, int, int]) -> Tensor:
    """``mod`` of every index of ``shape``, called once per batch and head with plain tensors."""
    batch, heads, queries, keys = shape
    out = torch.zeros(shape, dtype=torch.bool)
    q, kv = torch.arange(queries)[:, None], torch.arange(keys)[None]
    for b in range(batch):
        for h in range(heads):
            out[b, h] = mod(torch.tensor(b), torch.tensor(h), q, kv)
    return out


def dense(mask: Any) -> Tensor:
    """The block list and the mask_mod of ``mask`` together, read off its tables one by one."""
    batch, heads = mask.shape[:2]
    q_block, kv_block = mask.BLOCK_SIZE
    kept = dense_mod(mask.mask_mod, mask.shape)
    out = torch.zeros_like(kept)
    for counts, indices, full in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        if counts is None:
            continue
        for b in range(batch):
            for h in range(heads):
                for row, columns in enumerate(indices[b, h].tolist()):
                    for column in columns[: counts[b, h, row]]:
                        q = slice(row * q_block, (row + 1) * q_block)
                        kv = slice(column * kv_block, (column + 1) * kv_block)
                        out[b, h, q, kv] = True if full else kept[b, h, q, kv]
    return out
