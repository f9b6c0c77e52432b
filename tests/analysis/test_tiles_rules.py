"""What is lost without a rule: tiles that are then left.

What a wrong rule does is in `test_tiles_mutations` and `test_tiles_tables`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tile_truth import assert_sound, evaluate, prove

from flexattn.analysis.tiles import (
    bounds,
    compare,
    facts,
    prover,
    rewrites,
    segments,
    singly,
    valuesets,
)
from flexattn.analysis.tiles.values import UnknownNode

N, BLOCK = 256, (16, 16)
G = torch.Generator().manual_seed(0)
SORTED = (torch.rand(N, generator=G) < 0.05).cumsum(0)
SHUFFLED = torch.arange(N) // 4 * 37 % 64
TEXT = torch.where(SORTED % 3 == 1, SORTED, -1)
FLAGS = torch.rand(N, generator=G) < 0.1
LOOSE = torch.randint(0, 99, (N,), generator=G)
TREE = torch.tril(torch.rand(8, 8, generator=G) < 0.5)
Q8 = torch.arange(N) // 32


def open_tiles(mod: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles that proofs alone leave, without witnesses; every decided one is checked."""
    monkeypatch.setattr(singly, "witnesses", nothing)
    monkeypatch.setattr(singly, "MOST_PAIRS", 0)
    found = prove(mod, (1, 1, N, N), BLOCK)
    assert_sound(found, evaluate(mod, (1, 1, N, N)), BLOCK)
    return found.undecided


def nothing(*_: Any) -> Any:
    raise UnknownNode("switched off")


def switched_off(*_: Any, **__: Any) -> Any:
    raise UnknownNode("switched off")


def uncut(*_: Any) -> None:
    return None


def loose(facts: Any, frame: Any, sides: Any, guards: Any, overlap: Any) -> Any:
    return overlap, np.zeros_like(overlap)


CASES: dict[str, tuple[Callable[..., Any], Any, str, Any]] = {
    # rule: (mask, where the rule lives, its name, what stands in for it)
    "distance": (lambda b, h, q, k: (q - k) % 64 == 3, facts, "Distances", switched_off),
    "order": (lambda b, h, q, k: SORTED[q] >= SORTED[k], prover, "compare", nothing),
    "value sets": (lambda b, h, q, k: SHUFFLED[q] == SHUFFLED[k], compare, "some_equal", loose),
    "table": (lambda b, h, q, k: TREE[Q8[q], Q8[k]], prover, "of_table", nothing),
    "segments": (
        lambda b, h, q, k: (q // 50 == k // 50) & (q % 50 >= k % 50),
        singly,
        "by_segments",
        uncut,
    ),
    "guards through equality": (
        lambda b, h, q, k: (TEXT[q] == TEXT[k]) & (TEXT[q] >= 0),
        compare,
        "_transfer",
        lambda facts, sides, guards: guards,
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_decides_what_nothing_else_does(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mod, module, name, instead = CASES[rule]
    if rule != "segments":
        monkeypatch.setattr(singly, "by_segments", uncut)
    if rule == "guards through equality":  # sets would find the same, at their price
        monkeypatch.setattr(valuesets, "_PAIRS", 0)
    with monkeypatch.context() as patch:
        with_rule = open_tiles(mod, patch)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, instead)
        assert open_tiles(mod, patch) > with_rule


REWRITES: dict[str, Callable[..., Any]] = {
    "where": lambda b, h, q, k: torch.where(q + k < 99, SORTED[q] == SORTED[k], q > k),
    "xor": lambda b, h, q, k: (q < 40) ^ (SORTED[q] == SORTED[k]),
    "ne": lambda b, h, q, k: (q < 40) != (SORTED[q] == SORTED[k]),
    "eq": lambda b, h, q, k: (q < 40) == (SORTED[q] == SORTED[k]),
    "lt": lambda b, h, q, k: abs(SORTED[q] - SORTED[k]) < 2,
    "le": lambda b, h, q, k: torch.maximum(SORTED[q] - SORTED[k], SORTED[k] - q) <= 1,
    "gt": lambda b, h, q, k: torch.minimum(SORTED[q] - SORTED[k], q + 3 - SORTED[k]) > 1,
    "ge": lambda b, h, q, k: torch.where(q + k < 99, SORTED[q] - SORTED[k], q - k) >= 2,
}


@pytest.mark.parametrize("op", REWRITES)
def test_what_a_rewrite_gains(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mod = REWRITES[op]
    monkeypatch.setattr(singly, "by_segments", uncut)
    with_rule = open_tiles(mod, monkeypatch)
    monkeypatch.delitem(rewrites.RULES, op)
    assert open_tiles(mod, monkeypatch) > with_rule


BOUNDS: dict[str, Callable[..., Any]] = {
    "add": lambda b, h, q, k: q * k + (q - k) % 3 < 900,
    "sub": lambda b, h, q, k: q * k - (q - k) % 3 < 900,
    "mul": lambda b, h, q, k: q * k < 900,
    "neg": lambda b, h, q, k: -(q * k) < -900,
    "abs": lambda b, h, q, k: abs(q * k - 900) + 1 < 300,
    "minimum": lambda b, h, q, k: torch.minimum(q * k, q + k) + 1 < 200,
    "maximum": lambda b, h, q, k: torch.maximum(q * k, q + k) + 1 < 900,
    "floordiv": lambda b, h, q, k: (q + k) // 7 < 20,
    "mod": lambda b, h, q, k: (q + k) % 400 < 200,
    "shr": lambda b, h, q, k: (q + k) >> 3 < 20,
    "and": lambda b, h, q, k: (q * q) & (k * 2 + q) > 300,
    "where": lambda b, h, q, k: torch.where(q * k < 900, q, k) + 1 < 30,
}


@pytest.mark.parametrize("op", BOUNDS)
def test_what_a_bound_gains(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mod = BOUNDS[op]
    monkeypatch.setattr(singly, "by_segments", uncut)
    with_rule = open_tiles(mod, monkeypatch)
    monkeypatch.delitem(bounds.RULES, op)
    assert open_tiles(mod, monkeypatch) > with_rule


def test_pieces_are_cut_at_row_ends() -> None:
    jumps = segments._jumps(np.arange(100).reshape(1, 1, 1, -1) % 30)
    assert np.flatnonzero(jumps).tolist() == [30, 60, 90]
