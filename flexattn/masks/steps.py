"""Runs of blocks combined class by class: each mask is a step function over rows and columns.

The place of a block is ``row * (cols + 1) + column``; the column more is EMPTY in every mask and
keeps the rows apart. A mask changes its class where a run starts or stops. Between two places
where either of two masks changes, neither does, so that one look at both settles a whole run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL, Array, Runs, from_classes

Rule: TypeAlias = Array
"""uint8 [3, 3]: the class of a block by its classes in two masks; EMPTY where both are."""


def size(runs: Runs) -> int:
    """Number of runs, each repetition counted."""
    return len(runs.start) if runs.count is None else int(runs.count.sum(dtype=np.int64))


def rows_of(runs: Runs) -> Array:
    """The row of each run, over all slices: int64 [runs]."""
    return np.repeat(np.arange(len(runs.first) - 1), np.diff(runs.first))


def combined(one: Runs, other: Runs, rule: Rule) -> Runs:
    """What ``rule`` makes of two masks of the same rows, columns and slices."""
    firsts, seconds = _steps(one), _steps(other)
    keys = np.concatenate((firsts[0], seconds[0]))
    keys.sort(kind="stable")  # merges what is sorted in linear time
    value = rule[_at(firsts, keys), _at(seconds, keys)]
    before = np.concatenate((np.zeros(1, np.uint8), value[:-1]))[: len(value)]
    changes = np.flatnonzero(value != before)
    keys, value = keys[changes], value[changes]
    run = np.flatnonzero(value != EMPTY)  # never the last: there both have ended
    row, start = np.divmod(keys[run], one.cols + 1)
    stop = keys[run + 1] - row * (one.cols + 1)
    return packed(one, row, start, stop, value[run] == FULL)


def packed(like: Runs, row: Array, start: Array, stop: Array, full: Array) -> Runs:
    """Runs of pieces sorted by row and column, where neighbours of one class become one.

    ``like`` has the rows, columns and slices of the result.
    """
    joined = (row[1:] == row[:-1]) & (start[1:] == stop[:-1]) & (full[1:] == full[:-1])
    if joined.any():
        begins = np.flatnonzero(np.concatenate(([True], ~joined)))
        ends = np.append(begins[1:], len(row)) - 1
        row, start, stop, full = row[begins], start[begins], stop[ends], full[begins]
    first = np.zeros(len(like.first), np.int64)
    np.cumsum(np.bincount(row, minlength=len(first) - 1), out=first[1:])
    columns = start.astype(np.int32, copy=False), stop.astype(np.int32, copy=False)
    return Runs(like.rows, like.cols, like.slices, first, *columns, full)


def expanded(runs: Runs) -> Runs:
    """The same without repetition."""
    if runs.count is None or runs.period is None:
        return runs
    count = runs.count.astype(np.int64)
    turn = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    shift = turn * np.repeat(runs.period, count)
    row, start, stop, full = (
        np.repeat(part, count) for part in (rows_of(runs), runs.start, runs.stop, runs.full)
    )
    start, stop = start + shift, stop + shift
    order = np.argsort(row * (runs.cols + 1) + start, kind="stable")
    return packed(runs, row[order], start[order], stop[order], full[order])


def marked(rows: Array, cols: Array) -> Runs:
    """FULL in the rows and columns that are true in ``rows`` or ``cols``, elsewhere PARTIAL."""
    plain = np.where(cols, FULL, PARTIAL).astype(np.uint8)
    two = from_classes(np.stack((plain, np.full_like(plain, FULL)))[None])
    return gathered(two, rows.astype(np.int64), height=len(rows), slices=two.slices)


def gathered(runs: Runs, rows: Array, *, height: int, slices: Array) -> Runs:
    """The rows ``rows`` (int64, counted over all slices), as slices of ``height`` rows."""
    sizes = np.diff(runs.first)[rows]
    first = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(sizes, out=first[1:])
    at = np.repeat(runs.first[:-1][rows] - first[:-1], sizes)
    at += np.arange(len(at))
    period, count = (None if part is None else part[at] for part in (runs.period, runs.count))
    lists = runs.start[at], runs.stop[at], runs.full[at]
    return Runs(height, runs.cols, slices, first, *lists, period, count)


def without_full(runs: Runs) -> Runs:
    """The same blocks, all of them PARTIAL."""
    return packed_again(replace(runs, full=np.zeros_like(runs.full)))


def packed_again(runs: Runs) -> Runs:
    """``runs`` with neighbours of one class joined; what is repeated stays as it is."""
    if runs.count is not None:
        return runs
    return packed(runs, rows_of(runs), runs.start, runs.stop, runs.full)


def _steps(runs: Runs) -> tuple[Array, Array]:
    """The places where ``runs`` change, ascending, and the classes before and from each on."""
    base = rows_of(runs) * (runs.cols + 1)
    keys = np.empty((len(base), 2), np.int64)
    np.add(base, runs.start, out=keys[:, 0])
    np.add(base, runs.stop, out=keys[:, 1])
    values = np.zeros(2 * len(base) + 1, np.uint8)
    values[1::2] = np.where(runs.full, FULL, PARTIAL)
    return keys.ravel(), values


def _at(steps: tuple[Array, Array], keys: Array) -> Array:
    """The class at each of ``keys``. Where one run stops and another starts, the latter counts."""
    return steps[1][np.searchsorted(steps[0], keys, side="right")]
