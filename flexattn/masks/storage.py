"""A block mask in a file: its tables as ``torch.save`` writes tensors, its mask_mod as bytes.

The tables are read with ``weights_only=True`` and checked, so they can come from anywhere. The
mask_mod is a cloudpickle: reading it runs code of whoever wrote the file.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks.mods import MaskMod
from flexattn.masks.pickling import dump_mod, load_mod

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask

File: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

FORMAT = 1
TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
FIELDS = ("seq_lengths", "BLOCK_SIZE", "dq_kv_order_spt")
FLAGS = ("_q_wanted", "_mod_alone")


def save(mask: BlockMask, file: File) -> None:
    """Write ``mask`` and its mask_mod, captured tensors included."""
    state: dict[str, Any] = {"flexattn.BlockMask": FORMAT}
    state |= {name: _compact(getattr(mask, name)) for name in TABLES}
    state |= {name: getattr(mask, name) for name in FIELDS + FLAGS}
    state["mask_mod"] = torch.frombuffer(bytearray(dump_mod(mask.mask_mod)), dtype=torch.uint8)
    torch.save(state, file)


def load(
    cls: type[BlockMask], file: File, mask_mod: MaskMod | None, device: torch.device | str | None
) -> BlockMask:
    """The mask that ``save`` wrote, with ``mask_mod`` if given: then none is read."""
    state = _read(file, device)
    own = load_mod(bytes(state["mask_mod"].cpu().numpy())) if mask_mod is None else mask_mod
    mask = cls(
        state["seq_lengths"],
        **{name: state[name] for name in TABLES},
        BLOCK_SIZE=state["BLOCK_SIZE"],
        mask_mod=own,
        dq_kv_order_spt=state["dq_kv_order_spt"],
    )
    flags = {name: bool(state[name]) for name in FLAGS}
    flags["_mod_alone"] &= mask_mod is None
    mask = mask._with(mask._partial, mask._full, **flags)
    return mask if device is None else mask.to(device)


def _read(file: File, device: torch.device | str | None) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except OSError:
        raise  # there is no such file, or it cannot be read: Python says so best
    except Exception as error:
        raise _not_a_mask(file, f"torch.load: {error!r:.200}") from error
    names = {*TABLES, *FIELDS, *FLAGS, "mask_mod", "flexattn.BlockMask"}
    if not isinstance(state, dict) or not names <= state.keys():
        raise _not_a_mask(file, "the names that a mask is stored under are not in it")
    if state["flexattn.BlockMask"] != FORMAT:
        raise _not_a_mask(file, f"its format is {state['flexattn.BlockMask']!r}, not {FORMAT}")
    if not isinstance(state["mask_mod"], Tensor) or state["mask_mod"].dtype != torch.uint8:
        raise _not_a_mask(file, "its mask_mod is not stored as bytes")
    return state


def _not_a_mask(file: File, why: str) -> BlockMaskError:
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else repr(file)
    return BlockMaskError(
        f"{name} holds no block mask.",
        why=f"{why}.",
        fix="pass a file that BlockMask.save of this version has written.",
    )


def _compact(table: Tensor | None) -> Tensor | None:
    """``table`` without the rest of the memory that it is a view of; repeated heads stay so."""
    if table is None:
        return None
    kept = table
    for dim in (0, 1):
        if table.stride(dim) == 0 and table.shape[dim]:
            kept = kept.narrow(dim, 0, 1)
    if kept.untyped_storage().nbytes() != kept.numel() * kept.element_size():
        kept = kept.clone(memory_format=torch.contiguous_format)
    return kept.expand(table.shape)
