"""Runs taken whole where they are few, and strip by strip, on demand, where they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from flexattn.analysis.runs import Array, RowSource, Runs
from flexattn.masks import steps
from flexattn.masks.parts import below, pick_slices, slice_count
from flexattn.masks.sizes import check_listed

Source: TypeAlias = "Runs | RowSource"

WHOLE = 1 << 22
"""Runs, repetitions counted, of masks that are combined at once."""

STRIP = 1 << 20
"""Blocks in the strips of rows that are looked at in turn."""


@dataclass(frozen=True, eq=False)
class Derived:
    """Runs made from those of other masks when rows are asked for.

    Attributes:
        make: (begin, end) to the rows [begin, end) of every slice.
    """

    rows: int
    cols: int
    slices: Array
    make: Callable[[int, int], Runs]

    def part(self, begin: int, end: int) -> Runs:
        """The rows [begin, end) of every slice."""
        return self.make(begin, end)


def rowwise(make: Callable[..., Runs], *sources: Source, cols: int | None = None) -> Source:
    """``make`` of the runs of ``sources``, which works on each row by itself.

    Sources have the same rows and slices, and so has the result; it has ``cols`` columns, or
    those of the first source. ``make`` is given runs without repetition.
    """
    if few := all_few(sources):
        return make(*few)
    first = sources[0]

    def strip(begin: int, end: int) -> Runs:
        return make(*(steps.expanded(source.part(begin, end)) for source in sources))

    return Derived(first.rows, first.cols if cols is None else cols, first.slices, strip)


def all_few(sources: Sequence[Source]) -> list[Runs]:
    """``sources`` without repetition if all are runs and few enough to be taken whole, else []."""
    few = [s for s in sources if isinstance(s, Runs) and steps.size(s) < WHOLE]
    return list(map(steps.expanded, few)) if len(few) == len(sources) else []


def aligned(one: Source, other: Source) -> tuple[Source, Source]:
    """Both with the same slices: one for each pair of slices that meet in a batch and head."""
    if one.slices.size == 1 and other.slices.size == 1 and not (one.slices | other.slices).any():
        return one, other
    frame = np.broadcast_shapes(one.slices.shape, other.slices.shape)
    firsts, seconds = (np.broadcast_to(part.slices, frame).ravel() for part in (one, other))
    many = int(seconds.max(initial=0)) + 1
    pairs, number = np.unique(firsts.astype(np.int64) * many + seconds, return_inverse=True)
    slices = number.reshape(frame).astype(np.int32)
    return on_slices(one, pairs // many, slices), on_slices(other, pairs % many, slices)


def on_slices(source: Source, numbers: Array, slices: Array) -> Source:
    """The slices ``numbers`` of ``source``; ``slices`` are those of the result."""
    if isinstance(source, Runs):
        return pick_slices(source, numbers, slices)

    def strip(begin: int, end: int) -> Runs:
        return pick_slices(source.part(begin, end), numbers, slices)

    return Derived(source.rows, source.cols, slices, strip)


def used_slices(source: Source, slices: Array) -> Source:
    """``source`` for ``slices``, some of its own, without those that are no longer used."""
    numbers, place = np.unique(slices, return_inverse=True)
    return on_slices(source, numbers, place.reshape(slices.shape).astype(np.int32))


def slice_uses(slices: Array, frame: tuple[int, int], count: int) -> Array:
    """In how many batches and heads of ``frame`` each of ``count`` slices is used: int64."""
    uses = np.bincount(slices.ravel(), minlength=count)[:count]
    for size, own in zip(frame, slices.shape):
        uses = uses * (size // own if own else 0)
    return uses


def recolumned(source: Source, cols: int) -> Source:
    """``source`` with ``cols`` columns, which its runs are known to lie in."""
    if source.cols == cols:
        return source
    if isinstance(source, Runs):
        return replace(source, cols=cols)
    rows, slices = source.rows, source.slices
    return Derived(rows, cols, slices, lambda a, b: replace(source.part(a, b), cols=cols))


def strips(source: Source, most: int = STRIP) -> Iterator[tuple[int, int, Runs]]:
    """Strips of rows of about ``most`` blocks: begin, end (exclusive) and the expanded runs."""
    across = max(1, source.cols) * (int(source.slices.max(initial=0)) + 1)
    height = max(1, most // across)
    for begin in range(0, source.rows, height):
        end = min(begin + height, source.rows)
        yield begin, end, steps.expanded(source.part(begin, end))


def row_counts(source: Source) -> Array:
    """Partial and full blocks in each row: int64 [2, slices, rows]."""
    if isinstance(source, Runs):
        return _row_counts(source)
    found = [_row_counts(part) for _, _, part in strips(source)]
    return np.concatenate(found, 2) if found else _row_counts(source.part(0, 0))


def _row_counts(runs: Runs) -> Array:
    length = (runs.stop - runs.start).astype(np.int64)
    if runs.count is not None:
        length *= runs.count
    rows = []
    for full in (False, True):
        before = np.concatenate(([0], np.cumsum(np.where(runs.full == full, length, 0))))
        rows.append(np.diff(before[runs.first]).reshape(slice_count(runs), runs.rows))
    return np.stack(rows)


def collected(source: Source) -> Runs:
    """All of ``source`` as runs.

    Raises:
        BlockMaskSizeError: They are made on demand, and list too many blocks.
    """
    if isinstance(source, Runs):
        return source
    check_listed(int(row_counts(source).sum()))
    found = [part for _, _, part in strips(source)]
    if not found:
        return source.part(0, 0)
    return found[0] if len(found) == 1 else below(found)
