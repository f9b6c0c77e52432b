"""Block lists as PyTorch's index tables, and as one value per block.

A table pair describes, for every row, the blocks it lists::

    counts   int32 [B, H, rows]          how many
    indices  int32 [B, H, rows, width]   their columns first; entries from counts on mean nothing

PyTorch's tables are as wide as the mask has columns, listed columns ascending and the others,
ascending, behind them. B and H of 1 serve every batch and head; expanded (stride 0) dimensions
are kept so, and cost no memory.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Pair: TypeAlias = tuple[Tensor, Tensor]

EMPTY, PARTIAL, FULL = 0, 1, 2
"""Classes of blocks: nothing kept; the mask_mod decides; everything kept."""


PIECE = 1 << 20
"""Blocks converted at once."""


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def to_pair(listed: Tensor) -> Pair:
    """The table pair that lists the true entries of ``listed`` (bool [B, H, rows, cols])."""

    frame = listed.shape[:2]
    (listed,) = distinct_heads(listed)
    columns = torch.arange(listed.shape[-1], dtype=torch.int32, device=listed.device)
    counts = listed.sum(-1, dtype=torch.int32)
    indices = torch.empty(listed.shape, dtype=torch.int32, device=listed.device)
    for rows in _row_ranges(listed):
        some = listed[:, :, rows]
        before = some.cumsum(-1)  # listed entries up to and with this one
        others = counts[:, :, rows].unsqueeze(-1) + columns - before
        place = torch.where(some, before - 1, others)
        indices[:, :, rows].scatter_(-1, place, columns.expand(some.shape))
    return counts.expand(*frame, -1), indices.expand(*frame, -1, -1)


def to_listed(pair: Pair, cols: int) -> Tensor:
    """Which blocks ``pair`` lists: bool [B, H, rows, cols]."""
    frame = pair[0].shape[:2]
    counts, indices = distinct_heads(*pair)
    valid = torch.arange(indices.shape[-1], device=indices.device) < counts.unsqueeze(-1)
    # What a row does not list is written to one column more, which is cut off.
    target = torch.where(valid, indices, cols).long()
    listed = torch.zeros((*counts.shape, cols + 1), dtype=torch.bool, device=indices.device)
    return listed.scatter_(-1, target, True)[..., :cols].expand(*frame, -1, -1)


def transpose(pair: Pair, cols: int) -> Pair:
    """The same blocks listed by column: counts [B, H, cols], indices [B, H, cols, rows]."""
    return to_pair(to_listed(pair, cols).transpose(-1, -2))


def to_classes(partial: Pair, full: Pair | None, cols: int) -> Tensor:
    """EMPTY, PARTIAL or FULL per block: uint8 [B, H, rows, cols]; FULL where both lists name it."""
    listed = [to_listed(pair, cols) for pair in (partial, full) if pair is not None]
    frame = listed[0].shape[:2]
    listed = distinct_heads(*listed)
    classes = listed[0].to(torch.uint8)
    if full is not None:
        classes[listed[1]] = FULL
    return classes.expand(*frame, -1, -1)


def from_classes(classes: Tensor, separate_full: bool) -> tuple[Pair, Pair | None]:
    """Tables of partial and of full blocks; one table of both unless ``separate_full``."""
    frame = classes.shape[:2]
    (classes,) = distinct_heads(classes)

    def listed(chosen: Tensor) -> Pair:
        counts, indices = to_pair(chosen)
        return counts.expand(*frame, -1), indices.expand(*frame, -1, -1)

    if separate_full:
        return listed(classes == PARTIAL), listed(classes == FULL)
    return listed(classes != EMPTY), None


def widen(pair: Pair, cols: int) -> Pair:
    """``pair`` with indices exactly ``cols`` wide, as PyTorch wants them."""
    return pair if pair[1].shape[-1] == cols else to_pair(to_listed(pair, cols))


def distinct_heads(*tables: Tensor) -> list[Tensor]:
    """``tables`` with one entry of each of B and H along which all of them repeat themselves."""
    found = list(tables)
    for d in (0, 1):
        if all(table.shape[d] > 1 and table.stride(d) == 0 for table in tables):
            found = [table.narrow(d, 0, 1) for table in found]
    return found


def _row_ranges(blocks: Tensor) -> list[slice]:
    """Ranges of rows of about ``PIECE`` blocks, so that int64 temporaries stay small."""
    rows = blocks.shape[2]
    step = max(1, PIECE * rows // max(1, blocks.numel()))
    return [slice(start, start + step) for start in range(0, rows, step)]
