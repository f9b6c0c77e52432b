"""The block lists, mask_mod and lengths of a part of a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from flexattn.masks.mods import MaskMod, rebase
from flexattn.masks.selection import Selection
from flexattn.masks.tables import FULL, PARTIAL, Pair, distinct_heads, from_classes, to_classes

Selections = tuple[Selection, Selection, Selection, Selection]


def cut(
    partial: Pair,
    full: Pair | None,
    selections: Selections,
    *,
    lengths: tuple[int, int],
    block: tuple[int, int],
    mask_mod: MaskMod,
) -> tuple[Pair, Pair | None, MaskMod, tuple[int, int]]:
    """The part of a mask that ``selections`` (batch, head, rows, columns of blocks) name.

    A last row (column) of blocks that is not filled may be moved up front by a list; it is then
    padded with queries (keys) that attend to (are attended to by) nothing.
    """
    axes = tuple(zip(selections[2:], lengths, block))
    new = tuple(_new_length(*axis) for axis in axes)
    padded = tuple(_is_padded(*axis) for axis in axes)
    partial = _take(partial, selections)
    full = None if full is None else _take(full, selections)
    columns = selections[3]
    if not columns.is_all or (any(padded) and full is not None):
        frame = partial[0].shape[:2]
        (classes,) = distinct_heads(to_classes(partial, full, columns.size))
        classes = columns.take(classes, 3).expand(*frame, -1, -1)
        tables = from_classes(_demote(classes, selections, padded), full is not None)
        partial, full = tables
    limits = tuple(length if pad else None for length, pad in zip(lengths, padded))
    mod = _mod(mask_mod, selections, partial[0].device, block, (limits[0], limits[1]))
    return partial, full, mod, (new[0], new[1])


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


def _demote(classes: Tensor, selections: Selections, padded: tuple[bool, ...]) -> Tensor:
    """Padded rows and columns of full blocks become partial, so that mask_mod is asked there."""
    for dim, selection, pad in zip((2, 3), selections[2:], padded):
        if pad:
            last = selection.size - 1
            places = [at for at, entry in enumerate(selection.chosen) if entry == last]
            short = torch.zeros(len(selection.chosen), dtype=torch.bool, device=classes.device)
            short[places] = True
            short = short[:, None] if dim == 2 else short
            classes = torch.where((classes == FULL) & short, PARTIAL, classes)
    return classes


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
