"""Block-sparse masks: the BlockMask data structure, mask_mod combinators, and their building."""
