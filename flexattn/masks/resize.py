"""A mask for other lengths: cropped from its block lists, or grown by asking its mask_mod."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks.mods import MaskMod
from flexattn.masks.tables import PARTIAL, Pair, cdiv, from_classes, to_classes

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
    appear, the mask_mod decides, as in a mask made for these lengths.
    """
    old, block = mask.seq_lengths, mask.BLOCK_SIZE
    cols = cdiv(old[1], block[1])
    has_full = mask.full_kv_num_blocks is not None
    classes = to_classes(mask._partial, mask._full, cols)
    rows, cols = cdiv(new[0], block[0]), cdiv(new[1], block[1])
    if new[0] <= old[0] and new[1] <= old[1]:
        return from_classes(classes[:, :, :rows, :cols], has_full)
    if not _classifiers:
        raise BlockMaskError(
            f"a mask for lengths {old} cannot grow to {new}.",
            why="nothing is loaded that evaluates a mask_mod.",
            fix="import flexattn first.",
        )
    batch, heads = mask.shape[:2]
    grown = _classifiers[-1](mask.mask_mod, (batch, heads, *new), block, mask.device)
    kept = tuple(
        cdiv(after, size) if after <= before else before // size
        for before, after, size in zip(old, new, block)
    )
    grown = grown.clone() if grown.numel() else grown.contiguous()
    grown[:, :, : kept[0], : kept[1]] = classes[:, :, : kept[0], : kept[1]]
    return from_classes(grown if has_full else grown.clamp(max=PARTIAL), has_full)
