"""What a mask keeps, pair by pair: counted and compared exactly, asking only partial blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL, Array, Runs
from flexattn.errors import BlockMaskError
from flexattn.masks import grids
from flexattn.masks.algebra import inputs_of, only, same_mod
from flexattn.masks.classify import PIECE, Evaluate
from flexattn.masks.mods import MaskMod
from flexattn.masks.parts import slice_count
from flexattn.masks.sources import Source, on_slices, slice_uses, strips
from flexattn.masks.steps import rows_of
from flexattn.masks.tables import cdiv

if TYPE_CHECKING:
    from flexattn.masks.fields import MaskFields

MakeEvaluate: TypeAlias = Callable[[MaskMod, tuple[int, int, int, int], torch.device], Evaluate]
"""(mask_mod, (B, H, Q_LEN, KV_LEN), device) to a function of index tensors that broadcast."""

_makers: list[MakeEvaluate] = []


def register_evaluator(make: MakeEvaluate) -> MakeEvaluate:
    """Name the function that evaluates a mask_mod: `op/create.py`'s, which stands above."""
    _makers.append(make)
    return make


@dataclass(frozen=True)
class Heads:
    """Batches and heads that keep the same pairs, one of each such group.

    Attributes:
        b: int64 [groups]; a batch of each group.
        h: int64 [groups]; its head.
        slices: int64 [groups]; the slice of its blocks.
        repeats: int64 [groups]; how many (batch, head) pairs the group has.
    """

    b: Array
    h: Array
    slices: Array
    repeats: Array


@dataclass(frozen=True)
class Places:
    """Pairs of some blocks, cut alike.

    Attributes:
        group: int64 [blocks]; of `Heads`.
        index: b, h, q_idx and kv_idx of the pairs, to be broadcast to [blocks, 1, Q, KV]. Those
            beyond the lengths are those of the last pair, and not ``there``.
        there: bool, to be broadcast likewise.
    """

    group: Tensor
    index: tuple[Tensor, Tensor, Tensor, Tensor]
    there: Tensor


def count_kept(mask: MaskFields, piece: int = PIECE) -> int:
    """How many (b, h, query, key) pairs ``mask`` keeps. About ``piece`` pairs are asked at once."""
    blocks = mask._blocks
    full = _full_pairs(blocks, mask.seq_lengths, mask.BLOCK_SIZE)
    kept = int(full @ slice_uses(blocks.slices, mask._heads, len(full)))
    heads = _heads(blocks.slices, mask, inputs_of(mask.mask_mod))
    repeats = torch.from_numpy(heads.repeats).to(mask.device)
    evaluate = _evaluate(mask)
    for places in _places(blocks, heads, mask, piece):
        found = evaluate(*places.index) & places.there
        kept += int(found.sum((1, 2, 3)) @ repeats[places.group])
    return kept


def same_pairs(first: MaskFields, second: MaskFields, piece: int = PIECE) -> bool:
    """Whether two masks of one shape and block size keep the same pairs."""
    one, other = first._blocks, second._blocks
    same = same_mod(first.mask_mod, second.mask_mod)
    if same and not grids.meet(one, other, _UNLIKE):
        return True
    if grids.meet(one, other, _OPPOSITE):
        return False
    read = inputs_of(first.mask_mod) | inputs_of(second.mask_mod)
    evaluates = _evaluate(first), _evaluate(second)
    for kinds in _OPEN:
        if same and kinds == (PARTIAL, PARTIAL):
            continue
        asked = grids.combine(one, other, only(*kinds))
        assert not isinstance(asked, Tensor)
        for places in _places(asked, _heads(asked.slices, first, read), first, piece):
            kept = [
                evaluate(*places.index) if kind == PARTIAL else torch.tensor(kind == FULL)
                for kind, evaluate in zip(kinds, evaluates)
            ]
            if bool(((kept[0] ^ kept[1].to(first.device)) & places.there).any()):
                return False
    return True


_UNLIKE: grids.Rule = ((0, 1, 1), (1, 0, 1), (1, 1, 0))
_OPPOSITE: grids.Rule = ((0, 0, 1), (0, 0, 0), (1, 0, 0))
_OPEN = (
    (EMPTY, PARTIAL),
    (PARTIAL, EMPTY),
    (PARTIAL, FULL),
    (FULL, PARTIAL),
    (PARTIAL, PARTIAL),
)
"""Classes of a block in two masks where pairs have to be asked."""


def _evaluate(mask: MaskFields) -> Evaluate:
    if not _makers:
        raise BlockMaskError(
            "the pairs of a mask cannot be looked at.",
            why="nothing is loaded that evaluates a mask_mod.",
            fix="import flexattn first.",
        )
    batch, heads, q_len, kv_len = mask.shape
    return _makers[-1](mask.mask_mod, (batch, heads, q_len, kv_len), mask.device)


def _heads(slices: Array, mask: MaskFields, read: frozenset[str]) -> Heads:
    """The batches and heads of ``mask`` that differ in their slice, or in what its mod reads."""
    batch, heads = mask._heads
    b, h = (axis.ravel() for axis in np.indices((batch, heads)))
    own = np.broadcast_to(slices, (batch, heads)).ravel().astype(np.int64)
    name = (own * max(batch, 1) + b * ("b" in read)) * max(heads, 1) + h * ("h" in read)
    _, at, repeats = np.unique(name, return_index=True, return_counts=True)
    return Heads(b[at], h[at], own[at], repeats.astype(np.int64))


def _full_pairs(source: Source, lengths: tuple[int, int], block: tuple[int, int]) -> Array:
    """Pairs in FULL blocks of each slice, those beyond the lengths not counted: int64 [slices]."""
    heights = np.full(source.rows, block[0], np.int64)
    heights[-1:] -= source.rows * block[0] - lengths[0]
    beyond = source.cols * block[1] - lengths[1]
    spans = [(0, source.rows, source)] if isinstance(source, Runs) else strips(source)
    total: Array = np.zeros(0, np.int64)
    for begin, end, part in spans:
        assert isinstance(part, Runs)
        length, last = (part.stop - part.start).astype(np.int64), part.stop
        if part.count is not None and part.period is not None:
            length, last = length * part.count, last + (part.count - 1) * part.period
        keys = np.where(part.full, length * block[1] - (last == source.cols) * beyond, 0)
        before = np.concatenate(([0], np.cumsum(keys)))
        rows = np.diff(before[part.first]).reshape(slice_count(part), end - begin)
        found = rows @ heights[begin:end]
        total = total + found if len(total) else found
    return total


def _places(source: Source, heads: Heads, mask: MaskFields, piece: int) -> Iterator[Places]:
    """The pairs of the PARTIAL blocks of ``source``, about ``piece`` at a time."""
    numbers = np.arange(len(heads.slices), dtype=np.int32)[:, None]
    by_group = on_slices(source, heads.slices, numbers)
    area = min(piece, mask.BLOCK_SIZE[0] * mask.BLOCK_SIZE[1])
    for begin, _, part in strips(by_group, min(piece, LISTED)):
        asked = ~part.full
        length = (part.stop - part.start)[asked]
        group, row = np.divmod(np.repeat(rows_of(part)[asked], length), max(part.rows, 1))
        first = np.repeat(part.start[asked] - (np.cumsum(length) - length), length)
        column = first + np.arange(len(first))
        at = np.stack((group, heads.b[group], heads.h[group], row + begin, column), 1)
        for some in torch.from_numpy(at).split(max(1, piece // max(1, area))):
            if len(some):
                yield from _boxes(some.to(mask.device), mask, piece)


def _boxes(at: Tensor, mask: MaskFields, piece: int) -> Iterator[Places]:
    """The pairs of a few blocks at once, or parts of a block that is larger than ``piece``."""
    (q_block, kv_block), (q_len, kv_len) = mask.BLOCK_SIZE, mask.seq_lengths
    keys = min(kv_block, piece)
    queries = min(q_block, max(1, piece // keys))
    group, *places = at.unbind(1)
    b, h, row, column = (entry.reshape(-1, 1, 1, 1) for entry in places)
    for i in range(cdiv(q_block, queries)):
        for j in range(cdiv(kv_block, keys)):
            inner_q = _span(i, queries, q_block, at.device)
            inner_kv = _span(j, keys, kv_block, at.device)
            q = row * q_block + inner_q[:, None]
            kv = column * kv_block + inner_kv
            there = (q < q_len) & (kv < kv_len)
            yield Places(group, (b, h, q.clamp(max=q_len - 1), kv.clamp(max=kv_len - 1)), there)


LISTED = 1 << 18
"""Blocks in a strip whose partial ones are listed one by one."""


def _span(number: int, step: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(number * step, min((number + 1) * step, end), device=device)
