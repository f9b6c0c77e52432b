"""Conditions on the distance q - kv alone: counted over the diagonals that cross a tile, exact."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.truth import Truth, exact
from flexattn.analysis.tiles.values import Array


def of_distances(holds: Array, frame: Frame) -> Truth:
    """The truth of a condition.

    Args:
        holds: Whether it holds at distance 1 - KV_LEN … Q_LEN - 1: bool [B, H, distances].
    """
    if holds.shape[-1] == 1:
        at = frame.all(holds[..., None])
        return exact(at, ~at)
    before = np.zeros((*holds.shape[:-1], holds.shape[-1] + 1), np.int32)
    np.cumsum(holds, axis=-1, out=before[..., 1:])
    if frame.tiles is None:
        diagonal = _per_diagonal(before, frame)
        if diagonal is not None:
            return diagonal
        first, end = _window(frame.q, frame.kv, np.arange(len(frame.q))[:, None], slice(None))
        count = before[..., end] - before[..., first]
    else:
        b, h, row, col = frame.tiles
        first, end = _window(frame.q, frame.kv, row, col)
        b, h = (i if size > 1 else i * 0 for i, size in zip((b, h), before.shape[:2]))
        count = before[b, h, end] - before[b, h, first]
    return exact(count > 0, count < end - first)


def _window(q: Axis, kv: Axis, row: Array, col: Array | slice) -> tuple[Array, Array]:
    """The half-open range of places in ``holds`` that the tiles (row, col) touch."""
    shift = int(kv.edges[-1]) - 1
    first = q.edges[:-1][row] - kv.edges[1:][col] + 1 + shift
    return first, q.edges[1:][row] - kv.edges[:-1][col] + shift


def _per_diagonal(before: Array, frame: Frame) -> Truth | None:
    """One entry per diagonal of equal square tiles, shown as [rows, cols] without copying."""
    rows, cols = len(frame.q), len(frame.kv)
    size = int(frame.q.edges[1])
    if (frame.q.sizes != size).any() or (frame.kv.sizes != size).any():
        return None
    # Diagonal i has row - col = i - (cols - 1).
    first = np.arange(rows + cols - 1) * size
    count = before[..., first + 2 * size - 1] - before[..., first]
    return exact(*(_spread(found, rows, cols) for found in (count > 0, count < 2 * size - 1)))


def _spread(diagonal: Array, rows: int, cols: int) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(diagonal, cols, axis=-1)
    return windows[..., :rows, ::-1]
