"""Single pairs of a tile, evaluated: a kept one and a dropped one prove it partial."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import Node

_ONE = 1 << 16


def _points(parts: Array) -> Array:
    """Points as shares of a tile's extent in units of 1 / _ONE; ``parts`` are of 63."""
    found: Array = np.rint(parts * (_ONE / 63)).astype(np.int64)
    return found


CENTRE = _points(np.array([(32, 31)]))
CORNERS = _points(np.array([(0, 0), (0, 63), (63, 0), (63, 63)]))
SPREAD = _points(np.array([((29 * i + 7) % 64, i) for i in range(64)]))
MANY = _points(np.array([((173 * i + 5) % 512 / 512, i / 512) for i in range(512)]) * 63)

_BATCH = 1 << 15  # pairs evaluated together: they stay in the processor's cache


def witnesses(node: Node, facts: Facts, frame: Frame, points: Array) -> tuple[Array, Array]:
    """Whether a kept pair and whether a dropped pair is among ``points`` of each listed tile."""
    assert frame.tiles is not None
    count = len(frame.tiles[0])
    kept, dropped = np.zeros(count, bool), np.zeros(count, bool)
    step = max(1, _BATCH // len(points))
    for start in range(0, count, step):
        part = slice(start, start + step)
        b, h, row, col = (index[part, None] for index in frame.tiles)
        q = frame.q.first[row] + _share(frame.q, row, points[:, 0])
        kv = frame.kv.first[col] + _share(frame.kv, col, points[:, 1])
        found = facts.at(node, b, h, q, kv)
        kept[part], dropped[part] = found.any(-1), ~found.all(-1)
    return kept, dropped


def _share(axis: Axis, at: Array, part: Array) -> Array:
    """How far into the intervals ``at`` the shares ``part`` lie; the last position is a whole."""
    found: Array = (axis.last[at] - axis.first[at]) * part >> 16
    return found
