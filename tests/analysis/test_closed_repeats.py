"""Ranges of which every so-manieth stretch is kept: runs that repeat, equal to brute force."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from closed_masks import KV, Q
from closed_truth import bound_of, brute
from tile_truth import true_classes

from flexattn.analysis.closed.rows import rows_of
from flexattn.analysis.runs import to_classes
from flexattn.ir.nodes import BOOL, I64, Apply, Input, Node

N0, N1, N2, N3 = (Input(f"n{i}", I64) for i in range(4))


def stretch(distance: bool, window: str) -> Node:
    """Every n0-th stretch of n1, from n2 on, of the distance or of the keys; in a window of n3."""
    place = Apply("sub", (KV, Q), I64) if distance else KV
    left = Apply("mod", (Apply("add", (place, N2), I64), N0), I64)
    kept = Apply("lt", (left, N1), BOOL)
    if window != "all":
        kept = Apply("and", (kept, Apply("ge", (Q, KV), BOOL)), BOOL)
    if window == "near":
        near = Apply("lt", (Apply("sub", (Q, KV), I64), N3), BOOL)
        kept = Apply("and", (kept, near), BOOL)
    return kept


@pytest.mark.parametrize("window", ["all", "causal", "near"])
@pytest.mark.parametrize("distance", [True, False])
def test_runs_that_repeat(distance: bool, window: str) -> None:
    made, repeated = check(distance, window, 250)
    assert made > 60
    assert repeated > 12


def check(distance: bool, window: str, times: int) -> tuple[int, int]:
    """Holds random masks to brute force; how many had runs, and how many of those repeat."""
    draw, made, repeated = random.Random(window), 0, 0
    for _ in range(times):
        period = draw.randint(2, 60)
        numbers = [period, draw.randint(1, period), draw.randint(-70, 70), draw.randint(1, 150)]
        shape = (1, 1, draw.randint(1, 200), draw.randint(1, 200))
        block = draw.choice([(4, 4), (8, 4), (4, 8), (16, 16), (5, 7), (1, 1), (3, 2)])
        root = stretch(distance, window)
        bound = bound_of(root, [], numbers, shape)
        assert bound is not None
        rows = rows_of(bound, block)
        if rows is None:
            continue
        made += 1
        repeated += rows.runs.count is not None
        truth = true_classes(brute(root, [], numbers, shape).numpy(), block)[0]
        assert np.array_equal(to_classes(rows.runs), truth), (numbers, shape, block)
    return made, repeated


def test_ten_million_blocks_are_a_few_runs() -> None:
    """Dilated by 512 at a million tokens: 8.4 million blocks, a period of four."""
    n = 1 << 20
    bound = bound_of(stretch(True, "causal"), [], [512, 1, 0, 0], (1, 1, n, n))
    assert bound is not None
    rows = rows_of(bound, (128, 128))
    assert rows is not None and rows.runs.count is not None
    runs = rows.runs
    blocks = int(((runs.stop - runs.start).astype(np.int64) * runs.count).sum())
    assert blocks == sum(r // 4 + 1 for r in range(n // 128))
    assert runs.nbytes < 1 << 20


def test_one_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of the stretches matters."""
    from flexattn.analysis.closed import repeats

    right = repeats.Stretches
    for name, change in itertools.product(vars_of(right), (-1, 1)):
        if name == "period":
            continue

        def wrong(*args: object, name: str = name, change: int = change) -> repeats.Stretches:
            found = right(*args)  # type: ignore[arg-type]
            return right(**(vars(found) | {name: getattr(found, name) + change}))

        with monkeypatch.context() as patch:
            patch.setattr(repeats, "Stretches", wrong)
            with pytest.raises(AssertionError):
                for distance, window in itertools.product((True, False), ("causal", "near")):
                    check(distance, window, 60)


def vars_of(cls: type) -> list[str]:
    return list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
