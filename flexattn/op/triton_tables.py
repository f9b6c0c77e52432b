"""What Triton kernels read beside a mask's block lists, derived on its device without waiting.

Lists by column for the gradients of keys and values, the order in which tiles are visited, and
lists in the shape that kernels want. All of it is kept as long as the tables live, and made again
when they were written to; nothing here reads a value on the host.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.masks.tables import cdiv, distinct_heads, transpose
from flexattn.runtime import counters

Tables: TypeAlias = Sequence[Tensor]

WHOLE = 128  # a block that holds the whole sequence counts as this, or a multiple


@dataclass(slots=True)
class _Kept:
    """What was derived from tables; never a view of theirs, which would keep them alive."""

    of: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    found: dict[Any, Any] = field(default_factory=dict)


# Mutable state: entries by id of the first table, dropped with it; `_lock` guards the rest.
_kept: dict[int, _Kept] = {}
_lock = threading.Lock()


@counters.on_clear
def _forget() -> None:
    with _lock:
        _kept.clear()


def block_of(block: tuple[int, int], lengths: tuple[int, int]) -> tuple[int, int]:
    """Queries and keys per block; a block beyond the sequence is cut to it."""
    q_block, kv_block = (
        min(size, max(WHOLE, cdiv(length, WHOLE) * WHOLE)) for size, length in zip(block, lengths)
    )
    return q_block, kv_block


def row_tables(tables: Tables, keys: int, kv_block: int) -> Tables:
    """The lists by rows, as kernels want them.

    Their innermost stride is 1. A full block that reaches beyond ``keys`` is the last of its row.
    """
    ragged = len(tables) == 4 and keys % kv_block != 0
    if not ragged and all(_dense(table) for table in tables):
        return tables

    def make() -> Tables:
        found = [
            None if _dense(table) else distinct_heads(table)[0].contiguous() for table in tables
        ]
        if ragged:
            found[3] = with_edge_last(*distinct_heads(tables[2], tables[3]), keys // kv_block)
        return found  # type: ignore[return-value]

    made = _remember(tables, ("rows", keys, kv_block), make)
    return [given if own is None else own for given, own in zip(tables, made)]


def column_tables(tables: Tables, cols: int) -> Tables:
    """The lists by columns: for each block of keys the blocks of queries that meet it."""

    def make() -> Tables:
        pairs = [transpose((tables[at], tables[at + 1]), cols) for at in range(0, len(tables), 2)]
        return [table for pair in pairs for table in pair]

    return _remember(tables, ("columns", cols), make)


def row_order(tables: Tables, tiles_per_block: int, tiles: int) -> Tensor:
    """Numbers of the tiles of queries, those that meet most blocks first: int32 [tiles]."""
    return _remember(
        tables,
        ("row order", tiles_per_block, tiles),
        lambda: heaviest_first(tables[::2], tiles_per_block, tiles),
    )


def key_order(tables: Tables, cols: int, tiles_per_block: int, tiles: int) -> Tensor:
    """Numbers of the tiles of keys, those that meet most blocks first: int32 [tiles]."""
    return _remember(
        tables,
        ("key order", cols, tiles_per_block, tiles),
        lambda: heaviest_first(column_tables(tables, cols)[::2], tiles_per_block, tiles),
    )


def heaviest_first(counts: Sequence[Tensor], tiles_per_block: int, tiles: int) -> Tensor:
    """Numbers of ``tiles`` tiles by falling counts of their blocks' rows, over all heads."""
    work = sum(count.sum((0, 1)) for count in counts)
    assert isinstance(work, Tensor)
    per_tile = work.unsqueeze(-1).expand(-1, tiles_per_block).reshape(-1)[:tiles]
    return per_tile.argsort(descending=True, stable=True).to(torch.int32)


def with_edge_last(counts: Tensor, indices: Tensor, edge: int) -> Tensor:
    """``indices`` with block ``edge``, where a row lists it, behind all others that it lists."""
    if indices.shape[-1] == 0:
        return indices.clone()
    last = (counts.unsqueeze(-1) - 1).clamp(min=0).long()
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts.unsqueeze(-1)
    at_edge = listed & (indices == edge)
    old_last = indices.gather(-1, last)
    moved = torch.where(at_edge, old_last, indices)
    new_last = torch.where(at_edge.any(-1, keepdim=True), edge, old_last)
    return moved.scatter(-1, last, new_last.to(indices.dtype))


def arguments(tables: Tables, block: tuple[int, int], nothing: Tensor) -> tuple[Any, ...]:
    """The kernels' argument ``tables`` (`kernel/triton_spec.py`).

    Args:
        nothing: What stands for a list that there is not.
    """
    found: list[Any] = []
    for at, table in enumerate(tables):
        shape, strides = table.shape, table.stride()
        b, h = 0 if shape[0] == 1 else strides[0], 0 if shape[1] == 1 else strides[1]
        found += (table, b, h) if at % 2 == 0 else (table, b, h, strides[2])
    for _ in range(len(tables), 4, 2):
        found += (nothing, 0, 0, nothing, 0, 0, 0)
    return (*found, *block)


def _dense(table: Tensor) -> bool:
    return table.stride(-1) == 1 or table.shape[-1] == 1


def _remember(tables: Tables, name: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    if any(table.is_inference() for table in tables):
        return make()  # nothing tells when these are written to
    key = id(tables[0])
    entry = _kept.get(key)
    if entry is not None and _is_of(entry, tables):
        found = entry.found.get(name)
        if found is not None:
            return found
    else:
        entry = None
    found = make()
    if is_capturing(tables[0]):
        return found  # its values exist when the graph is replayed, not for the next call
    if entry is None:
        refs = (
            weakref.ref(tables[0], lambda _: _drop(key)),
            *(weakref.ref(table) for table in tables[1:]),
        )
        entry = _Kept(refs, tuple(table._version for table in tables))
        with _lock:
            _kept[key] = entry
    entry.found[name] = found
    return found


def moved_to(tensor: Tensor, device: torch.device) -> Tensor:
    """A captured number of the CPU on ``device``, copied once and without waiting."""
    return _remember(
        (tensor,), ("moved", device), lambda: tensor.detach().to(device, non_blocking=True)
    )


def is_capturing(tensor: Tensor) -> bool:
    """Whether what is computed on the device of ``tensor`` goes into a CUDA graph now."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _drop(key: int) -> None:
    _kept.pop(key, None)


def _is_of(entry: _Kept, tables: Tables) -> bool:
    return len(entry.of) == len(tables) and all(
        ref() is table and version == table._version
        for ref, table, version in zip(entry.of, tables, entry.versions)
    )
