"""The block lists, mask_mod and number of queries of a part of a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from flexattn.masks.mods import MaskMod, rebase, rebase_padded
from flexattn.masks.selection import Selection
from flexattn.masks.tables import FULL, PARTIAL, Pair, from_classes, to_classes

Selections = tuple[Selection, Selection, Selection]


def cut(
    partial: Pair,
    full: Pair | None,
    selections: Selections,
    *,
    cols: int,
    q_len: int,
    block: int,
    mask_mod: MaskMod,
) -> tuple[Pair, Pair | None, MaskMod, int]:
    """The part of a mask that ``selections`` (batch, head, rows of blocks) name.

    A last row of blocks that holds fewer than ``block`` queries may be moved up front by a
    list of rows; it is then padded with queries that attend to nothing.
    """
    rows = selections[2].chosen
    last = selections[2].size - 1
    missing = selections[2].size * block - q_len  # queries that the last row of blocks lacks
    padded = missing > 0 and last in rows[:-1]
    new_q_len = len(rows) * block - (missing if len(rows) and rows[-1] == last else 0)
    partial = _take(partial, selections)
    full = None if full is None else _take(full, selections)
    if padded and full is not None:
        short = torch.tensor([row == last for row in rows], device=partial[0].device)
        partial, full = _demote(partial, full, short, cols)
    return partial, full, _mod(mask_mod, selections, partial, block, q_len, padded), new_q_len


def _take(pair: Pair, selections: Selections) -> Pair:
    counts, indices = pair
    for dim, selection in enumerate(selections):
        if not selection.is_all:
            counts, indices = selection.take(counts, dim), selection.take(indices, dim)
    return counts, indices


def _demote(partial: Pair, full: Pair, rows: Tensor, cols: int) -> tuple[Pair, Pair | None]:
    """The full blocks of ``rows`` (bool) become partial, so that mask_mod is asked there."""
    classes = to_classes(partial, full, cols)
    lowered = torch.where((classes == FULL) & rows[:, None], PARTIAL, classes)
    return from_classes(lowered, separate_full=True)


def _mod(
    mod: MaskMod, selections: Selections, pair: Pair, block: int, q_len: int, padded: bool
) -> MaskMod:
    batch, heads, rows = selections
    if all(selection.is_all for selection in selections):
        return mod
    device = pair[0].device
    b_map, h_map = batch.entry_map(device), heads.entry_map(device)
    q_map = rows.block_map(block, device)
    if padded:
        return rebase_padded(mod, b_map, h_map, q_map, q_len)
    return rebase(mod, b_map, h_map, q_map)
