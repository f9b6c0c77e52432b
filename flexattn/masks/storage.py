"""A block mask in a file: its runs or tables as ``torch.save`` writes tensors, its mod as bytes.

Runs and tables are read with ``weights_only=True`` and checked, so they can come from anywhere. The
mask_mod is a cloudpickle: reading it runs code of whoever wrote the file.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from flexattn.analysis.runs import Runs
from flexattn.errors import BlockMaskError
from flexattn.masks import validate
from flexattn.masks.mods import MaskMod, check_callable
from flexattn.masks.pickling import dump_mod, load_mod
from flexattn.masks.runs_check import check_runs

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask

File: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

FORMAT = 2
"""1 had tables alone."""

TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
RUNS = ("slices", "first", "start", "stop", "full", "period", "count")
SIZES = ("rows", "cols", "B", "H", "separate_full")
FIELDS = ("seq_lengths", "BLOCK_SIZE", "dq_kv_order_spt")
FLAGS = ("_q_wanted", "_mod_alone")
MADE = ("_kernel", "_at_hand", "_cache", "_tensors", "_form")
"""What is made again of a mask that was read."""


def save(mask: BlockMask, file: File) -> None:
    """Write ``mask`` and its mask_mod, captured tensors included."""
    state: dict[str, Any] = {"flexattn.BlockMask": FORMAT, "device": str(mask.device)}
    given = mask._given
    if isinstance(given, tuple):
        state["tables"] = dict(zip(TABLES, map(_compact, given)))
    else:
        state["runs"] = _runs_state(mask)
    state |= {name: getattr(mask, name) for name in FIELDS + FLAGS}
    state["mask_mod"] = torch.frombuffer(bytearray(dump_mod(mask.mask_mod)), dtype=torch.uint8)
    torch.save(state, file)


def load(
    cls: type[BlockMask], file: File, mask_mod: MaskMod | None, device: torch.device | str | None
) -> BlockMask:
    """The mask that ``save`` wrote, with ``mask_mod`` if given: then none is read."""
    state = _read(file)
    place = _place(file, state["device"] if device is None else device)
    own = load_mod(bytes(state["mask_mod"].numpy())) if mask_mod is None else mask_mod
    check_callable(own, "BlockMask.load")
    fields: dict[str, Any] = {
        "seq_lengths": validate.lengths(state["seq_lengths"]),
        "BLOCK_SIZE": validate.block_size(state["BLOCK_SIZE"]),
        "mask_mod": own,
        "dq_kv_order_spt": state["dq_kv_order_spt"],
    }
    flags = {name: bool(state[name]) for name in FLAGS}
    flags["_mod_alone"] &= mask_mod is None
    if "tables" in state:
        found = {name: state["tables"].get(name) for name in TABLES}
        tables: dict[str, Any] = {
            k: t.to(place) if isinstance(t, Tensor) else t for k, t in found.items()
        }
        mask = cls(**fields, **tables)._again(**flags)
    else:
        mask = _of_runs(cls, state["runs"], place, fields | flags)
        mask.check()
    return mask if device is None else mask.to(place)


def _runs_state(mask: BlockMask) -> dict[str, Any]:
    runs = mask._runs
    arrays = {name: getattr(runs, name) for name in RUNS}
    batch, heads = mask._heads
    sizes = (runs.rows, runs.cols, batch, heads, mask._has_full)
    tensors = {k: None if a is None else torch.from_numpy(a).clone() for k, a in arrays.items()}
    return dict(zip(SIZES, sizes)) | tensors


def _of_runs(
    cls: type[BlockMask], state: dict[str, Any], device: torch.device, fields: dict[str, Any]
) -> BlockMask:
    rows, cols, batch, heads, separate_full = (int(state[name]) for name in SIZES)
    arrays: dict[str, Any] = {
        name: None if state[name] is None else state[name].numpy() for name in RUNS
    }
    runs = Runs(rows, cols, **arrays)
    check_runs(runs, (batch, heads))
    return cls._of_runs(
        runs, frame=(batch, heads), device=device, separate_full=bool(separate_full), **fields
    )


def _read(file: File) -> dict[str, Any]:
    """What the file holds, on the CPU, and in the form that this version writes."""
    places: list[str] = []

    def keep(storage: Any, place: str) -> Any:
        places.append(place)
        return storage

    try:
        state = torch.load(file, map_location=keep, weights_only=True)
    except OSError:
        raise  # there is no such file, or it cannot be read: Python says so best
    except Exception as error:
        raise _not_a_mask(file, f"torch.load: {error!r:.200}") from error
    names = {*FIELDS, *FLAGS, "mask_mod", "flexattn.BlockMask"}
    if not isinstance(state, dict) or not names <= state.keys():
        raise _not_a_mask(file, "the names that a mask is stored under are not in it")
    version = state["flexattn.BlockMask"]
    if version == 1:
        state["tables"] = {name: state.get(name) for name in TABLES}
        state["device"] = next((place for place in places if place != "cpu"), "cpu")
    elif version != FORMAT:
        raise _not_a_mask(file, f"its format is {version!r}, and {FORMAT} is the last one known")
    if not isinstance(state["mask_mod"], Tensor) or state["mask_mod"].dtype != torch.uint8:
        raise _not_a_mask(file, "its mask_mod is not stored as bytes")
    problem = _problem(state)
    if problem:
        raise _not_a_mask(file, problem)
    return state


def _problem(state: dict[str, Any]) -> str | None:
    if not isinstance(state.get("device"), str):
        return "it does not say on which device the mask lies"
    if isinstance(state.get("tables"), dict):
        return None  # checked when a mask is made of them
    runs = state.get("runs")
    if not isinstance(runs, dict) or not {*RUNS, *SIZES} <= runs.keys():
        return "it has neither tables nor runs of blocks"
    if not all(isinstance(runs[name], int) and runs[name] >= 0 for name in SIZES):
        return "sizes of its runs are no numbers"
    missing = ("period", "count")
    if not all(
        isinstance(runs[name], Tensor) or (name in missing and runs[name] is None) for name in RUNS
    ):
        return "its runs are not stored as tensors"
    return None


def _place(file: File, device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        raise _not_a_mask(
            file, f"it lies on {device}, which cannot be used here; device='cpu' reads it"
        ) from error


def _not_a_mask(file: File, why: str) -> BlockMaskError:
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else repr(file)
    return BlockMaskError(
        f"{name} holds no block mask.",
        why=f"{why}.",
        fix="pass a file that BlockMask.save of this version has written.",
    )


def _compact(table: Tensor) -> Tensor:
    """``table`` without the rest of the memory that it is a view of; repeated heads stay so."""
    kept = table
    for dim in (0, 1):
        if table.stride(dim) == 0 and table.shape[dim]:
            kept = kept.narrow(dim, 0, 1)
    if kept.untyped_storage().nbytes() != kept.numel() * kept.element_size():
        kept = kept.clone(memory_format=torch.contiguous_format)
    return kept.expand(table.shape)
