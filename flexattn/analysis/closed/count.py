"""How many pairs a closed form keeps: range by range, with no pair looked at."""

from __future__ import annotations

import math

import numpy as np

from flexattn.analysis.closed.bound import BoundForm
from flexattn.analysis.closed.pieces import BEGIN, END
from flexattn.analysis.tiles.values import Array, Values

AT_ONCE = 1 << 18  # positions of all batches and heads


def count_kept(bound: BoundForm) -> int:
    """Pairs (b, h, given, solved) that the form keeps; its pieces must be plain."""
    frame = math.prod(bound.shape[:2])
    step = max(1, AT_ONCE // max(frame, 1))
    kept = 0
    for start in range(0, bound.given_length, step):
        positions = np.arange(start, min(start + step, bound.given_length), dtype=np.int32)
        kept += _count(bound, bound.grid(positions), (*bound.shape[:2], len(positions)))
    return kept


def _count(bound: BoundForm, values: Values, frame: tuple[int, ...]) -> int:
    """The lengths of the union of all ranges at each position, summed."""
    length = bound.solved_length

    def cut(end: Array | int) -> Array:
        return np.broadcast_to(np.clip(end, 0, length).astype(np.int64), frame)

    low, high = (
        np.stack([cut(bare if node is mark else values(node)) for node in nodes])
        for mark, bare, nodes in (
            (BEGIN, 0, [piece.low for piece in bound.form.pieces]),
            (END, length, [piece.high for piece in bound.form.pieces]),
        )
    )
    order = np.argsort(low, axis=0)
    low, high = (np.take_along_axis(side, order, 0) for side in (low, high))
    kept, reach = 0, np.zeros(frame, np.int64)
    for begin, end in zip(low, high):
        begin = np.maximum(begin, reach)
        kept += int(np.maximum(end - begin, 0).sum())
        reach = np.maximum(reach, end)
    return kept
