"""Which calls have few queries for many keys, and how those share the reading of the keys."""

from __future__ import annotations

import torch

from flexattn.ir.nodes import Input, walk
from flexattn.kernel.isa import ISAS, host
from flexattn.op.capture_grads import CPUS
from flexattn.op.request import Call

FEW_QUERIES = 16
FEW_BESIDE_TILES = 8  # from more on, tiles of bf16 products are faster although keys are read again
LEAST_KEYS = 256  # fewer are read from a cache however they are read
ITEMS = 64  # parts are made until a call has so many; more threads would find nothing to do
KEYS_PER_PART = 1024


def may_pack(call: Call) -> bool:
    """Whether the heads of a group visit the same blocks."""
    ranges = call.bound.variant.program.ranges
    if ranges is not None:
        ends = (end for piece in ranges.rows for end in piece)
        return not any(isinstance(node, Input) and node.name == "h" for node in walk(*ends))
    return all(table.shape[1] == 1 or table.stride(1) == 0 for table in call.tables)


def is_decoding(call: Call) -> bool:
    """Whether the CPU's decode kernel takes the call: few queries, of one row of blocks.

    Its products are summed in another order than the backward's, so none follows.
    """
    queries, keys = call.query.shape[2], call.key.shape[2]
    few = FEW_BESIDE_TILES if _has_tiles(call) else FEW_QUERIES
    if call.differentiated or not 0 < queries <= few or keys < max(LEAST_KEYS, 4 * queries):
        return False
    listed = bool(call.tables) or call.bound.variant.program.ranges is not None
    return not listed or queries <= call.block[0]


def _has_tiles(call: Call) -> bool:
    """Whether products are done by tiles, and by enough heads to busy the machine."""
    batch, heads = call.query.shape[:2]
    return (
        call.query.dtype == torch.bfloat16
        and batch * heads >= CPUS
        and host().level >= ISAS["amx"].level
    )


def sharing(call: Call) -> tuple[int, int]:
    """(parts, packed) of `DecodeArgs`: by shapes alone, so that results do not vary.

    Splitting keys costs a sum over the parts; without it few heads would leave threads idle.
    """
    batch, heads, _, _ = call.query.shape
    kv_heads, keys = call.key.shape[1:3]
    packed = heads > kv_heads and may_pack(call)
    items = batch * (kv_heads if packed else heads)
    parts = min(-(-ITEMS // max(items, 1)), keys // KEYS_PER_PART)
    return max(parts, 1), int(packed)
