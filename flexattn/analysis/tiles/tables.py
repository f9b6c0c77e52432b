"""Elements t[i(q), j(kv)] of a bool table: counted over rectangles by summed areas."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.ir.nodes import BOOL, Load, Node

_MOST = 1 << 24  # elements summed


def of_table(node: Load, facts: Facts, frame: Frame) -> Truth:
    """The truth of a bool element with one index of q alone and one of kv alone."""
    kinds = [set(facts.forms.reads(index) & {Q, KV}) for index in node.indices]
    if node.dtype != BOOL or kinds.count({Q}) != 1 or kinds.count({KV}) != 1 or {Q, KV} in kinds:
        raise UnknownNode("not a table of rows and columns")
    row_dim, col_dim = kinds.index({Q}), kinds.index({KV})
    table = facts.captures[node.capture]
    others = [facts.grid(n).squeeze() for n, kind in zip(node.indices, kinds) if not kind]
    if any(other.ndim for other in others):
        raise UnknownNode("a table per batch or head")
    table = np.moveaxis(table, (row_dim, col_dim), (-2, -1))
    at = tuple(int(i) for i in others)
    if not all(0 <= i < size for i, size in zip(at, table.shape)):
        raise UnknownNode("an index that wraps")
    table = table[at]
    if table.size > _MOST or table.size == 0:
        raise UnknownNode("a large table")
    i, j = facts.row(node.indices[row_dim]), facts.col(node.indices[col_dim])
    rows, cols = _range(frame.q, i, table.shape[0]), _range(frame.kv, j, table.shape[1])
    sums = np.zeros((table.shape[0] + 1, table.shape[1] + 1), np.int32)
    np.cumsum(np.cumsum(table, 0, dtype=np.int32), 1, out=sums[1:, 1:])
    i0, i1, j0, j1 = *map(frame.rows, rows), *map(frame.cols, cols)
    count = sums[i1 + 1, j1 + 1] - sums[i0, j1 + 1] - sums[i1 + 1, j0] + sums[i0, j0]
    may, may_not = count > 0, count < (i1 + 1 - i0) * (j1 + 1 - j0)
    if _steps(i) and _steps(j):
        return Truth(may, may_not, may, may_not)
    return Truth(may, may_not, ~may_not, ~may)


def _range(axis: Axis, index: Array, size: int) -> tuple[Array, Array]:
    low, high = axis.reduce(np.minimum, index), axis.reduce(np.maximum, index)
    if int(low.min()) < 0 or int(high.max()) >= size:
        raise UnknownNode("an index that wraps")
    return low, high


def _steps(index: Array) -> bool:
    """Whether neighbours differ by at most 1, so that an interval hits all between its ends."""
    return bool((np.abs(np.diff(index)) <= 1).all())


def is_table(node: Node) -> bool:
    """Whether `of_table` may know ``node``."""
    return isinstance(node, Load) and node.dtype == BOOL
