"""A mask for other lengths: cropped from its block lists, or grown by asking its mask_mod."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks.mods import MaskMod, identity_map, offset_map, rebase
from flexattn.masks.tables import (
    PARTIAL,
    Pair,
    cdiv,
    distinct_heads,
    from_classes,
    to_classes,
)

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask

Classify: TypeAlias = Callable[
    [MaskMod, tuple[int, int, int, int], tuple[int, int], torch.device], Tensor
]
"""(mask_mod, (B, H, Q_LEN, KV_LEN), BLOCK_SIZE, device) to a class per block, uint8 [B, H, …]."""

_classifiers: list[Classify] = []


def register_classifier(classify: Classify) -> Classify:
    """Name the function that evaluates a mask_mod: `op/create.py`'s, which stands above."""
    _classifiers.append(classify)
    return classify


def resize(mask: BlockMask, new: tuple[int, int]) -> tuple[Pair, Pair | None]:
    """The block lists of ``mask`` for lengths ``new`` = (Q_LEN, KV_LEN).

    Blocks that the old lengths fill stay in the list they were in. Where new queries or keys
    appear, the mask_mod decides, as in a mask made for these lengths; it is asked there alone.
    """
    old, block = mask.seq_lengths, mask.BLOCK_SIZE
    has_full = mask.full_kv_num_blocks is not None
    (classes,) = distinct_heads(to_classes(mask._partial, mask._full, cdiv(old[1], block[1])))
    frame = mask.shape[:2]
    rows, cols = (
        cdiv(after, size) if after <= before else before // size
        for before, after, size in zip(old, new, block)
    )
    classes = classes[:, :, :rows, :cols]
    if new[0] > old[0] or new[1] > old[1]:
        if not _classifiers:
            raise BlockMaskError(
                f"a mask for lengths {old} cannot grow to {new}.",
                why="nothing is loaded that evaluates a mask_mod.",
                fix="import flexattn first.",
            )
        right = _ask(mask, (0, new[0]), (cols * block[1], new[1]))
        below = _ask(mask, (rows * block[0], new[0]), (0, min(cols * block[1], new[1])))
        classes, right, below = _alike(classes, right, below)
        classes = torch.cat([torch.cat([classes, below], 2), right], 3)
    classes = classes.expand(*frame, -1, -1)
    return from_classes(classes if has_full else classes.clamp(max=PARTIAL), has_full)


def _ask(mask: BlockMask, q: tuple[int, int], kv: tuple[int, int]) -> Tensor:
    """The classes of the blocks of queries ``q`` and keys ``kv`` (end exclusive), by mask_mod."""
    batch, heads = mask.shape[:2]
    lengths, block = (max(0, q[1] - q[0]), max(0, kv[1] - kv[0])), mask.BLOCK_SIZE
    if not all(lengths):
        sizes = (cdiv(lengths[0], block[0]), cdiv(lengths[1], block[1]))
        empty = torch.zeros((1, 1, *sizes), dtype=torch.uint8, device=mask.device)
        return empty.expand(batch, heads, -1, -1)
    mod = mask.mask_mod
    if q[0] or kv[0]:
        q_map, kv_map = (offset_map(start) if start else identity_map for start in (q[0], kv[0]))
        mod = rebase(mod, identity_map, identity_map, q_map, kv_map)
    return _classifiers[-1](mod, (batch, heads, *lengths), block, mask.device)


def _alike(*classes: Tensor) -> list[Tensor]:
    """``classes`` with the batches and heads of the largest; what all repeat is kept once."""
    frame = [max(part.shape[axis] for part in classes) for axis in (0, 1)]
    return distinct_heads(*(part.expand(*frame, -1, -1) for part in classes))
