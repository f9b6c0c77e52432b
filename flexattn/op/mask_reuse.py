"""Block masks that a call did not make itself: of a bare mask_mod, and of PyTorch's BlockMask.

A mask made from ``mask_mod=`` serves later calls whose mod has the same graph, the same numbers
and captured tensors of the same bytes. The bytes are compared with a copy, never a tensor's
identity or version: both can stay the same while the values change.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks.block_mask import BlockMask
from flexattn.op.create import create_block_mask
from flexattn.op.programs import Bound, bind
from flexattn.op.triton_streams import is_capturing, stream_on
from flexattn.runtime import counters
from flexattn.trace import trace_mod

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
    traced = trace_mod(mask_mod, "mask", device=query.device)
    bound = bind(None, traced, "f32")
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
