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
    if frame.tiles is None and _is_square(frame):
        return _per_diagonal(holds, frame)
    before = np.zeros((*holds.shape[:-1], holds.shape[-1] + 1), np.int32)
    np.cumsum(holds, axis=-1, out=before[..., 1:])
    if frame.tiles is None:
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


def _is_square(frame: Frame) -> bool:
    """Whether all tiles are of one size, as long as wide."""
    size = frame.q.edges[1]
    return bool((frame.q.sizes == size).all() and (frame.kv.sizes == size).all())


def _per_diagonal(holds: Array, frame: Frame) -> Truth:
    """One entry per diagonal of tiles, shown as [rows, cols] without copying.

    Diagonal i, of row - col = i - (cols - 1), has the distances of group i of ``size``, and those
    of group i + 1 but its last.
    """
    rows, cols, size = len(frame.q), len(frame.kv), int(frame.q.edges[1])
    padded = np.zeros((*holds.shape[:-1], (rows + cols) * size), bool)
    padded[..., : holds.shape[-1]] = holds
    groups = padded.reshape(*holds.shape[:-1], rows + cols, size)
    some = np.logical_or(groups[..., :-1, :].any(-1), groups[..., 1:, :-1].any(-1))
    all_ = np.logical_and(groups[..., :-1, :].all(-1), groups[..., 1:, :-1].all(-1))
    return exact(_spread(some, rows, cols), _spread(np.logical_not(all_), rows, cols))


def _spread(diagonal: Array, rows: int, cols: int) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(diagonal, cols, axis=-1)
    return windows[..., :rows, ::-1]
