"""Registers BlockMask with PyTorch's pytrees: its leaves are its tables and mask_mod's tensors."""

from __future__ import annotations

import base64
import pickle
from typing import Any

from torch.utils._pytree import GetAttrKey, register_pytree_node

from flexattn.masks.block_mask import BlockMask
from flexattn.masks.closures import put_back, take_out

TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
CONTEXT = ("seq_lengths", "BLOCK_SIZE", "dq_kv_order_spt", "_q_wanted")


def flatten(mask: BlockMask) -> tuple[list[Any], tuple[Any, ...]]:
    """Leaves, and the rest: comparable, so that trees of like masks are equal."""
    keyed, context = flatten_with_keys(mask)
    return [leaf for _, leaf in keyed], context


def flatten_with_keys(mask: BlockMask) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    """As ``flatten``, with the name of each leaf."""
    names = TABLES if mask.full_kv_indices is not None else TABLES[:2]
    captured, rest = take_out(mask.mask_mod)
    leaves = [(GetAttrKey(name), getattr(mask, name)) for name in names]
    leaves += [(GetAttrKey(f"mask_mod_tensor_{i}"), t) for i, t in enumerate(captured)]
    return leaves, (len(names), rest, *(getattr(mask, name) for name in CONTEXT))


def unflatten(leaves: Any, context: tuple[Any, ...]) -> BlockMask:
    """The mask with other leaves. They are not checked: pytrees also hold what is no tensor."""
    leaves = list(leaves)
    count, rest, *fields = context
    full = (leaves[2], leaves[3]) if count == 4 else None
    return BlockMask._make(
        (leaves[0], leaves[1]),
        full,
        mask_mod=put_back(rest, leaves[count:]),
        **dict(zip(CONTEXT, fields)),
    )


def dump_context(context: tuple[Any, ...]) -> str:
    """The context as text, for ``torch.export.save``: code included, as in a pickle."""
    import cloudpickle

    return base64.b64encode(cloudpickle.dumps(context)).decode()


def load_context(text: str) -> tuple[Any, ...]:
    """The inverse of ``dump_context``; like a pickle, only for programs you trust."""
    context: tuple[Any, ...] = pickle.loads(base64.b64decode(text))
    return context


register_pytree_node(
    BlockMask,
    flatten,
    unflatten,
    flatten_with_keys_fn=flatten_with_keys,
    serialized_type_name="flexattn.masks.BlockMask",
    to_dumpable_context=dump_context,
    from_dumpable_context=load_context,
)
