"""What a mask keeps of its closed form, so that kernels can do without its block lists.

The lists of a mask are those of the moment it was made. A form reads captured tensors when the
kernel runs, so it stands for the lists only as long as nobody has written to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flexattn.analysis.closed.bound import BoundForm, plain_pieces
from flexattn.analysis.closed.count import count_kept
from flexattn.analysis.closed.pieces import StartTable
from flexattn.analysis.closed.rows import rows_of
from flexattn.ir.nodes import Input, Load, Node, rewrite
from flexattn.ir.program import Ranges
from flexattn.masks.stored import plainly
from flexattn.op.closed import bind_solved, solved_of
from flexattn.trace import Traced

MOST_PIECES = 4
"""Ranges that a kernel follows at once."""


@dataclass(frozen=True)
class KernelRanges:
    """The arguments of `op/ranges.py` in place of a mask's lists.

    Attributes:
        ranges: By rows and by columns; ``n{i}`` is ``ints[i]``, ``Load(c)`` is of ``captures[c]``.
        ints: Numbers.
        captures: Captured tensors, then derived tables.
    """

    ranges: Ranges
    ints: Sequence[int]
    captures: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class MaskForm:
    """The closed form that a mask was made from.

    Attributes:
        traced: Its mask_mod, as it was traced then.
        rows: The form solved for kv_idx; first and last positions give its rows of blocks.
        shape: (B, H, Q_LEN, KV_LEN) of the mask.
        block: (queries, keys) of a block.
        axes: Which of b and h it reads.
        versions: How often each captured tensor had been written to.
    """

    traced: Traced
    rows: BoundForm
    shape: tuple[int, int, int, int]
    block: tuple[int, int]
    axes: frozenset[str]
    versions: tuple[int, ...]

    @classmethod
    def of(
        cls,
        traced: Traced,
        rows: BoundForm,
        shape: tuple[int, int, int, int],
        block: tuple[int, int],
    ) -> MaskForm | None:
        """The form of a mask, if it has few and plain pieces."""
        pieces = plain_pieces(rows.form)
        if not pieces or len(pieces) > MOST_PIECES:
            return None
        axes = solved_of(traced).read & {"b", "h"}
        return cls(traced, rows, shape, block, axes, _versions(traced.captures))

    def serves(self, batch: int, heads: int) -> bool:
        """Whether the form says now, for a call of this size, what the lists say."""
        sizes = {"b": (self.shape[0], batch), "h": (self.shape[1], heads)}
        if any(sizes[axis][0] != sizes[axis][1] for axis in self.axes):
            return False  # the lists of one stand for all
        return self._is_current()

    def _is_current(self) -> bool:
        if any(tensor.is_inference() for tensor in self.traced.captures):
            return False  # nothing tells when they are written to
        return _versions(self.traced.captures) == self.versions

    def sparsity(self) -> float | None:
        """Percentage of pairs not kept; None if captures may have been written to since."""
        if not self._is_current():
            return None
        rows = self.rows
        pairs = math.prod(rows.shape[:2]) * rows.given_length * rows.solved_length
        return 100 * (1 - count_kept(rows) / pairs)

    @cached_property
    def kernel_ranges(self) -> KernelRanges | None:
        """What kernels are given; None where columns of blocks do not follow as rows do."""
        with plainly():  # the caller may trace, or pretend
            columns = bind_solved(self.traced, self.shape, "q_idx")
            if columns is None:
                return None
            pieces = plain_pieces(columns.form)
            if not pieces or len(pieces) > MOST_PIECES:
                return None
            found = rows_of(columns, self.block)
            if found is None or not found.by_ends:
                return None
            return _merged(self.traced, self.rows, columns)


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors)


def _merged(traced: Traced, rows: BoundForm, columns: BoundForm) -> KernelRanges:
    """Both forms over one list of numbers and captures."""
    own = len(traced.captures)
    device = traced.captures[0].device if own else torch.device("cpu")
    numbers = dict(rows.numbers)
    tables = list(rows.form.tables)
    captures = [*traced.captures, *(torch.from_numpy(x).to(device) for x in rows.captures[own:])]
    place, names = {}, {}
    for at, table in enumerate(columns.form.tables, own):
        if table in tables:
            place[at] = own + tables.index(table)
            continue
        place[at] = len(captures)
        captures.append(torch.from_numpy(columns.captures[at]).to(device))
        if isinstance(table, StartTable):
            names[table.base] = f"n{len(numbers)}"
            numbers[names[table.base]] = columns.numbers[table.base]

    def rule(node: Node) -> Node:
        match node:
            case Load(capture, indices, dtype) if capture in place:
                return Load(place[capture], indices, dtype)
            case Input(name, dtype) if name in names:
                return Input(names[name], dtype)
            case Input(name, dtype) if name.startswith("size"):
                capture, dim = map(int, name.removeprefix("size").split("_"))
                return Input(f"size{place.get(capture, capture)}_{dim}", dtype)
        return node

    row_pieces = tuple((piece.low, piece.high) for piece in rows.form.pieces)
    column_pieces = tuple(
        (rewrite(piece.low, rule), rewrite(piece.high, rule)) for piece in columns.form.pieces
    )
    ints = [numbers[f"n{i}"] for i in range(len(numbers))]
    return KernelRanges(Ranges(row_pieces, column_pieces), ints, captures)
