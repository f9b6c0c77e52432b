"""Block masks that a call did not make itself: of a bare mask_mod, and of PyTorch's BlockMask.

A mask made from ``mask_mod=`` serves later calls whose mod has the same graph, the same numbers
and captured tensors of the same bytes. The bytes are compared with a copy, never a tensor's
identity or version: both can stay the same while the values change.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError, KernelOptionError
from flexattn.masks.block_mask import BlockMask
from flexattn.op.create import create_block_mask
from flexattn.op.options import block_list
from flexattn.op.programs import Bound
from flexattn.op.symbolic import bind_mask
from flexattn.op.triton_streams import is_capturing, stream_on
from flexattn.runtime import counters

LONG_LISTS = 1 << 22
"""Entries of a list of blocks from which on kernels rather compute which blocks to visit."""

KEPT_MASKS = 32
KEPT_BYTES = 64 << 20  # of captured values copied for comparison


@dataclass(frozen=True)
class _Kept:
    mask: BlockMask
    shapes: tuple[torch.Size, ...]
    values: tuple[Tensor, ...]


_lock = threading.Lock()
_kept: OrderedDict[tuple[int, Hashable], _Kept] = OrderedDict()  # by stream and name
_in_graphs: dict[Hashable, BlockMask] = {}  # what CUDA graphs read: never dropped
_converted: WeakKeyDictionary[Any, tuple[Any, BlockMask]] = WeakKeyDictionary()


def mask_for(mask_mod: Callable[..., Any], query: Tensor, key: Tensor) -> BlockMask | None:
    """A block mask whose blocks are right for ``mask_mod``: one kept from before, or a new one.

    Its own ``mask_mod`` may be an earlier function. None where captured values cannot be looked
    at, while a CUDA graph is captured: then the mod decides pair by pair.
    """
    bound = bind_mask(mask_mod, device=query.device)
    if bound.captures and is_capturing(query):
        return None
    inputs = bound.variant.inputs
    batch = query.shape[0] if "b" in inputs else None
    heads = query.shape[1] if "h" in inputs else None
    lengths = (query.shape[2], key.shape[2])
    name = (
        bound.variant,
        *bound.ints,
        *map(repr, bound.floats),
        batch,
        heads,
        lengths,
        query.device,
    )
    capturing = is_capturing(query)
    with _lock:
        # A stream does not wait for what another makes; a graph is captured when all is done.
        kept = _on_any_stream(name) if capturing else _kept.get((stream_on(query.device), name))
        if kept is not None and capturing:
            _in_graphs[name] = kept.mask
    if kept is not None and _is_same(kept, bound):
        return kept.mask
    mask = create_block_mask(mask_mod, batch, heads, lengths[0], lengths[1], device=query.device)
    if not capturing:  # else its tables exist when the graph is replayed, not for the next call
        _keep((stream_on(query.device), name), mask, bound)
    return mask


def _on_any_stream(name: Hashable) -> _Kept | None:
    return next((kept for (_, other), kept in _kept.items() if other == name), None)


def converted(mask: Any) -> BlockMask:
    """``mask`` as ours: itself, or PyTorch's converted once."""
    if isinstance(mask, BlockMask):
        return mask
    peer = sys.modules.get("torch.nn.attention.flex_attention")  # who has a mask has imported it
    if peer is None or not isinstance(mask, peer.BlockMask):
        raise BlockMaskError(
            f"block_mask is of type {type(mask).__name__}.",
            why="it says which blocks to visit: a BlockMask of flexattn or PyTorch.",
            fix="pass a function as mask_mod=, or make a mask with create_block_mask.",
        )
    known = _converted.get(mask)
    if known is None or known[0] is not mask.mask_mod:
        known = _converted[mask] = (mask.mask_mod, BlockMask.from_torch(mask))
    return known[1]


def tables_of(mask: BlockMask) -> tuple[Tensor, ...]:
    """The block lists as a ``Call`` has them."""
    return mask._kernel_tables()


def blocks_of(
    mask: BlockMask | None, query: Tensor, options: Mapping[str, Any] | None
) -> tuple[tuple[Tensor, ...], Any, tuple[int, int]]:
    """The block lists of a call, or () and the `op.mask_forms.KernelRanges` in their place.

    With them, BLOCK_SIZE. By default kernels read lists, unless these would be long and the
    mask's closed form serves; ``block_list`` of ``options`` decides otherwise.
    """
    if mask is None:
        return (), None, (1, 1)
    asked, block = block_list(options), mask.BLOCK_SIZE
    if asked == "table" or (asked is None and (mask._form is None or mask._kernel is not None)):
        return tables_of(mask), None, block
    if asked is None and mask._narrow_entries() < LONG_LISTS:
        return tables_of(mask), None, block
    why = _why_no_ranges(mask, query)
    if asked is None and why is not None:
        return tables_of(mask), None, block
    if why is not None:
        raise KernelOptionError(
            "kernel_options['block_list'] is 'closed_form', and this mask has to be read as lists.",
            why=why,
            fix="leave block_list out, or pass 'table'.",
        )
    return (), mask._form.kernel_ranges, block


def _why_no_ranges(mask: BlockMask, query: Tensor) -> str | None:
    """Why kernels cannot run on the closed form of ``mask``; None if they can."""
    form = mask._form
    if form is None:
        return (
            "a mask keeps a closed form for kernels if create_block_mask made it, outside of "
            "torch.compile, and the first and last queries of its ranges, at most four, tell "
            "every block (see explain); its parts and combinations have none."
        )
    if mask._written():
        return "its lists were written to."
    if not form.serves(query.shape[0], query.shape[1]):
        return (
            "it was made for other batches or heads than the call has, or a tensor that its "
            "mask_mod captures was written to since."
        )
    if form.kernel_ranges is None:
        return "the ranges of queries of a key do not tell every block."
    return None


def _is_same(kept: _Kept, bound: Bound) -> bool:
    return kept.shapes == tuple(tensor.shape for tensor in bound.captures) and all(
        torch.equal(old, _bytes(new)) for old, new in zip(kept.values, bound.captures, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _keep(name: tuple[int, Hashable], mask: BlockMask, bound: Bound) -> None:
    if sum(tensor.numel() * tensor.itemsize for tensor in bound.captures) > KEPT_BYTES:
        return
    shapes = tuple(tensor.shape for tensor in bound.captures)
    kept = _Kept(mask, shapes, tuple(_bytes(tensor).clone() for tensor in bound.captures))
    with _lock:
        _kept[name] = kept
        while len(_kept) > 1 and (len(_kept) > KEPT_MASKS or _bytes_kept() > KEPT_BYTES):
            _kept.popitem(last=False)


def _bytes_kept() -> int:
    return sum(value.numel() for kept in _kept.values() for value in kept.values)


@counters.on_clear
def _forget() -> None:
    with _lock:
        _kept.clear()
