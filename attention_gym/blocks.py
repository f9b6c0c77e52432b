"""Read a BlockMask as a map of blocks: empty, partial or full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attention_gym.recipe import Recipe, Sizes
from flexattn import BlockMask, create_block_mask

EMPTY, PARTIAL, FULL = 0, 1, 2
CLASSES = ("empty", "partial", "full")


def recipe_mask(
    recipe: Recipe, sizes: Sizes, given: Mapping[str, Any], *, block: int = 128
) -> BlockMask | None:
    """The mask of a recipe with its own captures; one for all heads and batch entries if alike."""
    captures = recipe.make_captures(sizes, given)
    _, mask_mod = recipe.mods({**given, **captures})
    if mask_mod is None:
        return None
    varies = "bh" in recipe.needs
    shape = (sizes.batch if varies else None, sizes.heads if varies else None)
    return create_block_mask(
        mask_mod, *shape, sizes.q_len, sizes.kv_len, device="cpu", BLOCK_SIZE=block
    )


def block_classes(mask: BlockMask) -> Tensor:
    """[B, H, rows, columns] uint8: `EMPTY`, `PARTIAL` or `FULL` for every block."""
    batch, heads, rows = mask.kv_num_blocks.shape
    columns = -(-mask.seq_lengths[1] // mask.BLOCK_SIZE[1])
    classes = torch.zeros(batch, heads, rows, columns, dtype=torch.uint8)
    for counts, indices, kind in (
        (mask.kv_num_blocks, mask.kv_indices, PARTIAL),
        (mask.full_kv_num_blocks, mask.full_kv_indices, FULL),
    ):
        if counts is not None and indices is not None:
            listed = torch.arange(indices.shape[-1]) < counts[..., None]
            place = [*listed.nonzero(as_tuple=True)[:3], indices[listed].long()]
            classes[tuple(place)] = kind
    return classes


def block_counts(mask: BlockMask) -> dict[str, int]:
    """How many blocks are of each class; of masks of any size, as no block is looked at."""
    batch, heads, rows = mask.kv_num_blocks.shape
    columns = -(-mask.seq_lengths[1] // mask.BLOCK_SIZE[1])
    partial, full = mask.kv_num_blocks, mask.full_kv_num_blocks
    counts = [int(partial.sum()), 0 if full is None else int(full.sum())]
    total = batch * heads * rows * columns
    return dict(zip(CLASSES, (total - sum(counts), *counts)))
