"""A block mask drawn with characters, two per block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL, Array, Runs
from flexattn.masks.parts import slice_count
from flexattn.masks.sizes import check_table
from flexattn.masks.sources import Source, on_slices, strips
from flexattn.masks.tables import cdiv

SIGNS = {EMPTY: "  ", PARTIAL: "░░", FULL: "██"}


def draw(cells: Array) -> str:
    """``cells`` (uint8 [lines, columns]) of one head, a line each.

    ``██`` stands for blocks that are all kept, spaces for blocks of which nothing is, and
    ``░░`` for the rest: blocks that the mask_mod cuts, or several that differ.
    """
    if not cells.size:
        return "(no elements)\n"
    return "".join("".join(map(SIGNS.__getitem__, line)) + "\n" for line in cells.tolist())


def coarsen(source: Source, grid: tuple[int, int], slices: Sequence[int]) -> dict[int, Array]:
    """Pictures of some ``slices`` in at most ``grid`` cells; PARTIAL where a cell's blocks differ.

    Blocks are counted per cell, run by run: no block is looked at by itself.
    """
    step = [max(1, cdiv(size, most)) for size, most in zip((source.rows, source.cols), grid)]
    lines, columns = (cdiv(size, s) for size, s in zip((source.rows, source.cols), step))
    check_table("the picture", (len(slices), lines, columns), 2)
    edges = np.minimum(np.arange(columns + 1) * step[1], source.cols)
    counts = np.zeros((2, len(slices), lines, columns), np.int64)
    drawn = on_slices(source, np.array(slices), np.arange(len(slices), dtype=np.int32)[None])
    spans = [(0, source.rows, drawn)] if isinstance(drawn, Runs) else strips(drawn)
    for begin, end, part in spans:
        assert isinstance(part, Runs)
        band = np.arange(begin, end) // step[0]
        starts = np.flatnonzero(np.diff(band, prepend=-1))
        for kind in (0, 1):
            found = np.add.reduceat(_counts(part, bool(kind), edges), starts, axis=1)
            counts[kind][:, band[starts]] += found
    heights = np.diff(np.minimum(np.arange(lines + 1) * step[0], source.rows))
    area = heights[:, None] * np.diff(edges)
    cells = np.full(counts.shape[1:], PARTIAL, np.uint8)
    cells[counts[1] == area] = FULL
    cells[counts.sum(0) == 0] = EMPTY
    return dict(zip(slices, cells))


def _counts(runs: Runs, full: bool, edges: Array) -> Array:
    """Blocks of one class between neighbouring ``edges``: int64 [slices, rows, cells]."""
    mine = runs.full == full
    start, length = (x.astype(np.int64) for x in (runs.start, runs.stop - runs.start))
    before = np.zeros(len(start) + 1, np.int64)
    below = np.empty((len(edges), len(runs.first) - 1), np.int64)
    for at, edge in enumerate(edges.tolist()):  # blocks of each row below the edge
        covered = np.clip(edge - start, 0, length)
        if runs.period is not None and runs.count is not None:
            period = np.maximum(runs.period, 1)
            turns = np.clip((edge - start) // period, 0, runs.count - 1)
            covered = turns * length + np.clip(edge - start - turns * period, 0, length)
        np.cumsum(np.where(mine, covered, 0), out=before[1:])
        below[at] = np.diff(before[runs.first])
    return np.diff(below, axis=0).T.reshape(slice_count(runs), runs.rows, len(edges) - 1)
