"""What a mask keeps, pair by pair: counted and compared exactly, asking only partial blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks.algebra import inputs_of, same_mod
from flexattn.masks.classify import PIECE, Evaluate
from flexattn.masks.mods import MaskMod
from flexattn.masks.tables import FULL, PARTIAL, cdiv, to_classes

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
class Places:
    """Pairs of some blocks, cut alike.

    Attributes:
        at: int64 [blocks, 4]: b, h, row and column of each.
        index: b, h, q_idx and kv_idx of the pairs, to be broadcast to [blocks, 1, Q, KV]. Those
            beyond the lengths are those of the last pair, and not ``there``.
        there: bool, to be broadcast likewise.
    """

    at: Tensor
    index: tuple[Tensor, Tensor, Tensor, Tensor]
    there: Tensor


def count_kept(mask: MaskFields, piece: int = PIECE) -> int:
    """How many (b, h, query, key) pairs ``mask`` keeps. About ``piece`` pairs are asked at once."""
    (classes,), repeats = _narrow([mask])
    kept = _full_pairs(classes, mask.seq_lengths, mask.BLOCK_SIZE)
    evaluate = _evaluate(mask)
    for places in _places(classes == PARTIAL, mask, piece):
        kept += int((evaluate(*places.index) & places.there).sum())
    return kept * repeats


def same_pairs(first: MaskFields, second: MaskFields, piece: int = PIECE) -> bool:
    """Whether two masks of one shape and block size keep the same pairs."""
    (one, other), _ = _narrow([first, second])
    asked = (one != other) | (one == PARTIAL)
    if same_mod(first.mask_mod, second.mask_mod):
        asked &= one != other
    if bool((asked & (one != PARTIAL) & (other != PARTIAL)).any()):
        return False  # EMPTY here, FULL there
    evaluates = _evaluate(first), _evaluate(second)
    for places in _places(asked, first, piece):
        b, h, row, column = places.at.unbind(1)
        kept = []
        for classes, evaluate in zip((one, other), evaluates):
            kind = classes[b, h, row, column].reshape(-1, 1, 1, 1)
            if bool((kind == PARTIAL).any()):
                by_mod = evaluate(*places.index)
                kept.append((kind == FULL) | ((kind == PARTIAL) & by_mod))
            else:
                kept.append(kind == FULL)
        if bool(((kept[0] ^ kept[1]) & places.there).any()):
            return False
    return True


def _evaluate(mask: MaskFields) -> Evaluate:
    if not _makers:
        raise BlockMaskError(
            "the pairs of a mask cannot be looked at.",
            why="nothing is loaded that evaluates a mask_mod.",
            fix="import flexattn first.",
        )
    batch, heads, q_len, kv_len = mask.shape
    return _makers[-1](mask.mask_mod, (batch, heads, q_len, kv_len), mask.device)


def _narrow(masks: list[MaskFields]) -> tuple[list[Tensor], int]:
    """The classes of ``masks``, one entry for heads that are all alike, and how many those are."""
    found = [to_classes(mask._partial, mask._full, mask._cols) for mask in masks]
    read = frozenset[str]().union(*(inputs_of(mask.mask_mod) for mask in masks))
    repeats = 1
    for dim, axis in enumerate("bh"):
        alike = all(table.shape[dim] > 1 and table.stride(dim) == 0 for table in found)
        if alike and axis not in read:
            repeats *= found[0].shape[dim]
            found = [table.narrow(dim, 0, 1) for table in found]
    return found, repeats


def _full_pairs(classes: Tensor, lengths: tuple[int, int], block: tuple[int, int]) -> int:
    """Pairs in FULL blocks, those beyond the lengths not counted."""
    rows, cols = classes.shape[2:]
    if not rows or not cols:
        return 0
    full = classes == FULL
    last = full[..., -1].sum((0, 1))  # [rows]
    others = full[..., :-1].sum((0, 1, 3))
    per_row = others * block[1] + last * (lengths[1] - (cols - 1) * block[1])
    return int(per_row[:-1].sum()) * block[0] + int(per_row[-1]) * (
        lengths[0] - (rows - 1) * block[0]
    )


def _places(chosen: Tensor, mask: MaskFields, piece: int) -> Iterator[Places]:
    """The pairs of the ``chosen`` blocks (bool [B, H, rows, cols]), about ``piece`` at a time."""
    for at in _listed(chosen, piece):
        area = min(piece, mask.BLOCK_SIZE[0] * mask.BLOCK_SIZE[1])
        for some in at.split(max(1, piece // max(1, area))):
            yield from _boxes(some, mask, piece)


def _listed(chosen: Tensor, piece: int) -> Iterator[Tensor]:
    """Where ``chosen`` is true, from about ``piece`` blocks at a time: int64 [blocks, 4]."""
    batch, heads, rows, cols = chosen.shape
    step = max(1, piece // max(1, heads * cols))
    for b in range(batch):
        for row in range(0, rows, step):
            at = chosen[b, :, row : row + step].nonzero()
            if len(at):
                before = torch.full_like(at[:, :1], b)
                yield torch.cat([before, at[:, :1], at[:, 1:2] + row, at[:, 2:]], 1)


def _boxes(at: Tensor, mask: MaskFields, piece: int) -> Iterator[Places]:
    """The pairs of a few blocks at once, or parts of a block that is larger than ``piece``."""
    (q_block, kv_block), (q_len, kv_len) = mask.BLOCK_SIZE, mask.seq_lengths
    keys = min(kv_block, piece)
    queries = min(q_block, max(1, piece // keys))
    b, h, row, column = (entry.reshape(-1, 1, 1, 1) for entry in at.unbind(1))
    for i in range(cdiv(q_block, queries)):
        for j in range(cdiv(kv_block, keys)):
            inner_q = _span(i, queries, q_block, at.device)
            inner_kv = _span(j, keys, kv_block, at.device)
            q = row * q_block + inner_q[:, None]
            kv = column * kv_block + inner_kv
            there = (q < q_len) & (kv < kv_len)
            yield Places(at, (b, h, q.clamp(max=q_len - 1), kv.clamp(max=kv_len - 1)), there)


def _span(number: int, step: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(number * step, min((number + 1) * step, end), device=device)
