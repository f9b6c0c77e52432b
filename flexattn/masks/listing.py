"""PyTorch's index tables made of runs of blocks, and runs of tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.runs import Array, Runs, from_classes, to_classes
from flexattn.errors import BlockMaskError
from flexattn.masks.parts import slice_count
from flexattn.masks.sizes import check_table
from flexattn.masks.sources import Source, strips
from flexattn.masks.steps import packed, rows_of

# Of runs ----------------------------------------------------------------------------------------


def index_table(source: Source, full: bool, name: str) -> Array:
    """Columns of the listed blocks of each row, then the others, both ascending: PyTorch's table.

    int32, the shape of ``source.slices`` and [rows, cols]. ``name`` is for the refusal.
    """
    check_table(name, (*source.slices.shape, source.rows, source.cols))
    table = np.empty((_slices(source), source.rows, source.cols), np.int32)
    for begin, end, part in strips(source):
        into = table[:, begin:end]
        into[...] = _listed_first(part, full).reshape(into.shape)
    return by_frame(table, source.slices)


def narrow_table(source: Source, full: bool, counts: Array, name: str) -> Array:
    """The listed columns of each row alone, in a table as wide as the longest row, at least 1.

    ``counts`` (int64 [slices, rows]) says how many there are.
    """
    width = max(1, int(counts.max(initial=0)))
    check_table(name, (*source.slices.shape, source.rows, width))
    table = np.zeros((_slices(source), source.rows, width), np.int32)
    for begin, end, part in strips(source):
        some = counts[:, begin:end].ravel()
        mine = part.full == full
        columns = _ranges(part.start[mine], part.stop[mine])
        row = np.arange(len(some), dtype=np.int64)
        at = np.repeat(row * width - (np.cumsum(some) - some), some) + np.arange(len(columns))
        strip = np.zeros(len(some) * width, np.int32)
        strip[at] = columns
        into = table[:, begin:end]
        into[...] = strip.reshape(into.shape)
    return by_frame(table, source.slices)


def class_table(source: Source, name: str) -> Array:
    """The class of each block: uint8, the shape of ``source.slices`` and [rows, cols]."""
    check_table(name, (*source.slices.shape, source.rows, source.cols), 1)
    table = np.zeros((_slices(source), source.rows, source.cols), np.uint8)
    for begin, end, part in strips(source):
        table[:, begin:end] = to_classes(part)
    return by_frame(table, source.slices)


def by_frame(table: Array, slices: Array) -> Array:
    """``table`` [slices, …] as [B, H, …]; without a copy where ``slices`` counts through them."""
    if len(table) == slices.size and (slices.ravel() == np.arange(slices.size)).all():
        return table.reshape(*slices.shape, *table.shape[1:])
    return table[slices]


def _slices(source: Source) -> int:
    return slice_count(source if isinstance(source, Runs) else source.part(0, min(1, source.rows)))


def _listed_first(runs: Runs, full: bool) -> Array:
    """For each row the columns of its ``full`` (or partial) blocks, then the others: int32."""
    mine = np.flatnonzero(runs.full == full)
    row, start, stop = rows_of(runs)[mine], runs.start[mine], runs.stop[mine]
    count = len(runs.first) - 1
    # A row with n runs has n + 1 gaps, some of no length, and all its runs come before them.
    sizes = np.bincount(row, minlength=count)
    first = np.cumsum(sizes) - sizes
    ranges = np.empty((2, 2 * len(mine) + count), np.int32)
    at = np.arange(len(mine)) + first[row] + row
    ranges[0, at], ranges[1, at] = start, stop
    gap_start = at + sizes[row] + 1  # of the gap behind each run
    gap_stop = gap_start - 1
    opening = 2 * first + np.arange(count) + sizes  # the gap before the first run of each row
    ranges[0, opening], ranges[0, gap_start] = 0, stop
    ranges[1, opening + sizes], ranges[1, gap_stop] = runs.cols, start
    return _ranges(ranges[0], ranges[1])


def _ranges(start: Array, stop: Array) -> Array:
    """The numbers of each range [start, stop), one after another: int32."""
    size = stop - start
    before = np.cumsum(size, dtype=np.int64) - size
    total = int(before[-1] + size[-1]) if len(size) else 0
    found = np.repeat((start - before).astype(np.int32), size)
    found += np.arange(total, dtype=np.int32)
    return found


# Of tables --------------------------------------------------------------------------------------


def runs_of_tables(tables: Sequence[Tensor], cols: int) -> Runs:
    """The runs that ``kv_num_blocks, kv_indices`` and perhaps ``full_kv_*`` list.

    Batches and heads along which all tables repeat themselves share their slices.
    """
    if tables[0].is_meta:
        raise BlockMaskError(
            "the lists of this mask hold no values.",
            why="it lies on the device meta.",
            fix="make it on a device that has memory.",
        )
    frame = tables[0].shape[:2]
    alike = [frame[d] > 1 and all(table.stride(d) == 0 for table in tables) for d in (0, 1)]
    for d in (0, 1):
        if alike[d]:
            tables = [table.narrow(d, 0, 1) for table in tables]
    batch, heads, rows = tables[0].shape
    host = [table.detach().cpu().numpy() for table in tables]
    listed = [_listed(*pair) for pair in zip(host[::2], host[1::2])]
    row, column = (np.concatenate(parts) for parts in zip(*listed))
    full = np.repeat(np.arange(len(listed)) == 1, [len(part[0]) for part in listed])
    order = np.argsort(row * (cols + 1) + column, kind="stable")
    slices = np.arange(batch * heads, dtype=np.int32).reshape(batch, heads)
    nothing = np.zeros(0, np.int32)
    first = np.zeros(batch * heads * rows + 1, np.int64)
    like = Runs(rows, cols, slices, first, nothing, nothing, nothing.astype(bool))
    row, column, full = row[order], column[order], full[order]
    return packed(like, row, column, column + 1, full)


def runs_of_classes(classes: Tensor) -> Runs:
    """The runs of uint8 [B, H, rows, cols]; repeated batches and heads share their slices."""
    for d in (0, 1):
        if classes.shape[d] > 1 and classes.stride(d) == 0:
            classes = classes.narrow(d, 0, 1)
    slices = np.arange(classes.shape[0] * classes.shape[1], dtype=np.int32)
    flat = classes.cpu().numpy().reshape(slices.size, *classes.shape[2:])
    return from_classes(flat, slices.reshape(classes.shape[:2]))


def _listed(counts: Array, indices: Array) -> tuple[Array, Array]:
    """Row, over all batches and heads, and column of each listed block: int64 and int32."""
    width = indices.shape[-1]
    if int(counts.sum(dtype=np.int64)) * 8 < indices.size:  # rows that are mostly tail
        some = counts.ravel().astype(np.int64)
        row = np.repeat(np.arange(len(some)), some)
        place = np.arange(len(row)) - np.repeat(np.cumsum(some) - some, some)
        return row, indices.reshape(len(some), width)[row, place]
    valid = np.arange(width) < counts[..., None]
    return np.nonzero(valid.reshape(counts.size, width))[0], indices[valid]


def to_tensor(table: Array, device: torch.device, frame: tuple[int, int]) -> Tensor:
    """``table`` [B|1, H|1, …] on ``device``, for ``frame`` = (B, H)."""
    tensor = torch.from_numpy(np.ascontiguousarray(table))
    if device.type != "cpu":
        tensor = tensor.to(device)
    return tensor.expand(*frame, *tensor.shape[2:])
