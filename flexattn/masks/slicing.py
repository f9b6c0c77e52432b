"""A part of a mask: its blocks, its mask_mod and its lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flexattn.masks import grids
from flexattn.masks.mods import MaskMod, rebase
from flexattn.masks.selection import Selection
from flexattn.masks.tables import Pair

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask

Selections = tuple[Selection, Selection, Selection, Selection]


def cut(mask: BlockMask, selections: Selections) -> BlockMask:
    """The part of a mask that ``selections`` (batch, head, rows, columns of blocks) name.

    A last row (column) of blocks that is not filled may be moved up front by a list; it is then
    padded with queries (keys) that attend to (are attended to by) nothing.
    """
    lengths, block = mask.seq_lengths, mask.BLOCK_SIZE
    axes = tuple(zip(selections[2:], lengths, block))
    new = tuple(_new_length(*axis) for axis in axes)
    padded = tuple(_is_padded(*axis) for axis in axes)
    limits = tuple(length if pad else None for length, pad in zip(lengths, padded))
    mod = _mod(mask.mask_mod, selections, mask.device, block, (limits[0], limits[1]))
    fields = {"mask_mod": mod, "seq_lengths": new}
    given = mask._given
    if isinstance(given, tuple) and selections[3].is_all and not (any(padded) and mask._has_full):
        full = None if mask._full is None else _take(mask._full, selections)
        return mask._with(_take(mask._partial, selections), full, **fields)
    grid = grids.pick(grids.grid_of(mask), selections)
    if any(padded):
        short = (
            _places(selection) if pad else [] for selection, pad in zip(selections[2:], padded)
        )
        grid = grids.combine(grid, grids.mark(grid, *short), grids.NOT_FULL)
    frame = tuple(len(selection.chosen) for selection in selections[:2])
    return grids.with_grid(mask, grid, (frame[0], frame[1]), **fields)


def _missing(selection: Selection, length: int, block: int) -> int:
    """Queries (keys) that the last row (column) of blocks lacks."""
    return selection.size * block - length


def _new_length(selection: Selection, length: int, block: int) -> int:
    chosen = selection.chosen
    ragged = len(chosen) > 0 and chosen[-1] == selection.size - 1
    return len(chosen) * block - (_missing(selection, length, block) if ragged else 0)


def _is_padded(selection: Selection, length: int, block: int) -> bool:
    """Whether a last row (column) that is not filled comes before another one."""
    missing = _missing(selection, length, block)
    return missing > 0 and selection.size - 1 in selection.chosen[:-1]


def _take(pair: Pair, selections: Selections) -> Pair:
    counts, indices = pair
    for dim, selection in enumerate(selections[:3]):
        if not selection.is_all:
            counts, indices = selection.take(counts, dim), selection.take(indices, dim)
    return counts, indices


def _places(selection: Selection) -> list[int]:
    """Where the last row (column) was moved to."""
    last = selection.size - 1
    return [at for at, entry in enumerate(selection.chosen) if entry == last]


def _mod(
    mod: MaskMod,
    selections: Selections,
    device: torch.device,
    block: tuple[int, int],
    limits: tuple[int | None, int | None],
) -> MaskMod:
    if all(selection.is_all for selection in selections):
        return mod
    batch, heads, rows, columns = selections
    return rebase(
        mod,
        batch.entry_map(device),
        heads.entry_map(device),
        rows.block_map(block[0], device),
        columns.block_map(block[1], device),
        limits,
    )
