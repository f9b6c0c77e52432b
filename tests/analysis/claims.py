"""Asks the prover about a mask, tile by tile, and holds what it claims against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tile_truth import prove

from flexattn.analysis.tiles import search, singly
from flexattn.analysis.tiles.classify import Question, as_array, classify_tiles
from flexattn.analysis.tiles.values import UnknownNode
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import Node

N, BLOCK = 96, (8, 8)
G = torch.Generator().manual_seed(0)
IDS = (torch.rand(N, generator=G) < 0.08).cumsum(0)
OTHER = (torch.rand(N, generator=G) < 0.5).cumsum(0) * 3
SHUFFLED = torch.arange(N) // 4 * 37 % 24
TEXT = torch.where(IDS % 3 == 1, IDS, -1)
LOOSE = torch.randint(-40, 60, (N,), generator=G)
FEW = torch.randint(0, 12, (N,), generator=G)
FLAGS = torch.rand(N, generator=G) < 0.1
REAL = torch.randint(-40, 60, (N,), generator=G) / 4
TREE = torch.tril(torch.rand(12, 12, generator=G) < 0.5)
TENSORS = [IDS, SHUFFLED, LOOSE, FLAGS, REAL, TREE, FEW]

# All at once; then with tiles of tiles, so that few tiles have some levels: their tiles are
# listed, or proved together.
WAYS: list[dict[str, int]] = [{}, {"TOP": 3, "FACTOR": 2, "DENSE": 1}, {"TOP": 5, "FACTOR": 4}]


def nothing(*_: Any, **__: Any) -> Any:
    raise UnknownNode("switched off")


def proofs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No single pairs are looked at."""
    monkeypatch.setattr(singly, "witnesses", nothing)
    monkeypatch.setattr(singly, "MOST_PAIRS", 0)


def hold(mask: Any, lengths: tuple[int, int] = (N, N), block: tuple[int, int] = BLOCK) -> int:
    """How many tiles are left of a mask_mod, or of a graph over TENSORS, when no claim is wrong."""
    shape = (2, 2, *lengths)
    grid = [
        torch.arange(n).reshape([-1 if axis == d else 1 for axis in range(4)])
        for d, n in enumerate(shape)
    ]
    if isinstance(mask, Node):
        asked = Question(mask, None, [as_array(t) for t in TENSORS], {}, shape, block)
        found = classify_tiles(asked)
        kept = evaluate(mask, dict(zip(("b", "h", "q_idx", "kv_idx"), grid)), TENSORS)
    else:
        found = prove(mask, shape, block)
        kept = torch.as_tensor(mask(*grid))
    edges = [np.arange(0, n, size) for n, size in zip(lengths, block)]
    count = kept.expand(shape).numpy()
    for axis, starts in enumerate(edges):
        count = np.add.reduceat(count, starts, 2 + axis, dtype=int)
    truth = np.where(count == block[0] * block[1], 2, count > 0)
    decided = found.classes != singly.UNDECIDED
    assert np.array_equal(np.where(decided, found.classes, truth), truth)
    return found.undecided


def is_caught(mask: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a claim about the mask is wrong, or none can be made for an index out of range.

    In every way, and with ends that cut tiles off.
    """
    for way in WAYS:
        with monkeypatch.context() as patch:
            for name, value in way.items():
                patch.setattr(search, name, value)
            for lengths, block in (((N, N), BLOCK), ((90, 85), (8, 12)), ((40, N), (1, 1))):
                try:
                    hold(mask, lengths, block)
                except (AssertionError, IndexError, ValueError):
                    return True
    return False
