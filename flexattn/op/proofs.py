"""Blocks of a traced mask by proof; the few that no proof decides are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.tiles.classify import UNDECIDED, Question, as_array, classify_tiles
from flexattn.analysis.tiles.values import Array
from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError, ShiftRangeError
from flexattn.ir.nodes import BOOL, I64, Const
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof, find_sites
from flexattn.masks.classify import PIECE, Evaluate
from flexattn.op.kernels import facts_of
from flexattn.op.programs import Bound
from flexattn.passes.guard import Guarded, guard

Shape: TypeAlias = tuple[int, int, int, int]

MOST_LEFT = 4
"""All tiles are evaluated if more than one in so many is left."""

MOST_PAIRS = 1 << 26
"""And if those left have more pairs than this: about a second of the interpreter's time."""


def question(bound: Bound, shape: Shape, block: tuple[int, int]) -> Question:
    """The mask of ``bound`` for ``shape`` = (B, H, Q_LEN, KV_LEN) in tiles of ``block``."""
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


def proved_classes(
    bound: Bound,
    shape: Shape,
    block: tuple[int, int],
    evaluate: Evaluate,
    full: Callable[[], Tensor],
) -> Tensor:
    """EMPTY, PARTIAL or FULL per block of a mask on the CPU: uint8 [B, H, rows, cols].

    Args:
        evaluate: The mask at given pairs, for the few tiles no proof decides.
        full: All classes by evaluation: for masks of which most tiles are left, and for those
            in error, which it reports.
    """
    if not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in bound.captures):
        return full()
    asked = question(bound, shape, block)
    found = classify_tiles(asked)
    count = found.undecided
    if count:
        pairs = count * block[0] * block[1]
        if count > found.classes.size // MOST_LEFT or pairs > MOST_PAIRS:
            return full()
        try:
            _settle(found.classes, asked, evaluate)
        except (IndexOutOfRangeError, DivisionByZeroError, ShiftRangeError):
            return full()
    return torch.from_numpy(found.classes)


def _settle(classes: Array, asked: Question, evaluate: Evaluate) -> None:
    """Evaluate every pair of the tiles left, some tiles at a time."""
    left = np.nonzero(classes == UNDECIDED)
    step = max(1, PIECE // (asked.block[0] * asked.block[1]))
    for start in range(0, len(left[0]), step):
        at = tuple(index[start : start + step] for index in left)
        classes[at] = _evaluated(at, asked, evaluate)


def _evaluated(at: tuple[Array, ...], asked: Question, evaluate: Evaluate) -> Array:
    """The classes of the listed tiles (b, h, row, col)."""
    b, h, row, col = (torch.from_numpy(index).reshape(-1, 1, 1) for index in at)
    (q_len, kv_len), (rows, cols) = asked.shape[2:], asked.block
    q = row * rows + torch.arange(rows).reshape(-1, 1)
    kv = col * cols + torch.arange(cols)
    inside = (q < q_len) & (kv < kv_len)
    # A pair that sticks out is evaluated as the last one there is, and not counted.
    kept = evaluate(b, h, q.clamp(max=q_len - 1), kv.clamp(max=kv_len - 1)) & inside
    count = kept.expand(inside.shape).sum((1, 2))
    classes = (count > 0).to(torch.uint8) + (count == rows * cols).to(torch.uint8)
    return classes.numpy()
