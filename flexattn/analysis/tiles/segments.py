"""Tiles cut where a sub-expression jumps, so that each piece is simple: row ends, documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.prover import Prover
from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.analysis.tiles.witness import CENTRE, CORNERS, SPREAD, witnesses
from flexattn.ir.nodes import Node

MOST = 18
"""Pieces of one interval; one with more is not cut at all."""

POINTS = np.concatenate([CENTRE, CORNERS, SPREAD[::6]])

_MARGIN = 4  # positions looked at beyond the ends of an interval, to see a slope there

_TOGETHER = 1 << 15  # pieces of tiles proved together, about
_ALL = 1 << 22  # pieces of tiles looked at


@dataclass(frozen=True)
class Cut:
    """The pieces of both axes, of the intervals that some tiles lie in.

    Attributes:
        axes: The pieces of q_idx and of kv_idx.
        first: Of each interval of either axis, its first piece.
        count: How many pieces it has.
    """

    axes: tuple[Axis, Axis]
    first: tuple[Array, Array]
    count: tuple[Array, Array]

    @classmethod
    def of(cls, facts: Facts, frame: Frame) -> Cut:
        """The pieces for the listed tiles of ``frame``."""
        assert frame.tiles is not None
        _, _, row, col = frame.tiles
        q, kv = _cut(frame.q, facts.used[0], row), _cut(frame.kv, facts.used[1], col)
        return cls((q[0], kv[0]), (q[1], kv[1]), (q[2], kv[2]))

    def sizes(self, tiles: tuple[Array, ...]) -> Array:
        """How many pieces each of the tiles (b, h, row, col) has."""
        found: Array = self.count[0][tiles[2]] * self.count[1][tiles[3]]
        return found


def by_segments(node: Node, facts: Facts, frame: Frame, cut: Cut) -> Truth | None:
    """The truth of ``node`` on the listed tiles from that on their pieces; None if too many."""
    assert frame.tiles is not None
    b, h, row, col = frame.tiles
    n = cut.sizes(frame.tiles)
    total = int(n.sum())
    if total > _ALL or total == len(row):
        return None
    parts = []
    batch = (np.cumsum(n) - 1) // _TOGETHER
    for at in np.split(np.arange(len(row)), np.flatnonzero(np.diff(batch)) + 1):
        tile = np.repeat(at, n[at])
        starts = np.cumsum(n[at]) - n[at]
        place = np.arange(len(tile)) - np.repeat(starts, n[at])
        wide = cut.count[1][col][tile]
        rows, cols = cut.first[0][row][tile] + place // wide, cut.first[1][col][tile] + place % wide
        inner = Frame(*cut.axes, (b[tile], h[tile], rows, cols))
        parts.append(_joined(node, facts, inner, starts))
    return Truth(*map(np.concatenate, zip(*parts)))


def _joined(node: Node, facts: Facts, inner: Frame, starts: Array) -> Truth:
    """The truth on tiles of which each has the pieces from its start on."""
    assert inner.tiles is not None
    count = len(inner.tiles[0])
    tile = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count)))
    found = Prover(facts, inner).truth(node, True)
    may, may_not, some, some_not = (np.broadcast_to(side, (count,)) for side in found)
    truth = Truth(*(np.logical_or.reduceat(s, starts) for s in (may, may_not, some, some_not)))
    # What is still open is asked of single pairs where it may be: not all over the tile.
    open_ = truth.may & ~truth.some | truth.may_not & ~truth.some_not
    asked = np.flatnonzero((may & may_not & ~(some & some_not)) & open_[tile])
    kept, dropped = _witnesses(node, facts, inner, asked)
    some, some_not = truth.some.copy(), truth.some_not.copy()
    some[tile[asked[kept]]] = True
    some_not[tile[asked[dropped]]] = True
    return truth._replace(some=some, some_not=some_not)


def _witnesses(node: Node, facts: Facts, frame: Frame, asked: Array) -> tuple[Array, Array]:
    assert frame.tiles is not None
    listed = Frame(frame.q, frame.kv, tuple(index[asked] for index in frame.tiles))
    try:
        return witnesses(node, facts, listed, POINTS)
    except UnknownNode:
        return np.zeros(len(asked), bool), np.zeros(len(asked), bool)


def _cut(axis: Axis, lines: Iterable[Line], used: Array) -> tuple[Axis, Array, Array]:
    """The pieces of the intervals ``used``; of each interval, its first piece and their number."""
    wanted = np.zeros(len(axis), bool)
    wanted[used] = True
    chosen = np.flatnonzero(wanted)
    start, size = int(axis.first[0]), axis.size
    at = (axis.first[chosen] - start)[:, None] + np.arange(-_MARGIN, size + _MARGIN)
    places = np.clip(at, 0, int(axis.last[-1]) - start)
    jumps = np.zeros(places.shape, bool)
    for line in lines:
        try:
            values = line.near(places)
        except UnknownNode:
            continue
        if values.ndim > 3 and values.dtype.kind != "f":
            jumps |= _jumps(values)
    jumps = jumps[:, _MARGIN:-_MARGIN]
    inside = at[:, _MARGIN:-_MARGIN] == places[:, _MARGIN:-_MARGIN]
    jumps[:, 0] = False
    jumps &= inside
    jumps[jumps.sum(1) >= MOST] = False
    jumps[:, 0] = True
    starts = np.flatnonzero(jumps[inside])
    count = np.zeros(len(axis), np.int64)
    count[chosen] = jumps.sum(1)
    covered = places[:, _MARGIN:-_MARGIN][inside]
    ends = np.append(starts[1:], len(covered)) - 1
    pieces = Axis(covered[starts] + start, covered[ends] + start, places=covered, cuts=starts)
    return pieces, np.cumsum(count) - count, count


def _jumps(values: Array) -> Array:
    """Where a new piece of ``values`` [B, H, intervals, positions] starts: it is linear on each."""
    jumps = np.zeros(values.shape[-2:], bool)
    steps = np.diff(values.astype(np.int8) if values.dtype == bool else values, axis=-1)
    same = steps[..., 1:] == steps[..., :-1]
    run = same[..., 2:] & same[..., 1:-1] & same[..., :-2]  # four equal steps
    smooth = np.zeros(steps.shape, bool)
    for shift in range(4):
        smooth[..., shift : shift + run.shape[-1]] |= run
    jumps[:, 1:] |= ~smooth.all((0, 1))
    # Where one slope meets another, the corner belongs to the second.
    bends = ~same & smooth[..., 1:] & smooth[..., :-1]
    jumps[:, 1:-1] |= bends.any((0, 1))
    return jumps
