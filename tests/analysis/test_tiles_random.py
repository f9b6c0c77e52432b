"""Tens of thousands of random masks: whatever their form, lengths and blocks, every class is right.

The oracle is the mask_mod itself, called by PyTorch on every pair.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from random_masks import Maker, mod_of, tables

from flexattn.analysis.runs import RowSource, Runs, to_classes
from flexattn.analysis.tiles import search, singly, strips
from flexattn.op import proofs, settle
from flexattn.op.blocks import block_runs
from flexattn.op.symbolic import bind_mask

CPU = torch.device("cpu")
MASKS = 2000  # of each row below, twice

# What is set, so that small masks take the ways of large ones.
WAYS: dict[str, list[tuple[Any, str, Any]]] = {
    "as they are": [],
    "coarse to fine": [(search, "TOP", 3), (search, "FACTOR", 2), (search, "DENSE", 1)],
    "coarse, then all": [(search, "TOP", 5), (search, "FACTOR", 4), (search, "LISTED", 40)],
    "strips": [
        (search, "TOP", 4),
        (search, "FACTOR", 3),
        (search, "DENSE", 1),
        (proofs, "MOST_TILES", 0),
        (proofs, "STRIP", 20),
    ],
    "evaluated elsewhere": [(singly, "MOST_PAIRS", 0), (singly, "MOST_POINTS", 0)],
}


def dense(found: Runs | RowSource, draw: random.Random) -> np.ndarray:
    """Classes [B, H, rows, cols], asked for in parts."""
    parts, begin = [], 0
    while begin < found.rows:
        end = found.rows if isinstance(found, Runs) else draw.randint(begin + 1, found.rows)
        part = found.part(begin, end)
        parts.append(to_classes(part)[part.slices])
        begin = end
    return np.concatenate(parts, axis=2)


def brute(mod: Any, shape: tuple[int, ...], block: tuple[int, int]) -> np.ndarray:
    index = [
        torch.arange(n).reshape([-1 if a == d else 1 for a in range(4)])
        for d, n in enumerate(shape)
    ]
    kept = mod(*index).expand(shape).numpy()
    edges = [np.arange(0, n, size) for n, size in zip(shape[2:], block)]
    count = np.add.reduceat(np.add.reduceat(kept, edges[0], 2, dtype=int), edges[1], 3)
    return np.where(count == block[0] * block[1], 2, count > 0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_every_class_is_right(way: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in WAYS[way]:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(settle, "INTERPRETED", 1 << 60)
    number = list(WAYS).index(way) + 10 * seed
    maker, draw, seen = Maker(number), random.Random(number), set()
    kinds = set()
    while len(seen) < MASKS:
        text = maker.mask()
        if text in seen:
            continue
        seen.add(text)
        mod = mod_of(text, tables(draw.randrange(9)))
        lengths = draw.randint(1, 60), draw.randint(1, 60)
        block = draw.choice([(4, 4), (8, 8), (16, 8), (5, 7), (16, 32), (3, 3), (64, 64)])
        shape = (*draw.choice([(1, 1), (2, 3)]), *lengths)
        found = block_runs(bind_mask(mod), shape, block, CPU)
        kinds.add(type(found))
        got = np.broadcast_to(dense(found, draw), (*shape[:2], *dense_shape(lengths, block)))
        want = brute(mod, shape, block)
        assert np.array_equal(got, want), (text, shape, block)
    assert (strips.Strips in kinds) == (way == "strips")


def dense_shape(lengths: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    return -(-lengths[0] // block[0]), -(-lengths[1] // block[1])
