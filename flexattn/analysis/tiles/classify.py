"""The class of every tile of a mask, by proof, then by witnesses, then on pieces of tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.prover import Prover
from flexattn.analysis.tiles.segments import by_segments
from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.analysis.tiles.witness import CENTRE, CORNERS, MANY, SPREAD, witnesses
from flexattn.ir.nodes import F32, DType, Input, Node, walk

EMPTY, PARTIAL, FULL, UNDECIDED = 0, 1, 2, 3

Left: TypeAlias = "tuple[Array, ...]"  # b, h, row, col of the tiles left
Known: TypeAlias = "tuple[Array, Array]"  # whether a kept and a dropped pair of each is known

MOST_POINTS = 1 << 20
"""Pairs evaluated of one mask as witnesses, before its tiles are left."""

MOST_OPEN = 1 << 22
"""Tiles listed one by one; more are left as they are."""

DENSE = 1 << 23
"""Tiles proved at once."""


@dataclass
class TileClasses:
    """What was found.

    Attributes:
        classes: uint8 [B, H, rows, cols], EMPTY PARTIAL FULL or UNDECIDED; B (H) is 1 for a mask
            that does not read b (h).
        stages: Tiles decided by ``proof``, ``witness`` and ``segments``.
        leaves: What the rules said, by part of the tiles: their number, (rule, truth) pairs.
    """

    classes: Array
    stages: Counter[str] = field(default_factory=Counter)
    leaves: list[tuple[int, list[tuple[str, Truth]]]] = field(default_factory=list)

    @property
    def rules(self) -> Counter[str]:
        """For each rule, on how many tiles a condition was decided by it."""
        found: Counter[str] = Counter()
        for size, leaves in self.leaves:
            for rule, leaf in leaves:
                decided = ~(leaf.may & leaf.may_not) | (leaf.some & leaf.some_not)
                found[rule] += np.count_nonzero(decided) * (size // max(1, decided.size))
        return found

    @property
    def undecided(self) -> int:
        """Tiles left."""
        return int(np.count_nonzero(self.classes == UNDECIDED))


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


def classify_tiles(question: Question) -> TileClasses:
    """What can be proved of every tile; those that may fault are UNDECIDED.

    A tile that sticks out of the lengths is never FULL.
    """
    batch, heads, q_len, kv_len = question.shape
    reads = {node.name for node in walk(question.mask, question.fault) if isinstance(node, Input)}
    batch, heads = (n if name in reads else 1 for n, name in ((batch, "b"), (heads, "h")))
    axes = Axis.of_blocks(q_len, question.block[0]), Axis.of_blocks(kv_len, question.block[1])
    result = TileClasses(np.full((batch, heads, *map(len, axes)), UNDECIDED, np.uint8))
    per_head = len(axes[0]) * len(axes[1])
    h_step = max(1, min(heads, DENSE // per_head))
    b_step = max(1, min(batch, DENSE // (per_head * h_step)))
    for b in range(0, batch, b_step):
        for h in range(0, heads, h_step):
            part = slice(b, b + b_step), slice(h, h + h_step)
            b_values, h_values = np.arange(batch)[part[0]], np.arange(heads)[part[1]]
            facts = Facts((q_len, kv_len), b_values, h_values, question.numbers, question.captures)
            _Part(question, facts, axes, result, result.classes[part]).decide()
    return result


def as_array(tensor: Tensor, compute: DType = F32) -> Array:
    """A captured tensor as the array a load of it reads; memory is shared where dtypes allow."""
    tensor = tensor.detach()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32 if compute == F32 else torch.float64)
    elif tensor.dtype != torch.bool:
        tensor = tensor.long()
    found: Array = tensor.numpy()
    return found


class _Part:
    """Some batches and heads of a question; ``classes`` is their view into the result."""

    def __init__(
        self,
        question: Question,
        facts: Facts,
        axes: tuple[Axis, Axis],
        result: TileClasses,
        classes: Array,
    ) -> None:
        self.mask, self.fault = question.mask, question.fault
        self.facts, self.result, self.classes = facts, result, classes
        self.frame = Frame(*axes)
        self.sticks_out = _sticks_out(question)

    def decide(self) -> None:
        try:
            prover = Prover(self.facts, self.frame)
            truth = prover.truth(self.mask, True)
            safe = ~prover.truth(self.fault, True).may if self.fault is not None else True
        except RecursionError:
            return
        self.result.leaves.append((self.classes.size, prover.leaves))
        if not _is_exact(truth) or self.fault is not None:
            self._dense(truth, safe)
            self._rest(truth, np.broadcast_to(safe, self.classes.shape))
            return
        self.classes[...] = truth.may.view(np.uint8) + (~truth.may_not).view(np.uint8)
        _lower_edges(self.classes, self.sticks_out)
        self.result.stages["proof"] += self.classes.size

    def _dense(self, truth: Truth, safe: Array | bool) -> None:
        """Take what is decided of all tiles."""
        classes = self.classes
        classes[...] = UNDECIDED
        np.copyto(classes, np.uint8(PARTIAL), where=_partial(truth, self.sticks_out))
        np.copyto(classes, np.uint8(FULL), where=~truth.may_not)
        _lower_edges(classes, self.sticks_out)
        np.copyto(classes, np.uint8(EMPTY), where=~truth.may)
        if safe is not True:
            np.copyto(classes, np.uint8(UNDECIDED), where=np.logical_not(safe))
        self.result.stages["proof"] += int(np.count_nonzero(classes != UNDECIDED))

    def _rest(self, truth: Truth, safe: Array) -> None:
        left = np.nonzero((self.classes == UNDECIDED) & safe)
        if not len(left[0]):
            return
        some, some_not = (
            np.broadcast_to(side, safe.shape) for side in (truth.some, truth.some_not)
        )
        known = some[left], some_not[left] | self.sticks_out[left[2:]]
        for points in (CENTRE, CORNERS):
            left, known = self._by_witness(left, known, points)
        if len(left[0]) and {Q, KV} <= self.facts.forms.reads(self.mask):
            left, known = self._by_segments(left, known)
        for points in (SPREAD, MANY):
            if len(left[0]) and len(left[0]) * len(points) <= MOST_POINTS:
                left, known = self._by_witness(left, known, points)

    def _by_witness(self, left: Left, known: Known, points: Array) -> tuple[Left, Known]:
        try:
            kept, dropped = witnesses(self.mask, self.facts, self._listed(left), points)
        except (UnknownNode, RecursionError):
            return left, known
        kept, dropped = kept | known[0], dropped | known[1]
        found = kept & dropped
        left = self._take(left, found, np.full(len(found), PARTIAL, np.uint8), "witness")
        return left, (kept[~found], dropped[~found])

    def _by_segments(self, left: Left, known: Known) -> tuple[Left, Known]:
        truth = by_segments(self.mask, self.facts, self._listed(left))
        if truth is None:
            return left, known
        out = self.sticks_out[left[2], left[3]]
        classes = np.full(len(left[0]), UNDECIDED, np.uint8)
        classes[_partial(truth, out)] = PARTIAL
        classes[~truth.may_not & ~out] = FULL
        classes[~truth.may] = EMPTY
        found = classes != UNDECIDED
        known = known[0] | truth.some, known[1] | truth.some_not
        left = self._take(left, found, classes, "segments")
        return left, (known[0][~found], known[1][~found])

    def _listed(self, left: Left) -> Frame:
        b, h, row, col = left
        return Frame(self.frame.q, self.frame.kv, (b, h, row, col))

    def _take(self, left: Left, known: Array, classes: Array, stage: str) -> Left:
        self.result.stages[stage] += int(np.count_nonzero(known))
        self.classes[tuple(index[known] for index in left)] = classes[known]
        return tuple(index[~known] for index in left)


def _is_exact(truth: Truth) -> bool:
    return truth.may is truth.some and truth.may_not is truth.some_not and truth.may.ndim > 0


def _lower_edges(classes: Array, sticks_out: Array) -> None:
    """FULL becomes PARTIAL in tiles that stick out: they lie in the last row and column."""
    for edge, out in ((classes[:, :, -1], sticks_out[-1]), (classes[..., -1], sticks_out[:, -1])):
        edge[(edge == FULL) & out] = PARTIAL


def _partial(truth: Truth, sticks_out: Array) -> Array:
    """Where a pair is kept, and the tile is not full, or may not be called so."""
    return truth.some & truth.some_not | sticks_out & (truth.some | ~truth.may_not)


def _sticks_out(question: Question) -> Array:
    """Which tiles reach beyond the lengths: bool [rows, cols]."""
    q, kv = (-(-length // size) for length, size in zip(question.shape[2:], question.block))
    out = np.zeros((q, kv), bool)
    out[-1] |= question.shape[2] % question.block[0] != 0
    out[:, -1] |= question.shape[3] % question.block[1] != 0
    return out
