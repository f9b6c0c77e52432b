"""Block-sparse masks: the BlockMask data structure, mask_mod combinators, and their building."""

from flexattn.masks.block_mask import BlockMask
from flexattn.masks.mods import and_masks, noop_mask, not_mask, or_masks
from flexattn.masks.tree import flatten  # importing it registers BlockMask with PyTorch's pytrees

__all__ = ["BlockMask", "and_masks", "flatten", "noop_mask", "not_mask", "or_masks"]
