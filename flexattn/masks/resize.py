"""A mask for other lengths: cropped from its blocks, or grown by asking its mask_mod."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from flexattn.analysis.runs import Runs
from flexattn.errors import BlockMaskError
from flexattn.masks import grids
from flexattn.masks.grids import Grid
from flexattn.masks.mods import MaskMod, identity_map, offset_map, rebase
from flexattn.masks.selection import Selection
from flexattn.masks.tables import cdiv

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask

Classify: TypeAlias = Callable[
    [MaskMod, tuple[int, int, int, int], tuple[int, int], torch.device], Grid
]
"""(mask_mod, (B, H, Q_LEN, KV_LEN), BLOCK_SIZE, device) to the blocks that the mask_mod keeps."""

_classifiers: list[Classify] = []


def register_classifier(classify: Classify) -> Classify:
    """Name the function that evaluates a mask_mod: `op/create.py`'s, which stands above."""
    _classifiers.append(classify)
    return classify


def resize(mask: BlockMask, new: tuple[int, int]) -> BlockMask:
    """``mask`` for lengths ``new`` = (Q_LEN, KV_LEN).

    Blocks that the old lengths fill stay in the list they were in. Where new queries or keys
    appear, the mask_mod decides, as in a mask made for these lengths; it is asked there alone.
    """
    old, block = mask.seq_lengths, mask.BLOCK_SIZE
    rows, cols = (
        cdiv(after, size) if after <= before else before // size
        for before, after, size in zip(old, new, block)
    )
    sizes = (*mask._heads, mask._rows, mask._cols)
    kept = (range(sizes[0]), range(sizes[1]), range(rows), range(cols))
    grid = grids.pick(grids.grid_of(mask), list(map(Selection, sizes, kept)))
    if new[0] > old[0] or new[1] > old[1]:
        if not _classifiers:
            raise BlockMaskError(
                f"a mask for lengths {old} cannot grow to {new}.",
                why="nothing is loaded that evaluates a mask_mod.",
                fix="import flexattn first.",
            )
        inner = rows * block[0], cols * block[1]
        if inner[0] < new[0]:
            under = _ask(mask, (inner[0], new[0]), (0, min(inner[1], new[1])))
            grid = grids.below(grid, under)
        if inner[1] < new[1]:
            grid = grids.beside(grid, _ask(mask, (0, new[0]), (inner[1], new[1])))
    return grids.with_grid(mask, grid, mask._heads, seq_lengths=new)


def _ask(mask: BlockMask, q: tuple[int, int], kv: tuple[int, int]) -> Grid:
    """The blocks of queries ``q`` and keys ``kv`` (end exclusive) that the mask_mod keeps."""
    lengths, block = (max(0, q[1] - q[0]), max(0, kv[1] - kv[0])), mask.BLOCK_SIZE
    if not all(lengths):
        rows, cols = (cdiv(length, size) for length, size in zip(lengths, block))
        nothing = np.zeros(0, np.int32)
        slices = np.zeros((1, 1), np.int32)
        first = np.zeros(rows + 1, np.int64)
        return Runs(rows, cols, slices, first, nothing, nothing, nothing.astype(bool))
    mod = mask.mask_mod
    if q[0] or kv[0]:
        q_map, kv_map = (offset_map(start) if start else identity_map for start in (q[0], kv[0]))
        mod = rebase(mod, identity_map, identity_map, q_map, kv_map)
    return _classifiers[-1](mod, (*mask._heads, *lengths), block, mask.device)
