"""Brute force for tiles: the user's own function on every pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flexattn.analysis.tiles.classify import TileClasses, classify_tiles
from flexattn.analysis.tiles.singly import UNDECIDED
from flexattn.op.proofs import question
from flexattn.op.symbolic import bind_mask

Shape = tuple[int, int, int, int]


def prove(mod: Any, shape: Shape, block: tuple[int, int]) -> TileClasses:
    return classify_tiles(question(bind_mask(mod), shape, block))


def true_classes(kept: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Classes of a bool [B, H, Q, KV]; a tile that sticks out is never full."""
    rows, cols = (-(-kept.shape[2 + d] // block[d]) for d in (0, 1))
    out = np.zeros((*kept.shape[:2], rows, cols), np.uint8)
    for r in range(rows):
        for c in range(cols):
            at = slice(r * block[0], (r + 1) * block[0]), slice(c * block[1], (c + 1) * block[1])
            count = kept[:, :, at[0], at[1]].sum((-1, -2))
            out[:, :, r, c] = np.where(count == block[0] * block[1], 2, count > 0)
    return out


def evaluate(mod: Any, shape: Shape) -> np.ndarray:
    """The mask at every pair, bool [B, H, Q, KV], by calling ``mod`` on grids."""
    index = [
        torch.arange(n).reshape([-1 if axis == d else 1 for axis in range(4)])
        for d, n in enumerate(shape)
    ]
    return torch.as_tensor(mod(*index)).expand(shape).numpy()


def assert_sound(found: TileClasses, kept: np.ndarray, block: tuple[int, int]) -> None:
    """Every decided tile is what it is said to be."""
    truth = true_classes(kept, block)
    classes = np.broadcast_to(found.classes, truth.shape)
    wrong = (classes != UNDECIDED) & (classes != truth)
    assert not wrong.any(), (np.argwhere(wrong)[:3], classes[wrong][:3], truth[wrong][:3])
