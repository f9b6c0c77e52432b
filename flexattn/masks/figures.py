"""What attention with a block mask costs, from the number of blocks it visits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flexattn.analysis.cost import Cost, Shape, backward_cost, computed_pairs, forward_cost
from flexattn.errors import BlockMaskError

if TYPE_CHECKING:
    from flexattn.masks.fields import MaskFields


def cost(
    mask: MaskFields,
    heads: tuple[int | None, int | None, int | None],
    dims: tuple[int, int],
    dtype: torch.dtype,
    backward: bool,
) -> Cost:
    """Operations and bytes of a call of ``heads`` (B, Hq, Hkv) and ``dims`` (D, Dv)."""
    batch, query_heads = (
        size if asked is None else asked for size, asked in zip(mask.shape, heads[:2])
    )
    key_heads = query_heads if heads[2] is None else heads[2]
    for name, value in (("D", dims[0]), ("Dv", dims[1]), ("Hkv", key_heads)):
        if type(value) is not int or value < 1:
            raise BlockMaskError(
                f"{name} is {value!r}.", why="it is a size.", fix=f"pass the {name} of the call."
            )
    for name, asked, size in (("B", batch, mask.shape[0]), ("Hq", query_heads, mask.shape[1])):
        if asked != size and size != 1:
            raise BlockMaskError(
                f"{name} is {asked}, and the mask is for {size}.",
                why="a mask serves another number only if it was made for one, or for all.",
                fix=f"leave {name} out, or make the mask with that number.",
            )
    if not isinstance(dtype, torch.dtype):
        raise BlockMaskError(
            f"dtype is {dtype!r}.",
            why="the bytes of an element follow from it.",
            fix="pass a torch.dtype such as torch.bfloat16.",
        )
    q_len, kv_len = mask.seq_lengths
    shape = Shape(batch, query_heads, key_heads, q_len, kv_len, *dims, dtype.itemsize)
    visited = sum(mask._block_counts())
    pairs = computed_pairs(visited, mask.BLOCK_SIZE, shape, mask.shape[0] * mask.shape[1])
    return backward_cost(shape, pairs) if backward else forward_cost(shape, pairs)
