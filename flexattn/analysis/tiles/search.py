"""Proves tiles coarse to fine: tiles of tiles first, and only those left undecided are split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL
from flexattn.analysis.tiles.census import Census
from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.pieces import Pieces
from flexattn.analysis.tiles.prover import Prover
from flexattn.analysis.tiles.singly import UNDECIDED, Asked, decide_singly
from flexattn.analysis.tiles.truth import NO, UNKNOWN, YES, Truth
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import Node

FACTOR = 8
"""Tiles that one of the next level has, one way."""

TOP = 128
"""Tiles of the coarsest level, one way, at most."""

DENSE = 1 << 20
"""Tiles proved together, at most, if that saves listing them."""

LISTED = 1 << 16
"""Listed tiles proved together: what is worked out of them stays in the processor's cache."""

MANY = 4
"""All tiles of a level are proved together if more than one in so many is asked for."""

Tiles: TypeAlias = "tuple[Array, ...]"
"""b, h, row and column of some tiles, b and h counted from the first that the facts cover."""

_NONE: Tiles = (np.zeros(0, np.int64),) * 4


class TooManyTiles(Exception):
    """More tiles have to be listed than was allowed."""


class Levels:
    """Tiles, and tiles of tiles: the finest level is 0.

    Attributes:
        sides: The intervals of q_idx and of kv_idx of each level.
    """

    def __init__(self, q: Axis, kv: Axis) -> None:
        self.sides = [(q, kv)]
        while max(map(len, self.sides[-1])) > TOP:
            q, kv = (a if len(a) <= FACTOR else a.coarsen(FACTOR) for a in self.sides[-1])
            self.sides.append((q, kv))

    @property
    def top(self) -> int:
        return len(self.sides) - 1

    def count(self, level: int) -> int:
        """How many tiles there are."""
        q, kv = self.sides[level]
        return len(q) * len(kv)

    def tile(self, level: int, below: int = 0) -> tuple[int, int]:
        """Height and width of a tile in those of the level ``below``."""
        coarse, fine = self.sides[level], self.sides[below]
        return coarse[0].size // fine[0].size, coarse[1].size // fine[1].size


@dataclass
class Search:
    """What is looked for in some batches and heads of a mask.

    Attributes:
        mask: Root of the mask.
        fault: Where an access fails and decides, or None.
        facts: Of these batches and heads.
        levels: The tiles.
        pieces: Takes what is found.
        offset: Number in ``pieces`` of the first batch and head.
        ragged: Whether the last row and column of tiles stick out.
        budget: How many tiles may be listed.
        census: Takes counts, where they are wanted.
    """

    mask: Node
    fault: Node | None
    facts: Facts
    levels: Levels
    pieces: Pieces
    offset: int
    ragged: tuple[bool, bool]
    budget: int
    census: Census | None = None

    def run(self) -> Tiles:
        """Prove all tiles; the slices, rows and columns of those left come back."""
        since, counted = len(self.pieces), Census()
        heads = len(self.facts.heads[0]) * len(self.facts.heads[1])
        level = self.levels.top
        open_ = self._prove(level, [Frame(*self.levels.sides[level])], counted)
        while level > 0:
            high, wide = self.levels.tile(level, level - 1)
            level -= 1
            cells, total = len(open_[0]) * high * wide, heads * self.levels.count(level)
            if total <= DENSE and cells * MANY > total:
                self.pieces.forget(since)
                counted = Census()
                open_ = self._prove(level, [Frame(*self.levels.sides[level])], counted)
            else:
                self.budget -= cells
                if self.budget < 0:
                    raise TooManyTiles
                open_ = self._prove(level, self._split(level, open_, (high, wide)), counted)
        if self.census is not None:
            self.census.add(counted)
        return self._slice(open_[0], open_[1]), open_[2], open_[3]

    def _slice(self, b: Array, h: Array) -> Array:
        return b * len(self.facts.heads[1]) + h + self.offset

    def _split(self, level: int, tiles: Tiles, factors: tuple[int, int]) -> Iterator[Frame]:
        """Frames [some, high, wide] of the tiles that each one of the level above has."""
        high, wide = factors
        step = max(1, LISTED // (high * wide))
        for start in range(0, len(tiles[0]), step):
            b, h, row, col = (index[start : start + step, None, None] for index in tiles)
            row = row * high + np.arange(high)[:, None]
            yield Frame(*self.levels.sides[level], (b, h, row, col * wide + np.arange(wide)))

    def _prove(self, level: int, frames: Iterable[Frame], counted: Census) -> Tiles:
        """Prove the tiles of ``frames``, of ``level``; those that are undecided come back."""
        left = [_NONE]
        for listed in frames:
            inside, frame = _clipped(listed)
            truth, safe, leaves = self._truths(frame)
            out = self._sticking_out(frame) if level == 0 else NO
            classes = _classes(truth, safe, out, self._shape(frame), finest=level == 0)
            if inside is not YES:
                classes[~inside] = EMPTY
            if self.census is not None:
                decided = (classes != UNDECIDED) & inside
                side = max(self.levels.tile(level))
                counted.note(side, decided, self._weights(level, frame), leaves)
            at = np.nonzero(classes == UNDECIDED)
            if level == 0 and len(at[0]):
                classes[at] = self._singly(frame, at, (truth, safe, out), counted)
                at = np.nonzero(classes == UNDECIDED)
            left.append(_named(frame, at))
            self._keep(level, frame, classes)
        return tuple(map(np.concatenate, zip(*left)))

    def _singly(
        self, frame: Frame, at: Tiles, known: tuple[Truth, Array, Array], counted: Census
    ) -> Array:
        """Classes of the tiles at ``at`` of the finest level, looked at one by one."""
        truth, safe, out = known
        shape = self._shape(frame)
        some, some_not, safe = (
            np.broadcast_to(side, shape)[at] for side in (truth.some, truth.some_not | out, safe)
        )
        axes, tiles = self.levels.sides[0], _named(frame, at)
        asked = Asked(self.mask, self.facts, axes, tiles, (some, some_not))
        return decide_singly(asked, ~safe, counted)

    def _truths(self, frame: Frame) -> tuple[Truth, Array, list[tuple[str, Truth]]]:
        """The truth of the mask, where it is safe to read, and what the rules said."""
        prover = Prover(self.facts, frame)
        try:
            truth = prover.truth(self.mask, True)
            safe = YES if self.fault is None else ~prover.truth(self.fault, True).may
        except RecursionError:
            return UNKNOWN, (YES if self.fault is None else NO), []
        return truth, safe, prover.leaves

    def _shape(self, frame: Frame) -> tuple[int, ...]:
        if frame.tiles is not None:
            return np.broadcast_shapes(*(index.shape for index in frame.tiles))
        return (*map(len, self.facts.heads), len(frame.q), len(frame.kv))

    def _sticking_out(self, frame: Frame) -> Array:
        """Which tiles of the finest level stick out."""
        found = NO
        for axis, place, ragged in zip((frame.q, frame.kv), (frame.rows, frame.cols), self.ragged):
            if ragged:
                last = np.zeros((1, 1, len(axis)), bool)
                last[..., -1] = True
                found = found | place(last)
        return found

    def _weights(self, level: int, frame: Frame) -> Array:
        """How many finest tiles each tile has."""
        pairs = zip(self.levels.sides[level], self.levels.sides[0])
        high, wide = ((-(-axis.sizes // finest.size))[None, None] for axis, finest in pairs)
        return frame.rows(high) * frame.cols(wide)

    def _keep(self, level: int, frame: Frame, classes: Array) -> None:
        tile = self.levels.tile(level)
        if frame.tiles is None:
            self.pieces.add_dense(classes.reshape(-1, *classes.shape[2:]), self.offset, tile)
            return
        b, h, row, col = frame.tiles
        at = self._slice(b, h)[:, 0, 0], row[:, 0, 0], col[:, 0, 0]
        self.pieces.add_patches(classes, at, len(self.levels.sides[level][0]), tile)


def _classes(
    truth: Truth, safe: Array, out: Array, shape: tuple[int, ...], *, finest: bool
) -> Array:
    """Classes, UNDECIDED where nothing follows; PARTIAL is one for the finest tiles alone."""
    may, may_not, some, some_not = truth
    if finest and may is some and may_not is some_not and safe is YES:
        # Nothing is left; what sticks out is lowered with the runs.
        classes = np.empty(shape, np.uint8)
        return np.add(may.view(np.uint8), (~may_not).view(np.uint8), out=classes)
    classes = np.full(shape, UNDECIDED, np.uint8)
    if finest:
        partial = some & some_not | out & (some | ~may_not)
        np.copyto(classes, np.uint8(PARTIAL), where=partial)
    np.copyto(classes, np.uint8(FULL), where=~may_not)
    np.copyto(classes, np.uint8(EMPTY), where=~may)
    if safe is not YES:
        np.copyto(classes, np.uint8(UNDECIDED), where=~safe)
    return classes


def _clipped(frame: Frame) -> tuple[Array, Frame]:
    """Which listed tiles exist, and the frame with others in the place of those that do not."""
    if frame.tiles is None:
        return YES, frame
    b, h, row, col = frame.tiles
    inside = (row < len(frame.q)) & (col < len(frame.kv))
    row, col = np.minimum(row, len(frame.q) - 1), np.minimum(col, len(frame.kv) - 1)
    return inside, Frame(frame.q, frame.kv, (b, h, row, col))


def _named(frame: Frame, at: tuple[Array, ...]) -> Tiles:
    """b, h, row and column of the tiles at ``at`` of an array over the frame."""
    if frame.tiles is None:
        return at
    some, high, wide = at
    b, h, row, col = frame.tiles
    return b[some, 0, 0], h[some, 0, 0], row[some, high, 0], col[some, 0, wide]
