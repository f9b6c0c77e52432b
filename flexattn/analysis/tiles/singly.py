"""Decides tiles that proofs left, one by one: by single pairs, then in pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL
from flexattn.analysis.tiles.census import Census
from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.segments import Cut, by_segments
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.analysis.tiles.witness import CENTRE, CORNERS, MANY, SPREAD, witnesses
from flexattn.ir.nodes import Node

UNDECIDED = 3

MOST_POINTS = 1 << 20
"""Pairs evaluated as witnesses at one stage, for points that are many to a tile."""

MOST_PAIRS = 1 << 25
"""Pairs evaluated here; if tiles that are left have more, they are left to a kernel."""

_PIECE = 1 << 17

FEW = 3
"""Pieces of a tile, on average, that are proved before many points of it are looked at."""


@dataclass
class Asked:
    """Tiles, and what is known of them.

    Attributes:
        mask: Root of the mask.
        facts: Of the batches and heads.
        axes: The finest intervals.
        tiles: (b, h, row, col) of each tile.
        known: Whether a kept pair of each is known, and whether a dropped one, or that the tile
            sticks out.
    """

    mask: Node
    facts: Facts
    axes: tuple[Axis, Axis]
    tiles: tuple[Array, ...]
    known: tuple[Array, ...]


def decide_singly(asked: Asked, passed_over: Array, counted: Census) -> Array:
    """Classes of the tiles, UNDECIDED for those left and those passed over."""
    return _Work(asked, passed_over, counted).run()


class _Work:
    def __init__(self, asked: Asked, passed_over: Array, counted: Census) -> None:
        self.asked, self.counted = asked, counted
        self.kept, self.dropped = (side.copy() for side in asked.known)
        self.classes = np.full(len(self.kept), UNDECIDED, np.uint8)
        self.open = np.flatnonzero(~passed_over)

    def run(self) -> Array:
        mixed = {Q, KV} <= self.asked.facts.forms.reads(self.asked.mask)
        for points in (CENTRE, CORNERS, SPREAD[::4]):
            self._by_witness(points)
        cut = Cut.of(self.asked.facts, self._frame()) if len(self.open) and mixed else None
        # Where tiles fall into many pieces, points are cheaper.
        cheap = cut is not None and cut.sizes(self._frame().tiles or ()).mean() <= FEW
        if not cheap:
            self._by_many(SPREAD)
        if cut is not None:
            self._by_segments(cut)
        self._by_many(MANY)
        if len(self.open):
            self._by_evaluation()
        return self.classes

    def _frame(self) -> Frame:
        return Frame(*self.asked.axes, tuple(index[self.open] for index in self.asked.tiles))

    def _by_many(self, points: Array) -> None:
        if len(self.open) * len(points) <= MOST_POINTS:
            self._by_witness(points)

    def _by_witness(self, points: Array) -> None:
        if not len(self.open):
            return
        try:
            kept, dropped = witnesses(self.asked.mask, self.asked.facts, self._frame(), points)
        except (UnknownNode, RecursionError):
            return
        self.kept[self.open] |= kept
        self.dropped[self.open] |= dropped
        found = self.kept[self.open] & self.dropped[self.open]
        self._take(np.where(found, PARTIAL, UNDECIDED), "witness")

    def _by_segments(self, cut: Cut) -> None:
        if not len(self.open):
            return
        truth = by_segments(self.asked.mask, self.asked.facts, self._frame(), cut)
        if truth is None:
            return
        self.kept[self.open] |= truth.some
        self.dropped[self.open] |= truth.some_not
        classes = np.full(len(self.open), UNDECIDED)
        classes[self.kept[self.open] & self.dropped[self.open]] = PARTIAL
        classes[~truth.may_not] = FULL
        classes[~truth.may] = EMPTY
        self._take(classes, "segments")

    def _by_evaluation(self) -> None:
        """Every pair of the tiles that are left, if they are few."""
        (q, kv), tiles = self.asked.axes, self.asked.tiles
        pairs = q.size * kv.size
        if len(self.open) * pairs > MOST_PAIRS:
            return
        step = max(1, _PIECE // pairs)
        for at in np.split(self.open, range(step, len(self.open), step)):
            b, h, row, col = (index[at][:, None, None] for index in tiles)
            # Of a tile that sticks out, pairs beyond are taken to be the last one there is.
            places = (
                np.minimum(
                    axis.first[index] + np.arange(axis.size).reshape(shape), axis.last[index]
                )
                for axis, index, shape in ((q, row, (-1, 1)), (kv, col, (1, -1)))
            )
            try:
                kept = self.asked.facts.at(self.asked.mask, b, h, *places)
            except (UnknownNode, RecursionError):
                return
            self.kept[at], self.dropped[at] = kept.any((1, 2)), ~kept.all((1, 2))
        some, some_not = self.kept[self.open], self.dropped[self.open]
        self._take(np.where(some, np.where(some_not, PARTIAL, FULL), EMPTY), "evaluation")

    def _take(self, classes: Array, stage: str) -> None:
        """Classes of the open tiles; those that are decided are open no more."""
        self.classes[self.open] = classes
        decided = classes != UNDECIDED
        self.counted.tiles[1, stage] += int(np.count_nonzero(decided))
        self.open = self.open[~decided]
