"""The class of every tile of a mask, by proof, then by witnesses, then on pieces of tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from flexattn.analysis.tiles.witness import CORNERS, SPREAD, witnesses
from flexattn.ir.nodes import F32, DType, Input, Node, walk

EMPTY, PARTIAL, FULL, UNDECIDED = 0, 1, 2, 3

DENSE = 1 << 23
"""Tiles proved at once."""


@dataclass
class TileClasses:
    """What was found.

    Attributes:
        classes: uint8 [B, H, rows, cols], EMPTY PARTIAL FULL or UNDECIDED; B (H) is 1 for a mask
            that does not read b (h).
        stages: Tiles decided by ``proof``, ``witness`` and ``segments``.
        rules: For each rule, on how many tiles a condition was decided by it.
    """

    classes: Array
    stages: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

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
        self._dense(truth, safe)
        size = self.classes.size
        for rule, leaf in prover.leaves:
            decided = ~(leaf.may & leaf.may_not) | (leaf.some & leaf.some_not)
            count = np.count_nonzero(decided) * (size // max(1, decided.size))
            self.result.rules[rule] += int(count)
        self._rest(np.broadcast_to(safe, self.classes.shape))

    def _dense(self, truth: Truth, safe: Array | bool) -> None:
        """Take what is decided of all tiles, touching a dense array as seldom as possible."""
        classes = self.classes
        partial = _partial(truth, self.sticks_out)
        classes[...] = np.where(partial, np.uint8(PARTIAL), np.uint8(UNDECIDED))
        full = ~truth.may_not & ~self.sticks_out
        np.copyto(classes, np.uint8(FULL), where=full)
        np.copyto(classes, np.uint8(EMPTY), where=~truth.may)
        if safe is not True:
            np.copyto(classes, np.uint8(UNDECIDED), where=~safe)
        self.result.stages["proof"] += int(np.count_nonzero(classes != UNDECIDED))

    def _rest(self, safe: Array) -> None:
        left = np.nonzero((self.classes == UNDECIDED) & safe)
        if not len(left[0]):
            return
        left = self._by_witness(left, CORNERS, "witness")
        if len(left[0]) and {Q, KV} <= self.facts.forms.reads(self.mask):
            left = self._by_segments(left)
        if len(left[0]):
            self._by_witness(left, SPREAD, "witness")

    def _by_witness(self, left: tuple[Array, ...], points: Array, stage: str) -> tuple[Array, ...]:
        try:
            kept, dropped = witnesses(self.mask, self.facts, self._listed(left), points)
        except (UnknownNode, RecursionError):
            return left
        return self._take(
            left, kept & (dropped | self.sticks_out[left[2], left[3]]), PARTIAL, stage
        )

    def _by_segments(self, left: tuple[Array, ...]) -> tuple[Array, ...]:
        truth = by_segments(self.mask, self.facts, self._listed(left))
        if truth is None:
            return left
        out = self.sticks_out[left[2], left[3]]
        classes = np.full(len(left[0]), UNDECIDED, np.uint8)
        classes[_partial(truth, out)] = PARTIAL
        classes[~truth.may_not & ~out] = FULL
        classes[~truth.may] = EMPTY
        return self._take(left, classes != UNDECIDED, classes, "segments")

    def _listed(self, left: tuple[Array, ...]) -> Frame:
        b, h, row, col = left
        return Frame(self.frame.q, self.frame.kv, (b, h, row, col))

    def _take(
        self, left: tuple[Array, ...], known: Array, classes: Array | int, stage: str
    ) -> tuple[Array, ...]:
        self.result.stages[stage] += int(np.count_nonzero(known))
        at = tuple(index[known] for index in left)
        self.classes[at] = classes[known] if isinstance(classes, np.ndarray) else classes
        return tuple(index[~known] for index in left)


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
