"""Conditions on the distance q - kv alone, exact on every tile.

Linear comparisons hold on an interval of distances. Others are worked out for every distance and
counted over the diagonals that cross a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from flexattn.analysis.tiles.forms import Forms
from flexattn.analysis.tiles.frame import Frame
from flexattn.analysis.tiles.lines import three
from flexattn.analysis.tiles.rewrites import OPPOSITE, Signed
from flexattn.analysis.tiles.truth import Truth, exact
from flexattn.analysis.tiles.values import Array, Values
from flexattn.ir.nodes import INTS, Apply, Node

_FAR = 1 << 50

Interval = tuple[Array, Array]
"""First and last distance where a condition holds: [B, H], or 1 along what it does not read."""


class Distances:
    """All of some conditions on the distance.

    Args:
        parts: The conditions.
        forms: Of the mask's nodes.
        spans: First query, end of queries, number of keys.
        far: Makes values at all distances, ascending; asked only where they are needed.
    """

    def __init__(
        self,
        parts: Sequence[Signed],
        forms: Forms,
        spans: tuple[int, int, int],
        far: Callable[[], Values],
    ) -> None:
        self.parts, self._far = parts, far
        self.least = spans[0] - spans[2] + 1
        self._before: Array | None = None
        self._holds: Array | None = None
        intervals = [_interval(node, holds, forms) for node, holds in parts]
        known = [found for found in intervals if found is not None]
        self.interval: Interval | None = None
        if len(known) == len(intervals):
            self.interval = (
                reduce(np.maximum, [low for low, _ in known]),
                reduce(np.minimum, [high for _, high in known]),
            )

    def truth(self, frame: Frame) -> Truth:
        """The truth of all of the conditions on the tiles of ``frame``."""
        if self.interval is not None:
            first, last = _window(frame)
            low, high = (frame.all(_within(end, first.dtype)) for end in self.interval)
            return exact(
                (first <= high) & (last >= low) & (low <= high), (first < low) | (last > high)
            )
        if frame.tiles is None and _is_square(frame):
            return _per_diagonal(self.holds, frame)
        return self._counted(frame)

    @property
    def holds(self) -> Array:
        """Whether the conditions hold at each distance: bool [B, H, distances]."""
        if self._holds is None:
            values = self._far()
            found = [values(node) ^ (not holds) for node, holds in self.parts]
            self._holds = three(reduce(np.bitwise_and, found))
        return self._holds

    def _counted(self, frame: Frame) -> Truth:
        if self._before is None:
            holds = self.holds
            self._before = np.zeros((*holds.shape[:-1], holds.shape[-1] + 1), np.int32)
            np.cumsum(holds, axis=-1, out=self._before[..., 1:])
        before = self._before
        first, last = _window(frame)
        first, end = first - self.least, last + (1 - self.least)
        if before.shape[:2] == (1, 1):
            count = before[0, 0].take(end) - before[0, 0].take(first)
        else:
            count = self._count_per_head(before, frame, first, end)
        return exact(count > 0, count < end - first)

    def _count_per_head(self, before: Array, frame: Frame, first: Array, end: Array) -> Array:
        if frame.tiles is None:
            return np.asarray(before[..., end[0, 0]] - before[..., first[0, 0]])
        b, h = (i if size > 1 else 0 for i, size in zip(frame.tiles[:2], before.shape[:2]))
        return np.asarray(before[b, h, end] - before[b, h, first])


def _within(ends: Array, dtype: Any) -> Array:
    """Ends of intervals in the dtype of distances, which lie well inside its range."""
    info = np.iinfo(dtype)
    return ends.clip(info.min, info.max).astype(dtype)


def _window(frame: Frame) -> tuple[Array, Array]:
    """Least and greatest distance in each tile."""
    q, kv = frame.q, frame.kv
    q0, q1 = (frame.rows(x[None, None]) for x in (q.first, q.last))
    kv0, kv1 = (frame.cols(x[None, None]) for x in (kv.first, kv.last))
    return q0 - kv1, q1 - kv0


def _interval(node: Node, holds: bool, forms: Forms) -> Interval | None:
    """Where a linear comparison of integers holds."""
    if not isinstance(node, Apply) or node.op not in OPPOSITE or node.args[0].dtype not in INTS:
        return None
    a, b = (forms.linear(arg) for arg in node.args)
    op = node.op if holds else OPPOSITE[node.op]
    if a is None or b is None or op == "ne":
        return None
    rest = _at_zero(node.args[0], forms) - _at_zero(node.args[1], forms)
    by = a.q - b.q
    if by < 0:  # by * d + rest op 0, with by made positive
        by, rest = -by, -rest
        op = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}.get(op, op)
    if by == 0:
        return None
    return _solve(op, by, rest)


def _solve(op: str, by: int, rest: Array) -> Interval:
    """The distances d with ``by * d + rest op 0``."""
    none = np.full_like(rest, _FAR)
    least, greatest = -(rest // by), -rest // by  # of >= and of <=
    match op:
        case "ge":
            return least, none
        case "gt":
            return -((rest - 1) // by), none
        case "le":
            return -none, greatest
        case "lt":
            return -none, (-rest - 1) // by
    return least, greatest


def _at_zero(node: Node, forms: Forms) -> Array:
    """The value of a linear node where both positions are 0: int64 [B, H]."""
    return three(forms.origin(node))[..., 0].astype(np.int64)


def _is_square(frame: Frame) -> bool:
    """Whether all tiles are of one size, as long as wide."""
    size = frame.q.size
    return (
        size > 0
        and size == frame.kv.size
        and all(int(axis.last[-1] - axis.first[-1]) + 1 == size for axis in (frame.q, frame.kv))
    )


def _per_diagonal(holds: Array, frame: Frame) -> Truth:
    """One entry per diagonal of tiles, shown as [rows, cols] without copying.

    Diagonal i, of row - col = i - (cols - 1), has the distances of group i of ``size``, and those
    of group i + 1 but its last.
    """
    rows, cols, size = len(frame.q), len(frame.kv), frame.q.size
    padded = np.zeros((*holds.shape[:-1], (rows + cols) * size), bool)
    padded[..., : holds.shape[-1]] = holds
    groups = padded.reshape(*holds.shape[:-1], rows + cols, size)
    some = np.logical_or(groups[..., :-1, :].any(-1), groups[..., 1:, :-1].any(-1))
    all_ = np.logical_and(groups[..., :-1, :].all(-1), groups[..., 1:, :-1].all(-1))
    return exact(_spread(some, rows, cols), _spread(np.logical_not(all_), rows, cols))


def _spread(diagonal: Array, rows: int, cols: int) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(diagonal, cols, axis=-1)
    return windows[..., :rows, ::-1]
