"""Single pairs of a tile, evaluated: a kept one and a dropped one prove it partial."""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Frame
from flexattn.analysis.tiles.values import Array
from flexattn.ir.nodes import Node

# As parts of 64 of a tile's extent: its centre, its corners, then points spread evenly.
CENTRE = np.array([(32, 31)])
CORNERS = np.array([(0, 0), (0, 63), (63, 0), (63, 63)])
SPREAD = np.array([((29 * i + 7) % 64, i) for i in range(64)])
MANY = np.array([((173 * i + 5) % 512 / 8, i / 8) for i in range(512)])

_BATCH = 1 << 18


def witnesses(node: Node, facts: Facts, frame: Frame, points: Array) -> tuple[Array, Array]:
    """Whether a kept pair and whether a dropped pair is among ``points`` of each listed tile."""
    assert frame.tiles is not None
    count = len(frame.tiles[0])
    kept, dropped = np.zeros(count, bool), np.zeros(count, bool)
    step = max(1, _BATCH // len(points))
    for start in range(0, count, step):
        part = slice(start, start + step)
        b, h, row, col = (index[part, None] for index in frame.tiles)
        q = frame.q.starts[row] + _share(frame.q.sizes[row], points[:, 0])
        kv = frame.kv.starts[col] + _share(frame.kv.sizes[col], points[:, 1])
        found = facts.at(node, b % len(facts.b), h % len(facts.h), q, kv)
        kept[part], dropped[part] = found.any(-1), ~found.all(-1)
    return kept, dropped


def _share(size: Array, part: Array) -> Array:
    """The position inside an interval of ``size`` at ``part`` of 64; 63 is the last."""
    return np.minimum(size * part // 63, size - 1).astype(np.int64)
