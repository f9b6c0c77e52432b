"""Runs of blocks cut and put together: rows, columns and slices of some, beside and below others.

All functions take runs without repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flexattn.analysis.runs import Array, Runs
from flexattn.masks.steps import gathered, packed, rows_of


def slice_count(runs: Runs) -> int:
    """Slices that ``runs`` hold, used or not."""
    if not runs.rows:
        return int(runs.slices.max(initial=-1)) + 1
    return (len(runs.first) - 1) // runs.rows


def pick_slices(runs: Runs, numbers: Array, slices: Array) -> Runs:
    """The slices ``numbers``, in this order; ``slices`` are those of the result."""
    if len(numbers) == slice_count(runs) and (numbers == np.arange(len(numbers))).all():
        return replace(runs, slices=slices)
    rows = numbers[:, None].astype(np.int64) * runs.rows + np.arange(runs.rows)
    return gathered(runs, rows.ravel(), height=runs.rows, slices=slices)


def pick_rows(runs: Runs, chosen: Array) -> Runs:
    """The rows ``chosen`` (int64) of every slice."""
    base = np.arange(slice_count(runs))[:, None] * runs.rows
    return gathered(runs, (base + chosen).ravel(), height=len(chosen), slices=runs.slices)


def ascending(chosen: Sequence[int]) -> list[Array]:
    """``chosen`` cut into pieces that never descend."""
    values = np.asarray(chosen, np.int64)
    return np.split(values, np.flatnonzero(values[1:] < values[:-1]) + 1)


def pick_columns(runs: Runs, pieces: Sequence[Array]) -> Runs:
    """The columns that ``pieces`` name, no piece descending, one piece after another.

    Columns that do not descend keep what lies between two of them together: a run stays a run.
    """
    row = rows_of(runs)
    found, offset = [], 0
    for piece in pieces:
        start, stop = (np.searchsorted(piece, edge) for edge in (runs.start, runs.stop))
        left = np.flatnonzero(start < stop)
        found.append((row[left], start[left] + offset, stop[left] + offset, runs.full[left]))
        offset += len(piece)
    parts = [np.concatenate(several) for several in zip(*found)] if len(found) > 1 else found[0]
    if len(found) > 1:
        order = np.argsort(parts[0] * (offset + 1) + parts[1], kind="stable")
        parts = [part[order] for part in parts]
    return packed(replace(runs, cols=offset), *parts)


def beside(left: Runs, right: Runs) -> Runs:
    """The columns of ``left`` and then those of ``right``, of the same rows and slices."""
    rows = rows_of(left), rows_of(right)
    places = (
        np.arange(len(rows[0])) + right.first[rows[0]],
        np.arange(len(rows[1])) + left.first[rows[1] + 1],
    )
    shift = np.int32(left.cols)
    both = [(left.start, right.start + shift), (left.stop, right.stop + shift)]
    both += [(left.full, right.full), rows]
    merged = [np.empty(len(a) + len(b), a.dtype) for a, b in both]
    for into, sources in zip(merged, both):
        for place, source in zip(places, sources):
            into[place] = source
    start, stop, full, row = merged
    return packed(replace(left, cols=left.cols + right.cols), row, start, stop, full)


def below(parts: Sequence[Runs]) -> Runs:
    """The rows of each of ``parts``, which have the same columns and slices, one under another."""
    pool = joined(parts, parts[0].slices)
    count = max((slice_count(part) for part in parts if part.rows), default=0)
    rows, before = [], 0
    for part in parts:
        rows.append(before + np.arange(count * part.rows).reshape(count, part.rows))
        before += len(part.first) - 1
    height = sum(part.rows for part in parts)
    return gathered(pool, np.concatenate(rows, 1).ravel(), height=height, slices=pool.slices)


def joined(parts: Sequence[Runs], slices: Array) -> Runs:
    """The slices of each of ``parts``, one after another; ``slices`` are those of the result."""
    ends = np.cumsum([0, *(len(part.start) for part in parts)])
    firsts = [part.first[:-1] + end for part, end in zip(parts, ends)]
    lists = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("start", "stop", "full")
    )
    first = np.concatenate((*firsts, ends[-1:]))
    return Runs(parts[0].rows, parts[0].cols, slices, first, *lists)
