"""Where tiles lie, and how per-row and per-column facts meet on them.

Facts about rows are arrays [B, H, rows], about columns [B, H, cols], where B and H are 1 along an
axis the fact does not depend on. A frame turns them into arrays that broadcast over its tiles:
dense, [B, H, rows, cols]; listed, whatever shape the lists of tiles broadcast to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flexattn.analysis.tiles.values import Array


@dataclass(frozen=True, eq=False)
class Axis:
    """Intervals of one index, in ascending order.

    Attributes:
        first: First position of each interval.
        last: Last position of each.
        size: Positions of every interval but the last, where they have one size and follow one
            another from the first position of the index on; else 0.
        finer: The axis of which each interval joins ``factor``, or None.
        factor: How many it joins.
        places: For intervals of no one size: all positions they cover, in order, as numbers from
            the first position of the index on.
        cuts: Where each interval starts in ``places``.
    """

    first: Array
    last: Array
    size: int = 0
    finer: Axis | None = None
    factor: int = 1
    places: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    cuts: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of_blocks(cls, start: int, stop: int, block: int) -> Axis:
        """Blocks of ``block`` positions of [start, stop), the last one cut off."""
        first = np.arange(start, stop, block, dtype=np.int32 if stop < 1 << 30 else np.int64)
        last = np.minimum(first + (block - 1), stop - 1)
        return cls(first, last, block)

    def coarsen(self, factor: int) -> Axis:
        """Groups of ``factor`` intervals."""
        first = self.first[::factor]
        last = np.append(self.last[factor - 1 : -1 : factor], self.last[-1])
        return Axis(first, last, self.size * factor, self, factor)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sizes(self) -> Array:
        return self.last - self.first + 1

    def owner(self) -> Array:
        """The interval of every position that is covered."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def reduce(self, ufunc: np.ufunc, values: Array) -> Array:
        """``ufunc`` over each interval; the last axis of ``values`` has every covered position."""
        if not self.size:
            return ufunc.reduceat(values, self.cuts, axis=-1)
        return _by_groups(ufunc, values, self.size)

    def join(self, ufunc: np.ufunc, values: Array) -> Array:
        """``ufunc`` over the finer intervals of each of these."""
        return _by_groups(ufunc, values, self.factor)


def _by_groups(ufunc: np.ufunc, values: Array, size: int) -> Array:
    length = values.shape[-1]
    if length % size == 0:
        return ufunc.reduce(values.reshape(*values.shape[:-1], length // size, size), axis=-1)
    return ufunc.reduceat(values, np.arange(0, length, size), axis=-1)


@dataclass(frozen=True, eq=False)
class Frame:
    """Tiles over two axes: all pairs of intervals, or those listed.

    Attributes:
        q: Intervals of q_idx.
        kv: Intervals of kv_idx.
        tiles: None for all, or index arrays (b, h, row, col) that broadcast to the tiles.
    """

    q: Axis
    kv: Axis
    tiles: tuple[Array, ...] | None = None

    def rows(self, fact: Array) -> Array:
        """A fact [B, H, rows] on the tiles."""
        if self.tiles is None:
            return fact[..., None]
        return self._pick(fact, self.tiles[2])

    def cols(self, fact: Array) -> Array:
        """A fact [B, H, cols] on the tiles."""
        if self.tiles is None:
            return fact[:, :, None, :]
        return self._pick(fact, self.tiles[3])

    def all(self, fact: Array) -> Array:
        """A fact [B, H] on the tiles."""
        if self.tiles is None:
            return fact[..., None, None]
        return self._pick(fact[..., None], np.zeros((), np.int64))

    def _pick(self, fact: Array, at: Array) -> Array:
        assert self.tiles is not None
        if fact.shape[0] == fact.shape[1] == 1:
            return fact[0, 0].take(at)
        b, h = self.tiles[0], self.tiles[1]
        return fact[b if fact.shape[0] > 1 else 0, h if fact.shape[1] > 1 else 0, at]
