"""Rows and columns of masks picked, and masks put beside, below and behind others.

Few runs are worked on at once, many strip by strip when rows are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexattn.analysis.runs import Array, Runs, from_classes, to_classes
from flexattn.masks import parts, steps
from flexattn.masks.sources import (
    Derived,
    Source,
    aligned,
    all_few,
    on_slices,
    rowwise,
    strips,
)

PIECES = 64
"""Ascending stretches of a choice of columns that are followed run by run."""


def pick_rows(source: Source, chosen: Sequence[int]) -> Source:
    """The rows ``chosen`` of every slice, in this order, repeated where they are."""
    start = chosen[0] if len(chosen) else 0
    if chosen == range(start, start + len(chosen)):
        end = start + len(chosen)
        if isinstance(source, Runs):
            return source.part(start, end)
        return Derived(
            end - start, source.cols, source.slices, lambda a, b: source.part(a + start, b + start)
        )
    wanted = np.asarray(chosen, np.int64)
    if isinstance(source, Runs):
        return parts.pick_rows(source, wanted)

    def strip(begin: int, end: int) -> Runs:
        some = wanted[begin:end]
        spans = np.split(some, np.flatnonzero(np.diff(some) != 1) + 1)
        found = [source.part(int(span[0]), int(span[-1]) + 1) for span in spans if len(span)]
        found = found or [source.part(0, 0)]
        return parts.below([steps.expanded(part) for part in found])

    return Derived(len(wanted), source.cols, source.slices, strip)


def pick_columns(source: Source, chosen: Sequence[int]) -> Source:
    """The columns ``chosen``, in this order, repeated where they are."""
    pieces = parts.ascending(chosen)
    many = len(pieces) > PIECES
    columns = np.asarray(chosen, np.int64)

    def pick(runs: Runs) -> Runs:
        if many:  # each piece would look at every run
            return from_classes(to_classes(runs)[:, :, columns], runs.slices)
        return parts.pick_columns(runs, pieces)

    if many and isinstance(source, Runs):
        found = [pick(part) for _, _, part in strips(source)]
        return parts.below(found) if found else parts.pick_columns(source, pieces)
    return rowwise(pick, source, cols=len(chosen))


def beside(left: Source, right: Source) -> Source:
    """The columns of ``left`` and then those of ``right``, of the same rows."""
    return rowwise(parts.beside, *aligned(left, right), cols=left.cols + right.cols)


def below(top: Source, bottom: Source) -> Source:
    """The rows of ``top`` and then those of ``bottom``, of the same columns."""
    top, bottom = aligned(top, bottom)
    if few := all_few((top, bottom)):
        return parts.below(few)

    def strip(begin: int, end: int) -> Runs:
        split = [min(max(row - top.rows, 0), bottom.rows) for row in (begin, end)]
        upper = top.part(min(begin, top.rows), min(end, top.rows))
        return parts.below([steps.expanded(upper), steps.expanded(bottom.part(*split))])

    return Derived(top.rows + bottom.rows, top.cols, top.slices, strip)


def joined(sources: Sequence[Source], slices: Sequence[Array]) -> Source:
    """The batches of ``sources`` one after another.

    ``slices`` are those of each, for all its batches and as many heads as the others have.
    """
    known: dict[int, tuple[Array, int]] = {}  # which slices a source uses, and how many come before
    tight, places, before = [], [], 0
    for source, own in zip(sources, slices):
        if id(source) not in known:
            used = np.unique(own)
            known[id(source)] = used, before
            tight.append(on_slices(source, used, np.arange(len(used), dtype=np.int32)[:, None]))
            before += len(used)
        used, start = known[id(source)]
        places.append(np.searchsorted(used, own) + start)
    together = np.concatenate(places).astype(np.int32)
    first = tight[0]

    def strip(begin: int, end: int) -> Runs:
        found = [steps.expanded(source.part(begin, end)) for source in tight]
        return parts.joined(found, together)

    if few := all_few(tight):
        return parts.joined(few, together)
    return Derived(first.rows, first.cols, together, strip)
