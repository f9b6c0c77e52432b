"""Checks that runs of blocks are possible: those of a file, and those a mask gets lengths for."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.runs import Array, Runs
from flexattn.errors import BlockMaskError
from flexattn.masks.sources import Source, strips
from flexattn.masks.steps import rows_of


def columns_fit(source: Source, cols: int) -> None:
    """Raise BlockMaskError unless all listed blocks lie in ``cols`` columns."""
    if cols >= source.cols:
        return
    last = max((int(part.stop.max(initial=0)) for _, _, part in strips(source)), default=0)
    if last > cols:
        raise BlockMaskError(
            f"the mask lists column {last - 1} of blocks.",
            why=f"for these lengths it has {cols} columns.",
            fix="crop it first, mask._adjust(q_len, kv_len), or set lengths that hold its blocks.",
        )


def check_runs(runs: Runs, frame: tuple[int, int]) -> None:
    """Raise BlockMaskError unless ``runs`` can be those of a mask of ``frame`` = (B, H)."""
    problem = _shape_problem(runs, frame) or _run_problem(runs)
    if problem:
        raise BlockMaskError(
            f"the runs of blocks are damaged: {problem}.",
            why="kernels trust them.",
            fix="save the mask again, or make it anew with create_block_mask.",
        )


def _shape_problem(runs: Runs, frame: tuple[int, int]) -> str | None:
    lists = {"start": np.int32, "stop": np.int32, "full": np.bool_, "period": np.int32}
    wanted = {"slices": np.int32, "first": np.int64, **lists, "count": np.int32}
    found: dict[str, Array | None] = {name: getattr(runs, name) for name in wanted}
    if (runs.period is None) != (runs.count is None):
        return "period or count is missing"
    for name, dtype in wanted.items():
        array = found[name]
        if array is not None and (array.dtype != dtype or array.ndim != 1 + (name == "slices")):
            return f"{name} is {array.dtype} of {array.ndim} dimensions"
    if any(own not in (1, size) for own, size in zip(runs.slices.shape, frame)):
        return f"slices of shape {runs.slices.shape} serve no mask of B and H {frame}"
    slices = (len(runs.first) - 1) // max(runs.rows, 1)
    if len(runs.first) != slices * runs.rows + 1:
        return f"{len(runs.first) - 1} rows are not a multiple of {runs.rows}"
    if runs.rows and runs.slices.size and not 0 <= runs.slices.min() <= runs.slices.max() < slices:
        return f"there are {slices} slices"
    if runs.first[0] != 0 or (np.diff(runs.first) < 0).any():
        return "first does not ascend from 0"
    lengths = {len(a) for name in (*lists, "count") if (a := found[name]) is not None}
    return None if lengths == {int(runs.first[-1])} else "lists differ in length"


def _run_problem(runs: Runs) -> str | None:
    start, stop = runs.start.astype(np.int64), runs.stop.astype(np.int64)
    last = stop
    if runs.period is not None and runs.count is not None:
        if (runs.count < 1).any() or ((runs.count > 1) & (runs.period < stop - start)).any():
            return "a run repeats itself over itself"
        last = stop + (runs.count.astype(np.int64) - 1) * runs.period
    if (start < 0).any() or (stop <= start).any() or (last > runs.cols).any():
        return f"a run lies outside of {runs.cols} columns"
    for _, _, part in strips(runs):
        row = rows_of(part)
        if ((row[1:] == row[:-1]) & (part.start[1:] < part.stop[:-1])).any():
            return "two runs of a row overlap"
    return None
