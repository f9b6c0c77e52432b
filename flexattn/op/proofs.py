"""Blocks of a traced mask by proof; the few that no proof decides are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.runs import RowSource, Runs
from flexattn.analysis.tiles.census import Census
from flexattn.analysis.tiles.classify import MOST_TILES, Question, Rows, as_array
from flexattn.analysis.tiles.search import TooManyTiles
from flexattn.analysis.tiles.strips import Strips
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import BOOL, I64, Const
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof, find_sites
from flexattn.op.kernels import facts_of
from flexattn.op.programs import Bound
from flexattn.passes.guard import Guarded, guard

Shape: TypeAlias = tuple[int, int, int, int]

Settle: TypeAlias = Callable[[tuple[Array, Array, Array]], Array]
"""Classes, uint8, of the tiles (slice, row, column) that no proof decides; slices are numbered
b * H + h over those that the mask tells apart. Tiles that stick out may be FULL or PARTIAL."""

STRIP = 1 << 20
"""Tiles of a strip of rows, where a mask lists too many to be kept."""


def question(bound: Bound, shape: Shape, block: tuple[int, int]) -> Question:
    """The mask of ``bound`` for ``shape`` = (B, H, Q_LEN, KV_LEN) in tiles of ``block``.

    Captures on other devices are copied to the CPU.
    """
    program = bound.variant.program
    guarded = guarded_mask(program, facts_of(bound, shape).proved)
    ints, floats = iter(bound.ints), iter(bound.floats)
    numbers = {
        f"n{i}": next(ints) if kind == I64 else next(floats)
        for i, kind in enumerate(program.numbers)
    }
    captures = [as_array(tensor, program.compute) for tensor in bound.captures]
    return Question(guarded.root, guarded.fault, captures, numbers, shape, block)


@lru_cache(maxsize=256)
def guarded_mask(program: Program, proved: frozenset[Proof] = frozenset()) -> Guarded:
    """The mask with safe accesses, and where an unsafe one would decide it."""
    root = program.mask if program.mask is not None else Const(True, BOOL)
    return guard(root, find_sites(program), proved)


def can_prove(bound: Bound) -> bool:
    """Whether the captures have values to look at."""
    return all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in bound.captures)


def proved_runs(asked: Question, settle: Settle, census: Census | None = None) -> Runs | RowSource:
    """The blocks that a mask keeps.

    Args:
        settle: Evaluates what is left.
        census: Takes counts of what was decided how.

    Returns:
        Runs; or, of a mask that lists more than MOST_TILES, what makes them when they are asked
        for.
    """
    rows = Rows(asked, census)
    try:
        return _proved(rows, (0, asked.sizes[0]), settle, MOST_TILES)
    except TooManyTiles:
        pass
    batch, heads = asked.heads
    slices = np.arange(batch * heads, dtype=np.int32).reshape(batch, heads)
    step = max(1, STRIP // (batch * heads * asked.sizes[1]))
    return Strips(*asked.sizes, slices, lambda *part: _proved(rows, part, settle, None), step)


def _proved(rows: Rows, part: tuple[int, int], settle: Settle, most: int | None) -> Runs:
    found = rows.prove(*part, most)
    slices, row, col = found.left
    if len(row):
        if rows.census is not None:
            rows.census.tiles[1, "evaluation"] += len(row)
        found.settle(settle((slices, row + part[0], col)))
    return found.runs()
