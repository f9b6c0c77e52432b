"""Evaluates the blocks of a mask that no proof decides: by the interpreter, or by a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from flexattn.analysis.tiles.values import Array
from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError, ShiftRangeError
from flexattn.masks.classify import PIECE, Evaluate

Shape: TypeAlias = tuple[int, int, int, int]
Listed: TypeAlias = "tuple[Array, Array, Array]"  # slice, row, column of tiles

ByKernel: TypeAlias = Callable[[Array], Array]
"""Classes, uint8, of the blocks with the numbers ((b * H + h) * rows + row) * cols + col, int64."""

INTERPRETED = 1 << 26
"""Operations (pairs times nodes) that the interpreter does in less time than a compiler takes."""


@dataclass(frozen=True)
class Settler:
    """Classes of listed blocks of one mask on the CPU.

    Attributes:
        shape: (B, H, Q_LEN, KV_LEN); B (H) is 1 where the mask does not read b (h).
        block: (queries, keys) of a block.
        evaluate: The mask at given pairs, by the interpreter.
        by_kernel: Classes by a generated kernel, which is compiled if need be.
        most: Pairs that the interpreter is asked for, in all.
    """

    shape: Shape
    block: tuple[int, int]
    evaluate: Evaluate
    by_kernel: ByKernel
    most: int

    def __call__(self, tiles: Listed) -> Array:
        """The classes: uint8, one for each tile."""
        order = np.lexsort(tiles[::-1])
        listed = tuple(index[order] for index in tiles)
        found = np.empty(len(order), np.uint8)
        if len(order) * self.block[0] * self.block[1] > self.most:
            found[order] = self._by_kernel(*listed)
        else:
            found[order] = self._by_interpreter(*listed)
        return found

    def _by_kernel(self, slices: Array, row: Array, col: Array) -> Array:
        rows, cols = (-(-n // size) for n, size in zip(self.shape[2:], self.block))
        return self.by_kernel((slices * rows + row) * cols + col)

    def _by_interpreter(self, slices: Array, row: Array, col: Array) -> Array:
        found = np.empty(len(row), np.uint8)
        step = max(1, PIECE // (self.block[0] * self.block[1]))
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            try:
                found[part] = self._evaluated(slices[part], row[part], col[part])
            except (IndexOutOfRangeError, DivisionByZeroError, ShiftRangeError):
                self._report(slices[part], row[part])
                raise
        return found

    def _evaluated(self, slices: Array, row: Array, col: Array) -> Array:
        """Every pair of the listed tiles at once."""
        b, h = (index.reshape(-1, 1, 1) for index in self._heads(slices))
        (q_len, kv_len), (rows, cols) = self.shape[2:], self.block
        q = torch.from_numpy(row * rows).reshape(-1, 1, 1) + torch.arange(rows).reshape(-1, 1)
        kv = torch.from_numpy(col * cols).reshape(-1, 1, 1) + torch.arange(cols)
        inside = (q < q_len) & (kv < kv_len)
        # A pair that sticks out is evaluated as the last one there is, and not counted.
        kept = self.evaluate(b, h, q.clamp(max=q_len - 1), kv.clamp(max=kv_len - 1)) & inside
        count = kept.expand(inside.shape).sum((1, 2))
        classes = (count > 0).to(torch.uint8) + (count == rows * cols).to(torch.uint8)
        found: Array = classes.numpy()
        return found

    def _heads(self, slices: Array) -> Iterator[torch.Tensor]:
        return (torch.from_numpy(index) for index in divmod(slices, self.shape[1]))

    def _report(self, slices: Array, row: Array) -> None:
        """Raise the error of the first pair in error, queries in order.

        Tiles are evaluated side by side, so the one that was met is not always the first.
        """
        (q_len, kv_len), rows = self.shape[2:], self.block[0]
        step = max(1, PIECE // kv_len)
        kv = torch.arange(kv_len).reshape(1, 1, 1, -1)
        for s, r in dict.fromkeys(zip(slices.tolist(), row.tolist())):
            b, h = (torch.tensor(index).reshape(1, 1, 1, 1) for index in divmod(s, self.shape[1]))
            for start in range(r * rows, min((r + 1) * rows, q_len), step):
                stop = min(start + step, (r + 1) * rows, q_len)
                self.evaluate(b, h, torch.arange(start, stop).reshape(1, 1, -1, 1), kv)
