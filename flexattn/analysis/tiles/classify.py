"""The class of every tile of a mask: by proof, then by witnesses, then on pieces of tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.runs import FULL, PARTIAL, Runs, to_classes
from flexattn.analysis.tiles.census import Census
from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Axis
from flexattn.analysis.tiles.pieces import Pieces
from flexattn.analysis.tiles.search import Levels, Search
from flexattn.analysis.tiles.singly import UNDECIDED
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import F32, DType, Input, Node, walk

MOST_TILES = 1 << 22
"""Tiles listed one by one of a mask; `TooManyTiles` is raised where there would be more."""

_VALUES = 1 << 22
"""Positions, times batches and heads, of which facts are made at once."""

_TILES = 1 << 21
"""Tiles of the coarsest level, times batches and heads, that are proved at once."""


@dataclass(frozen=True)
class Question:
    """A mask with the values of one call.

    Attributes:
        mask: Root of the mask, with safe accesses.
        fault: Where an access fails and decides (see `passes.guard`); None for nowhere.
        captures: Captured tensors as arrays.
        numbers: Lifted numbers by name.
        shape: (B, H, Q_LEN, KV_LEN).
        block: (queries, keys) of a tile.
    """

    mask: Node
    fault: Node | None
    captures: Sequence[Array]
    numbers: Mapping[str, int | float]
    shape: tuple[int, int, int, int]
    block: tuple[int, int]

    @cached_property
    def heads(self) -> tuple[int, int]:
        """Batches and heads to tell apart: 1 where the mask does not read b, or h."""
        nodes = walk(self.mask, self.fault)
        reads = {node.name for node in nodes if isinstance(node, Input)}
        b, h = (n if name in reads else 1 for n, name in zip(self.shape, ("b", "h")))
        return b, h

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, cols = (-(-n // size) for n, size in zip(self.shape[2:], self.block))
        return rows, cols


class Found:
    """What was found of the tiles of some rows.

    Attributes:
        pieces: The tiles that are known, as runs.
        left: (slice, row, column) of the others; slices are numbered b * H + h, and rows from the
            first one asked for.
    """

    def __init__(
        self, pieces: Pieces, left: tuple[Array, Array, Array], ragged: tuple[bool, bool]
    ) -> None:
        self.pieces, self.left, self._ragged = pieces, left, ragged

    def settle(self, classes: Array) -> None:
        """Take the classes of the tiles left, which the last row and column may call FULL."""
        kept = (classes == PARTIAL) | (classes == FULL)
        at = self.left[0][kept], self.left[1][kept], self.left[2][kept]
        self.pieces.add_cells(at, classes[kept] == FULL, self.pieces.rows, (1, 1))
        self.left = (self.left[0][:0], self.left[1][:0], self.left[2][:0])

    def runs(self) -> Runs:
        """The runs of all tiles, when none is left."""
        return self.pieces.runs(self._ragged)


class Rows:
    """Proves the tiles of a mask, all rows of them or some.

    Facts about keys are kept from one call to the next.
    """

    def __init__(self, question: Question, census: Census | None = None) -> None:
        self.question, self.census = question, census
        self._facts: dict[tuple[int, int], Facts] = {}

    def prove(self, begin: int, end: int, most: int | None = None) -> Found:
        """What can be proved of the rows [begin, end).

        Raises:
            TooManyTiles: More than ``most`` tiles would have to be listed one by one.
        """
        asked = self.question
        (q_len, kv_len), (rows, _) = asked.shape[2:], asked.sizes
        span = begin * asked.block[0], min(end * asked.block[0], q_len)
        axes = Axis.of_blocks(*span, asked.block[0]), Axis.of_blocks(0, kv_len, asked.block[1])
        ragged = end == rows and q_len % asked.block[0] != 0, kv_len % asked.block[1] != 0
        levels = Levels(*axes)
        pieces = Pieces(asked.heads, end - begin, len(axes[1]))
        left, budget = [], most if most is not None else 1 << 62
        for b, h in self._parts(levels):
            facts = self._facts_of(b, h, span)
            offset = b.start * asked.heads[1] + h.start
            search = Search(
                asked.mask,
                asked.fault,
                facts,
                levels,
                pieces,
                offset=offset,
                ragged=ragged,
                budget=budget,
                census=self.census,
            )
            left.append(search.run())
            budget = search.budget
        slices, row, col = (np.concatenate(part) for part in zip(*left))
        return Found(pieces, (slices, row, col), ragged)

    def _parts(self, levels: Levels) -> Iterator[tuple[range, range]]:
        """Batches and heads to prove together: consecutive slices."""
        batch, heads = self.question.heads
        size = max(
            1, min(_TILES // levels.count(levels.top), _VALUES // max(self.question.shape[2:]))
        )
        h_step = min(heads, size)
        b_step = max(1, size // heads)
        for b in range(0, batch, b_step):
            for h in range(0, heads, h_step):
                yield range(b, min(b + b_step, batch)), range(h, min(h + h_step, heads))

    def _facts_of(self, b: range, h: range, span: tuple[int, int]) -> Facts:
        key = b.start, h.start
        known = self._facts.get(key)
        if known is not None:
            return known.of_rows(span)
        asked = self.question
        values = np.arange(b.start, b.stop), np.arange(h.start, h.stop)
        found = Facts(span, asked.shape[3], values, asked.numbers, asked.captures)
        if len(b) * len(h) == asked.heads[0] * asked.heads[1]:
            self._facts[key] = found
        return found


@dataclass
class TileClasses:
    """What was found.

    Attributes:
        classes: uint8 [B, H, rows, cols], EMPTY PARTIAL FULL or UNDECIDED; B (H) is 1 for a mask
            that does not read b (h).
        census: How it was found.
    """

    classes: Array
    census: Census

    @property
    def undecided(self) -> int:
        """Tiles left."""
        return int(np.count_nonzero(self.classes == UNDECIDED))


def classify_tiles(question: Question) -> TileClasses:
    """What can be proved of every tile; those that may fault are UNDECIDED.

    A tile that sticks out of the lengths is never FULL. The answer has a byte per tile: for masks
    known to be small.
    """
    census = Census()
    found = Rows(question, census).prove(0, question.sizes[0])
    left = found.left
    runs = found.runs()
    classes = to_classes(runs)[runs.slices.ravel()]
    classes[left] = UNDECIDED
    return TileClasses(classes.reshape(*question.heads, *question.sizes), census)


def as_array(tensor: Tensor, compute: DType = F32) -> Array:
    """A captured tensor as the array a load of it reads; memory is shared where that can be."""
    tensor = tensor.detach().resolve_neg()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32 if compute == F32 else torch.float64)
    found: Array = tensor.cpu().numpy()
    return found
