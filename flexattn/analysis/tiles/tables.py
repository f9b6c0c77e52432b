"""Elements t[i(q), j(kv)] of a bool table: counted over rectangles by summed areas."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.ir.nodes import BOOL, Load

_MOST = 1 << 24  # elements summed


def of_table(node: Load, facts: Facts, frame: Frame) -> Truth:
    """The truth of a bool element with one index of q alone and one of kv alone."""
    kinds = [set(facts.forms.reads(index) & {Q, KV}) for index in node.indices]
    if node.dtype != BOOL or kinds.count({Q}) != 1 or kinds.count({KV}) != 1 or {Q, KV} in kinds:
        raise UnknownNode("not a table of rows and columns")
    i, j = (node.indices[kinds.index(kind)] for kind in ({Q}, {KV}))
    sums = _sums(node, kinds, facts)
    row, col = facts.row(i), facts.col(j)
    rows, cols = _range(frame.q, row, sums.shape[0]), _range(frame.kv, col, sums.shape[1])
    i0, i1, j0, j1 = *map(frame.rows, rows), *map(frame.cols, cols)
    count = sums[i1 + 1, j1 + 1] - sums[i0, j1 + 1] - sums[i1 + 1, j0] + sums[i0, j0]
    may, may_not = count > 0, count < (i1 + 1 - i0) * (j1 + 1 - j0)
    if _is_dense(row, facts) and _is_dense(col, facts):
        return Truth(may, may_not, may, may_not)
    return Truth(may, may_not, ~may_not, ~may)


def _sums(node: Load, kinds: list[set[str]], facts: Facts) -> Array:
    """How many elements hold above and to the left of each corner: int32 [rows + 1, cols + 1]."""
    key = ("sums", node)
    if key not in facts.made:
        table = facts.captures[node.capture]
        others = [facts.single(n).squeeze() for n, kind in zip(node.indices, kinds) if not kind]
        if any(other.ndim for other in others):
            raise UnknownNode("a table per batch or head")
        table = np.moveaxis(table, (kinds.index({Q}), kinds.index({KV})), (-2, -1))
        at = tuple(int(i) for i in others)
        if not all(0 <= i < size for i, size in zip(at, table.shape)):
            raise UnknownNode("an index that wraps")
        table = table[at]
        if table.size > _MOST or table.size == 0:
            raise UnknownNode("a large table")
        sums = np.zeros((table.shape[0] + 1, table.shape[1] + 1), np.int32)
        np.cumsum(table, 1, out=sums[1:, 1:])
        np.cumsum(sums, 0, out=sums)
        facts.made[key] = sums
    found: Array = facts.made[key]
    return found


def _range(axis: Axis, index: Line, corners: int) -> tuple[Array, Array]:
    low, high = index.extremes(axis)
    if int(low.min()) < 0 or int(high.max()) >= corners - 1:
        raise UnknownNode("an index that wraps")
    return low, high


def _is_dense(index: Line, facts: Facts) -> bool:
    """Whether neighbours differ by at most 1, so that an interval hits all between its ends."""
    key = ("dense", index)
    if key not in facts.made:
        facts.made[key] = bool((np.abs(np.diff(index.values)) <= 1).all())
    found: bool = facts.made[key]
    return found
