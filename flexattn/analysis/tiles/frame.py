"""Where tiles lie, and how per-row and per-column facts meet on them.

Facts about rows are arrays [B, H, rows], about columns [B, H, cols], where B and H are 1 along an
axis the fact does not depend on. A frame turns them into arrays that broadcast over its tiles:
dense, [B, H, rows, cols]; listed, [tiles].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexattn.analysis.tiles.values import Array


@dataclass(frozen=True)
class Axis:
    """Consecutive intervals that cover one index: interval ``i`` is [edges[i], edges[i+1])."""

    edges: Array

    @classmethod
    def of_blocks(cls, length: int, block: int) -> Axis:
        """Blocks of ``block``, the last cut off at ``length``."""
        return cls(np.append(np.arange(0, length, block), length))

    @property
    def starts(self) -> Array:
        return self.edges[:-1]

    @property
    def sizes(self) -> Array:
        return np.diff(self.edges)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def owner(self) -> Array:
        """The interval of every position."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def reduce(self, ufunc: np.ufunc, values: Array) -> Array:
        """``ufunc`` over each interval of the last axis."""
        length = int(self.edges[-1])
        if values.shape[-1] == 1 and length > 1:
            return np.broadcast_to(values, (*values.shape[:-1], len(self)))
        size = length // len(self)
        if length == size * len(self) and int(self.edges[1]) == size and self._uniform():
            return ufunc.reduce(values.reshape(*values.shape[:-1], len(self), size), axis=-1)
        return ufunc.reduceat(values, self.starts, axis=-1)

    def _uniform(self) -> bool:
        return bool((self.sizes == self.sizes[0]).all())


@dataclass(frozen=True)
class Frame:
    """Tiles over two axes: all pairs of intervals, or those listed.

    Attributes:
        q: Intervals of q_idx.
        kv: Intervals of kv_idx.
        tiles: None for all, or index arrays (b, h, row, col), one entry per tile.
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
        """A fact [B, H, 1, 1] on the tiles."""
        if self.tiles is None:
            return fact
        return self._pick(fact[..., 0], np.zeros_like(self.tiles[2]))

    def _pick(self, fact: Array, at: Array) -> Array:
        assert self.tiles is not None
        if fact.shape[0] == fact.shape[1] == 1:
            return fact[0, 0][at]
        b, h = self.tiles[0], self.tiles[1]
        return fact[b if fact.shape[0] > 1 else 0, h if fact.shape[1] > 1 else 0, at]
