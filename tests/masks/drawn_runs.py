"""Runs of blocks drawn by hypothesis, each with the dense classes that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from flexattn.analysis.runs import Runs

Array = np.ndarray


@dataclass(frozen=True)
class Rows:
    """Runs that can be asked for by rows alone."""

    runs: Runs

    @property
    def rows(self) -> int:
        return self.runs.rows

    @property
    def cols(self) -> int:
        return self.runs.cols

    @property
    def slices(self) -> Array:
        return self.runs.slices

    def part(self, begin: int, end: int) -> Runs:
        assert 0 <= begin <= end <= self.runs.rows
        return self.runs.part(begin, end)


def dense_of(source: Runs | Rows) -> Array:
    """uint8 [B|1, H|1, rows, cols], block by block."""
    runs = source.runs if isinstance(source, Rows) else source
    slices = int(runs.slices.max(initial=-1)) + 1
    classes = np.zeros((slices, runs.rows, runs.cols), np.uint8)
    for row in range(slices * runs.rows):
        for i in range(runs.first[row], runs.first[row + 1]):
            for turn in range(1 if runs.count is None else runs.count[i]):
                shift = 0 if runs.period is None else turn * runs.period[i]
                for column in range(runs.start[i] + shift, runs.stop[i] + shift):
                    assert classes[row // runs.rows, row % runs.rows, column] == 0
                    classes[row // runs.rows, row % runs.rows, column] = 1 + runs.full[i]
    return classes[runs.slices]


@st.composite
def sources(draw, rows: int, cols: int, frame=(1, 1), repeated=True):  # type: ignore[no-untyped-def]
    """Runs for batches and heads of ``frame``, some of them shared; or the same row by row."""
    shape = tuple(draw(st.sampled_from([1, size])) for size in frame)
    count = draw(st.integers(1, max(1, shape[0] * shape[1])))
    slices = np.array(
        [draw(st.integers(0, count - 1)) for _ in range(shape[0] * shape[1])], np.int32
    ).reshape(shape)
    repeat = repeated and draw(st.booleans())
    lists = [draw(_row(cols, repeat)) for _ in range(count * rows)]
    first = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    flat = np.array([run for row in lists for run in row], np.int64).reshape(-1, 5)
    start, stop, period, times = (flat[:, i].astype(np.int32) for i in (0, 1, 3, 4))
    runs = Runs(rows, cols, slices, first, start, stop, flat[:, 2] == 2)
    if repeat:
        runs = Runs(rows, cols, slices, first, start, stop, flat[:, 2] == 2, period, times)
    return Rows(runs) if draw(st.booleans()) else runs


@st.composite
def _row(draw, cols: int, repeat: bool):  # type: ignore[no-untyped-def]
    """(start, stop, class, period, count) of each run of a row; neighbours of a class are one."""
    if repeat and cols >= 2 and draw(st.booleans()):
        period = draw(st.integers(2, cols))
        inside = draw(_row(period, False))
        if inside and inside[0][0] == 0 and inside[-1][1] == period:
            inside = inside[1:]  # else the last run of a turn would touch the first of the next
        times = cols // period
        return [(a, b, kind, period, draw(st.integers(1, times))) for a, b, kind, _, _ in inside]
    kinds = [draw(st.integers(0, 2)) for _ in range(cols)]
    edges = [i for i in range(cols + 1) if i in (0, cols) or kinds[i] != kinds[i - 1]]
    return [(a, b, kinds[a], 1, 1) for a, b in pairwise(edges) if kinds[a]]
