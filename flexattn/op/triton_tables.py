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
from flexattn.op.triton_streams import is_capturing_on, stream_on
from flexattn.runtime import counters

Tables: TypeAlias = Sequence[Tensor]
Strides: TypeAlias = tuple[int, ...]

WHOLE = 128  # a block that holds the whole sequence counts as this, or a multiple


@dataclass(slots=True)
class _Kept:
    """What was derived from tables; never a view of theirs, which would keep them alive.

    ``found`` is by stream and name. A CUDA graph reads what is ``in_graphs`` for as long as it
    lives, also when tables were written to since.
    """

    of: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    found: dict[tuple[int, Any], Any] = field(default_factory=dict)
    in_graphs: list[Any] = field(default_factory=list)


# Mutable state: entries by id of the first table, dropped with it; `_lock` guards the rest.
_kept: dict[int, _Kept] = {}
_lock = threading.Lock()


@counters.on_clear
def _forget() -> None:
    with _lock:
        for key, entry in list(_kept.items()):
            entry.found.clear()
            if not entry.in_graphs:  # a graph may be replayed yet
                del _kept[key]


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
        lasting=True,
    )


def key_order(tables: Tables, cols: int, tiles_per_block: int, tiles: int) -> Tensor:
    """Numbers of the tiles of keys, those that meet most blocks first: int32 [tiles]."""
    return _remember(
        tables,
        ("key order", cols, tiles_per_block, tiles),
        lambda: heaviest_first(column_tables(tables, cols)[::2], tiles_per_block, tiles),
        lasting=True,
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


def row_arguments(
    tables: Tables, keys: int, block: tuple[int, int], tiles: tuple[int, int] | None
) -> tuple[tuple[Any, ...], Tensor]:
    """The arguments ``tables`` and ``order`` of kernels that go by rows.

    Args:
        tiles: Tiles of queries in a block, and in all; None where no order is wanted.
    """

    def make() -> tuple[list[Tensor | None], list[Strides], Tensor | None]:
        found = row_tables(tables, keys, block[1])
        own = [None if new is given else new for given, new in zip(tables, found)]
        return own, list(map(_strides, found)), row_order(tables, *tiles) if tiles else None

    # Nothing tells when inference tensors are written to. An order that is out of date costs
    # time, lists that are would be wrong.
    loose = (
        tables[0].is_inference()
        and not (len(tables) == 4 and keys % block[1])
        and all(map(_dense, tables))
    )
    name = ("row arguments", keys, block, tiles)
    own, strides, order = _remember(tables, name, make, loose=loose)
    found = [given if new is None else new for given, new in zip(tables, own)]
    return _arguments(found, strides, block), found[0] if order is None else order


def column_arguments(
    tables: Tables, cols: int, block: tuple[int, int], tiles: tuple[int, int]
) -> tuple[tuple[Any, ...], Tensor]:
    """The arguments ``tables`` and ``order`` of the kernel that goes by columns."""

    def make() -> tuple[tuple[Any, ...], Tensor]:
        found = column_tables(tables, cols)
        order = key_order(tables, cols, *tiles)
        return _arguments(found, list(map(_strides, found)), block), order

    made: tuple[tuple[Any, ...], Tensor] = _remember(
        tables, ("column arguments", cols, block, tiles), make
    )
    return made


def range_arguments(
    block: tuple[int, int], lengths: tuple[int, int], cut: tuple[int, int]
) -> tuple[int, int, int]:
    """The argument ``tables`` of kernels that read ranges; ``cut`` is what `block_of` gives."""
    return int(block[0] <= lengths[0] and block[1] <= lengths[1]), *cut


def no_arguments(nothing: Tensor, block: tuple[int, int]) -> tuple[tuple[Any, ...], Tensor]:
    """Both arguments of kernels that read no lists; ``nothing`` stands for each."""
    return (*(nothing, 0, 0, nothing, 0, 0, 0) * 2, *block), nothing


def _arguments(
    tables: Tables, strides: Sequence[Strides], block: tuple[int, int]
) -> tuple[Any, ...]:
    if len(tables) == 4:
        (a, b, c, d), (x, y, z, w) = tables, strides
        return (a, *x, b, *y, c, *z, d, *w, *block)
    (a, b), (x, y) = tables, strides
    return (a, *x, b, *y, a, 0, 0, a, 0, 0, 0, *block)


def _strides(table: Tensor) -> Strides:
    """Strides of a table but the innermost; 0 along B and H that all share."""
    shape, strides = table.shape, table.stride()
    return (
        0 if shape[0] == 1 else strides[0],
        0 if shape[1] == 1 else strides[1],
        *strides[2:-1],
    )


def _dense(table: Tensor) -> bool:
    return table.stride(-1) == 1 or table.shape[-1] == 1


def _remember(
    tables: Tables,
    name: tuple[Any, ...],
    make: Callable[[], Any],
    *,
    loose: bool = False,
    lasting: bool = False,
    device: torch.device | None = None,
) -> Any:
    """What ``make`` gives, kept with ``tables`` for calls on the current stream.

    Other streams do not wait for this one, so each has its own. A CUDA graph makes its own too,
    and follows what is written to the tables from replay to replay.

    Args:
        loose: Keep what comes of inference tensors.
        lasting: A CUDA graph may read what was kept before: it is right whatever the tables hold,
            or meant to stay.
        device: Where ``make`` computes, if not where the tables lie.
    """
    where = tables[0].device if device is None else device
    key = id(tables[0])
    entry = _kept.get(key)
    if not is_capturing_on(where):
        place = stream_on(where), name
        if entry is not None and _is_of(entry, tables):
            found = entry.found.get(place)
            if found is not None:
                return found
        found = make()
        if loose or not any(table.is_inference() for table in tables):
            _entry_of(tables).found[place] = found
        return found
    if lasting and entry is not None and _is_of(entry, tables):
        for (_, other), found in entry.found.items():
            if other == name:
                entry.in_graphs.append(found)
                return found
    return make()  # its values exist when the graph is replayed, not for the next call


def _entry_of(tables: Tables) -> _Kept:
    """Where to keep what is derived from ``tables``."""
    key = id(tables[0])
    former = _kept.get(key)
    if former is not None and _is_of(former, tables):
        return former
    refs = (
        weakref.ref(tables[0], lambda _: _drop(key)),
        *(weakref.ref(table) for table in tables[1:]),
    )
    entry = _Kept(refs, tuple(map(_version, tables)))
    if former is not None and former.of[0]() is tables[0]:
        entry.in_graphs = former.in_graphs
    with _lock:
        _kept[key] = entry
    return entry


def moved_to(tensor: Tensor, device: torch.device) -> Tensor:
    """A captured number of the CPU on ``device``, copied once and without waiting.

    A CUDA graph goes on with the number that was copied before, or copies it from pinned memory.
    """

    def make() -> Tensor:
        number = tensor.detach()
        if device.type == "cuda" and number.is_pinned() and not is_capturing_on(device):
            number = number.clone()  # it may be written to before the copy is made
        return number.to(device, non_blocking=True)

    return _remember((tensor,), ("moved", device), make, lasting=True, device=device)


def _drop(key: int) -> None:
    _kept.pop(key, None)


def _version(table: Tensor) -> int:
    return -1 if table.is_inference() else table._version


def _is_of(entry: _Kept, tables: Tables) -> bool:
    if len(entry.of) != len(tables):
        return False
    for ref, version, table in zip(entry.of, entry.versions, tables):
        if ref() is not table or _version(table) != version:
            return False
    return True
