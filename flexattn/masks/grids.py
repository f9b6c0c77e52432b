"""The blocks of masks combined and cut, as runs, or as tensors that a tracer can follow.

A grid holds a class for each block: of masks that Python may read it is runs. While torch.compile
or a fake mode traces there are no values to read; there it is a tensor, uint8
[B|1, H|1, rows, cols], and so is what is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL, RowSource, Runs
from flexattn.masks import cuts
from flexattn.masks.listing import class_table
from flexattn.masks.selection import Selection
from flexattn.masks.sources import Source, aligned, rowwise, strips, used_slices
from flexattn.masks.steps import combined, marked
from flexattn.masks.tables import distinct_heads, from_classes, to_classes
from flexattn.masks.validate import has_values

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask
    from flexattn.masks.fields import MaskFields

Grid: TypeAlias = "Runs | RowSource | Tensor"
Rule: TypeAlias = tuple[tuple[int, int, int], ...]
"""``rule[one][other]`` is the class of a block by its classes in two grids; EMPTY of both EMPTY."""


def grid_of(mask: MaskFields) -> Grid:
    """The blocks of ``mask``."""
    if mask._readable:
        return mask._blocks
    return distinct_heads(to_classes(mask._partial, mask._full, mask._cols))[0]


def with_grid(mask: BlockMask, grid: Grid, frame: tuple[int, int], **fields: Any) -> BlockMask:
    """``mask`` with the blocks of ``grid``, for ``frame`` = (B, H)."""
    if not isinstance(grid, Tensor):
        return mask._with_runs(grid, frame, **fields)
    separate = fields.pop("separate_full", mask._has_full)
    tables = from_classes(grid.expand(*frame, -1, -1), separate)
    return mask._with(*tables, **fields)


def dense(grid: Grid, name: str, device: torch.device) -> Tensor:
    """``grid`` as uint8 [B|1, H|1, rows, cols] on ``device``; ``name`` is for the refusal."""
    if isinstance(grid, Tensor):
        return grid
    return torch.from_numpy(class_table(grid, name)).to(device)


def combine(one: Grid, other: Grid, rule: Rule) -> Grid:
    """What ``rule`` makes of two grids of the same rows and columns, block by block."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        first, second = _tensors(one, other)
        table = torch.tensor(rule, dtype=torch.uint8, device=first.device).flatten()
        return table[first.long() * 3 + second]
    lookup = np.array(rule, np.uint8)
    return rowwise(lambda a, b: combined(a, b, lookup), *aligned(one, other))


def meet(one: Grid, other: Grid, rule: Rule) -> bool:
    """Whether ``rule`` makes some block other than EMPTY; True where nothing can be read."""
    made = combine(one, other, rule)
    if isinstance(made, Tensor):
        return not has_values(made) or bool(made.any())
    if isinstance(made, Runs):
        return len(made.start) > 0
    return any(len(part.start) for _, _, part in strips(made))


def mark(grid: Grid, rows: Sequence[int], cols: Sequence[int]) -> Grid:
    """FULL in the given rows and columns of a grid like ``grid``, and elsewhere PARTIAL."""
    if isinstance(grid, Tensor):
        marks = torch.full_like(grid[:1, :1], PARTIAL)
        for dim, chosen in ((2, rows), (3, cols)):
            places = torch.tensor(list(chosen), dtype=torch.int64, device=grid.device)
            marks = marks.index_fill(dim, places, FULL)
        return marks
    flags = np.zeros(grid.rows, bool), np.zeros(grid.cols, bool)
    for flag, chosen in zip(flags, (rows, cols)):
        flag[list(chosen)] = True
    return marked(*flags)


def edges(grid: Grid, lengths: tuple[int, int], block: tuple[int, int]) -> Grid:
    """``mark`` of the last row and column, if they reach beyond ``lengths``."""
    last = [[length // size] if length % size else [] for length, size in zip(lengths, block)]
    return mark(grid, *last)


def pick(grid: Grid, selections: Sequence[Selection]) -> Grid:
    """The batches, heads, rows and columns that ``selections`` name."""
    if isinstance(grid, Tensor):
        for dim, selection in enumerate(selections):
            if not selection.is_all and (dim > 1 or grid.shape[dim] > 1):
                grid = selection.take(grid, dim)
        return grid
    slices = grid.slices
    for dim, selection in enumerate(selections[:2]):
        if not selection.is_all and slices.shape[dim] > 1:
            slices = slices.take(np.asarray(selection.chosen, np.int64), dim)
    if slices is not grid.slices:
        grid = used_slices(grid, slices)
    rows, columns = selections[2:]
    grid = grid if rows.is_all else cuts.pick_rows(grid, rows.chosen)
    return grid if columns.is_all else cuts.pick_columns(grid, columns.chosen)


def beside(left: Grid, right: Grid) -> Grid:
    """The columns of ``left`` and then those of ``right``."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return torch.cat(_tensors(left, right), 3)
    return cuts.beside(left, right)


def below(top: Grid, bottom: Grid) -> Grid:
    """The rows of ``top`` and then those of ``bottom``."""
    if isinstance(top, Tensor) or isinstance(bottom, Tensor):
        return torch.cat(_tensors(top, bottom), 2)
    return cuts.below(top, bottom)


def joined(grids: Sequence[Grid], frames: Sequence[tuple[int, int]], heads: int) -> Grid:
    """The batches of ``grids``, each for its ``frame`` = (B, H), one after another."""
    if any(isinstance(grid, Tensor) for grid in grids):
        device = next(grid.device for grid in grids if isinstance(grid, Tensor))
        wide = [
            dense(grid, "the mask", device).expand(frame[0], heads, -1, -1)
            for grid, frame in zip(grids, frames)
        ]
        return torch.cat(wide)
    sources: list[Source] = [grid for grid in grids if not isinstance(grid, Tensor)]
    across = max(source.slices.shape[1] for source in sources)
    slices = [
        np.broadcast_to(source.slices, (frame[0], across)) for source, frame in zip(sources, frames)
    ]
    return cuts.joined(sources, slices)


def _tensors(one: Grid, other: Grid) -> tuple[Tensor, Tensor]:
    """Both as tensors of the same batches and heads."""
    device = one.device if isinstance(one, Tensor) else other.device  # type: ignore[union-attr]
    first, second = (dense(grid, "the mask", device) for grid in (one, other))
    frame = torch.broadcast_shapes(first.shape[:2], second.shape[:2])
    return first.expand(*frame, -1, -1), second.expand(*frame, -1, -1)


MARKED_EMPTY: Rule = ((0, 0, 1), (0, 0, 0), (0, 0, 0))
"""Against marks: whether a block is EMPTY and marked."""

NOT_FULL: Rule = ((0, 0, 0), (0, 1, 1), (0, 2, 1))
"""Against marks: marked blocks are PARTIAL at most."""

FILLED: Rule = ((0, 0, 0), (0, 2, 1), (0, 2, 2))
"""Against marks: unmarked PARTIAL blocks become FULL."""

INVERTED: Rule = ((0, FULL, PARTIAL), (0, PARTIAL, PARTIAL), (0, EMPTY, EMPTY))
"""Against marks: EMPTY and FULL change places, marked blocks are PARTIAL at most."""
