"""Which batches, heads, rows and columns of blocks ``mask[...]`` asks for."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import BlockMaskIndexError
from flexattn.masks.mods import AxisMap, constant_map, identity_map, lookup_map, offset_map

AXES = ("batch", "head", "query block", "key block")
WHY = {
    "query block": "the third index counts blocks of queries, not queries.",
    "key block": "the fourth index counts blocks of keys, not keys.",
}


@dataclass(frozen=True)
class Selection:
    """The entries of one axis that are kept, in order.

    Attributes:
        size: Length of the axis.
        chosen: Entries in 0..size, any order, repeats allowed; a range if they follow one another.
    """

    size: int
    chosen: tuple[int, ...] | range

    @property
    def start(self) -> int | None:
        """First entry if the chosen ones follow one another, else None; 0 when none is."""
        if not self.chosen:
            return 0
        first = self.chosen[0]
        return first if self.chosen == range(first, first + len(self.chosen)) else None

    @property
    def is_all(self) -> bool:
        return len(self.chosen) == self.size and self.start == 0

    def take(self, table: Tensor, dim: int) -> Tensor:
        """The chosen entries of ``table`` along ``dim``, as a view where possible."""
        if self.start is not None:
            return table.narrow(dim, self.start, len(self.chosen))
        if table.stride(dim) == 0:
            shape = list(table.shape)
            shape[dim] = len(self.chosen)
            return table.narrow(dim, 0, 1).expand(shape)
        return table.index_select(dim, self.tensor(table.device))

    def tensor(self, device: torch.device) -> Tensor:
        return torch.tensor(list(self.chosen), dtype=torch.int64, device=device)

    def entry_map(self, device: torch.device) -> AxisMap:
        """For batches and heads: index of the slice to index of the whole."""
        if self.is_all:
            return identity_map
        if len(self.chosen) == 1:
            return constant_map(self.chosen[0])
        if self.start is not None:
            return offset_map(self.start) if self.start else identity_map
        return lookup_map(self.tensor(device), 1)

    def block_map(self, block: int, device: torch.device) -> AxisMap:
        """For rows and columns of blocks: index of the slice to index of the whole."""
        if self.start is not None:
            return offset_map(self.start * block) if self.start else identity_map
        return lookup_map(self.tensor(device), block)


def parse(
    index: Any, sizes: tuple[int, int, int, int]
) -> tuple[Selection, Selection, Selection, Selection]:
    """The selections that ``index`` makes on the four axes of ``sizes``.

    ``...`` stands for what three indices lack, as in PyTorch, where keys have no index.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis for part in parts):
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        missing = (slice(None),) * max(0, 4 - len(parts))
        parts = parts[:place] + missing + parts[place + 1 :]
    if len(parts) > 4:
        raise BlockMaskIndexError(
            f"the mask was indexed with {len(parts)} indices.",
            why="a mask is indexed by batch, head, block of queries and block of keys.",
            fix="pass four indices or fewer.",
        )
    padded = (*parts, *(slice(None),) * (4 - len(parts)))
    batch, heads, rows, columns = (
        Selection(size, _chosen(part, size, axis)) for part, size, axis in zip(padded, sizes, AXES)
    )
    return batch, heads, rows, columns


def _chosen(part: Any, size: int, axis: str) -> tuple[int, ...] | range:
    if isinstance(part, slice):
        try:
            return range(size)[part]
        except (TypeError, ValueError) as error:
            raise BlockMaskIndexError(
                f"{axis} was asked for as {part}.",
                why=f"{error}.",
                fix="write start:stop:step with whole numbers, and a step that is not 0.",
            ) from error
    if isinstance(part, Tensor | list | tuple):
        entries = _entries(torch.as_tensor(part), size, axis)
    else:
        entries = [_number(part, axis)]
    for entry in entries:
        if not -size <= entry < size:
            raise BlockMaskIndexError(
                f"{axis} {entry} was asked of a mask that has {size}.",
                why=WHY.get(axis, "a mask made with B=None or H=None has one entry, for all."),
                fix=f"use -{size} to {size - 1}." if size else "make the mask with that axis.",
            )
    chosen = tuple(entry % size for entry in entries)
    first = chosen[0] if chosen else 0
    together = range(first, first + len(chosen))
    return together if chosen == tuple(together) else chosen


def _entries(part: Tensor, size: int, axis: str) -> list[int]:
    if part.dtype == torch.bool and part.shape == (size,):
        return part.nonzero().flatten().tolist()
    if part.numel() == 0 and part.ndim == 1:
        return []  # of any dtype: an empty list is a float tensor
    if part.ndim > 1 or part.dtype == torch.bool or part.is_floating_point():
        raise _bad(f"a tensor of {part.dtype} and shape {tuple(part.shape)}", axis)
    return part.reshape(-1).tolist()


def _number(part: Any, axis: str) -> int:
    index: Callable[[Any], int] = operator.index
    try:
        return index(part)
    except TypeError:
        raise _bad(f"{part!r:.60}", axis) from None


def _bad(what: str, axis: str) -> BlockMaskIndexError:
    return BlockMaskIndexError(
        f"the {axis} index is {what}.",
        why="an axis of a mask is indexed by an int, a slice, or a list of ints.",
        fix="pass one of these, or an integer tensor with one dimension.",
    )
