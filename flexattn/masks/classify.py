"""Sorts blocks into empty, partial and full by evaluating a mask on every pair, in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from flexattn.masks.tables import EMPTY, FULL, PARTIAL, cdiv

Evaluate: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Indices b [B, 1, 1, 1], h [1, H, 1, 1], q_idx [1, 1, Q, 1] and kv_idx [1, 1, 1, KV] (int64) to
a bool tensor that broadcasts to [B, H, Q, KV]."""

PIECE = 1 << 20
"""Pairs evaluated at once. An int64 value of each is 8 MB, and a mask needs a few."""

Range: TypeAlias = tuple[int, int]


def classify(
    evaluate: Evaluate,
    shape: tuple[int, int, int, int],
    block: tuple[int, int],
    device: torch.device,
    *,
    piece: int = PIECE,
) -> Tensor:
    """EMPTY, PARTIAL or FULL per block: uint8 [B, H, rows, cols] for ``shape`` = [B, H, Q, KV].

    A block that reaches beyond the lengths is never FULL, as in PyTorch. At most about
    ``piece`` pairs are evaluated at once.
    """
    batch, heads, queries, keys = shape
    rows, cols = cdiv(queries, block[0]), cdiv(keys, block[1])
    kept = torch.zeros((batch, heads, rows, cols), dtype=torch.int64, device=device)
    for (b0, b1), (h0, h1), (q0, q1), (k0, k1) in pieces(shape, block, piece):
        found = evaluate(*grid((b0, b1), (h0, h1), (q0, q1), (k0, k1), device))
        found = found.expand(b1 - b0, h1 - h0, q1 - q0, k1 - k0)
        counts = _sum_groups(_count_rows(found, block[0]), 3, block[1])
        at = (slice(q0 // block[0], cdiv(q1, block[0])), slice(k0 // block[1], cdiv(k1, block[1])))
        kept[b0:b1, h0:h1, at[0], at[1]] += counts
    full = kept == block[0] * block[1]
    return torch.where(full, FULL, (kept != 0).to(torch.uint8) * (PARTIAL - EMPTY)).to(torch.uint8)


def lower_edges(classes: Tensor, lengths: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """FULL becomes PARTIAL, in place, in blocks that reach beyond the lengths, as in PyTorch."""
    for dim in (0, 1):
        if lengths[dim] % block[dim]:
            edge = classes.select(dim - 2, -1)
            edge.masked_fill_(edge == FULL, PARTIAL)
    return classes


def grid(b: Range, h: Range, q: Range, kv: Range, device: torch.device) -> tuple[Tensor, ...]:
    """The four index tensors of these ranges, each along its own dimension."""
    return tuple(
        torch.arange(*bounds, device=device).reshape([-1 if d == axis else 1 for d in range(4)])
        for axis, bounds in enumerate((b, h, q, kv))
    )


def pieces(
    shape: tuple[int, int, int, int], block: tuple[int, int], most: int
) -> Iterator[tuple[Range, Range, Range, Range]]:
    """Boxes that cover ``shape``, each of whole blocks or inside one, of ``most`` pairs or less."""
    batch, heads, queries, keys = shape
    if not all(shape):
        return
    key_step = min(keys, most)
    key_ranges = list(_ranges(keys, block[1], key_step))
    query_step = min(queries, max(1, most // key_step))
    query_ranges = list(_ranges(queries, block[0], query_step))
    head_step = min(heads, max(1, most // (key_step * query_step)))
    batch_step = max(1, most // (key_step * query_step * head_step))
    for b in _ranges(batch, 1, batch_step):
        for h in _ranges(heads, 1, head_step):
            for q in query_ranges:
                for kv in key_ranges:
                    yield b, h, q, kv


def _ranges(length: int, block: int, most: int) -> Iterator[Range]:
    """Ranges over ``length`` of at most ``most``, that cut no block but to lie inside one."""
    if most >= block:
        step = most // block * block
        yield from ((at, min(at + step, length)) for at in range(0, length, step))
        return
    for start in range(0, length, block):
        end = min(start + block, length)
        yield from ((at, min(at + most, end)) for at in range(start, end, most))


def _count_rows(found: Tensor, block: int) -> Tensor:
    """True entries of each column in each group of ``block`` rows: int [B, H, groups, keys]."""
    if block > 255 or found.shape[-1] % 8:
        return _sum_groups(found, 2, block)
    # Eight bytes are summed in one int64; a byte holds a count of up to 255.
    words = found.contiguous().view(torch.uint8).view(torch.int64)
    return _sum_groups(words, 2, block).view(torch.uint8)


def _sum_groups(values: Tensor, dim: int, block: int) -> Tensor:
    """Sums of each group of ``block`` entries along ``dim``; the last group may be short."""
    length = values.shape[dim]
    whole = length // block * block
    before, after = values.shape[:dim], values.shape[dim + 1 :]
    groups = []
    if whole:
        full = values.narrow(dim, 0, whole).reshape(*before, whole // block, block, *after)
        groups.append(full.sum(dim + 1, dtype=torch.int64))
    if whole < length:
        groups.append(values.narrow(dim, whole, length - whole).sum(dim, True, dtype=torch.int64))
    return torch.cat(groups, dim)
