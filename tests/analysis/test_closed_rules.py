"""Every rule of closed forms has a mask that shows a wrong variant of it to be wrong."""

from __future__ import annotations

import pytest
import torch
from closed_masks import ASCENDING, FLAGS, KV, LOOSE, RUN, B, Drawn, Q, drawn
from closed_mutants import MUTANTS
from closed_truth import bound_of, fault_of

from flexattn.analysis.closed.rows import rows_of
from flexattn.analysis.closed.shape import shapes_of
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node

SEEDS = 1200


def op(name: str, *args: Node | int, dtype: str = I64) -> Node:
    return Apply(name, [Const(a, I64) if isinstance(a, int) else a for a in args], dtype)


def is_(name: str, *args: Node | int) -> Node:
    return op(name, *args, dtype=BOOL)


N0, N1 = Input("n0", I64), Input("n1", I64)
HUGE = torch.tensor([0, 2**62, -(2**62), 2**63 - 9] * 20)

# Masks at the edges, which random ones seldom meet: (mask, numbers, captures or None).
EDGES = {
    "reversed window": (
        is_("and", is_("lt", op("sub", Q, KV), N0), is_("ge", op("sub", Q, KV), N1)),
        [3, 9],
    ),
    "window of none, and what follows": (
        is_(
            "or",
            is_("and", is_("ge", op("sub", Q, KV), N0), is_("le", KV, Q)),
            is_("and", is_("gt", KV, Q), is_("lt", op("sub", KV, Q), N1)),
        ),
        [12, -9],
    ),
    "negative divisor": (is_("ge", op("floordiv", Q, N0), op("floordiv", KV, N0)), [-3]),
    "negative window": (is_("lt", op("sub", Q, KV), N0), [-4]),
    "unequal chunks": (is_("eq", op("floordiv", Q, N0), op("floordiv", KV, N1)), [7, 5]),
    "equal chunks": (is_("eq", op("floordiv", Q, N0), op("floordiv", KV, N1)), [7, 7]),
    "index outside": (is_("ge", op("add", KV, 3), Load(LOOSE, (op("add", Q, 60),), I64)), []),
    "divisor of zero": (is_("ge", op("floordiv", Q, N0), KV), [0]),
    "product": (is_("ge", op("mul", op("mul", KV, N0), N1), Q), [1 << 29, 1 << 29]),
    "sparse chunks": (
        is_(
            "and",
            is_("ge", KV, op("mul", op("floordiv", Q, N1), N0)),
            is_("lt", KV, op("add", op("mul", op("floordiv", Q, N1), N0), 5)),
        ),
        [40, 4],
    ),
    "sparse chunks up to the query": (
        is_(
            "and",
            is_("ge", KV, op("mul", op("floordiv", Q, 4), 20)),
            is_(
                "or",
                is_("le", KV, Q),
                is_("lt", KV, op("add", op("mul", op("floordiv", Q, 4), 20), 5)),
            ),
        ),
        [],
    ),
    "next document": (
        is_("eq", Load(ASCENDING, (KV,), I64), op("add", Load(ASCENDING, (Q,), I64), 1)),
        [],
    ),
    "large numbers": (is_("ge", op("add", Q, N0), op("sub", KV, N0)), [(1 << 63) - 3]),
    "two runs": (Load(FLAGS, (KV,), BOOL), []),
    "not in a run": (is_("not", Load(RUN, (KV,), BOOL)), []),
    "falling ids": (is_("ge", Load(LOOSE, (Q,), I64), Load(LOOSE, (KV,), I64)), []),
    "a choice by queries": (
        is_("ge", op("where", is_("lt", Q, 30), op("add", Q, 9), op("sub", Q, N0)), KV),
        [11],
    ),
    "falling queries": (is_("ge", op("sub", 60, Q), KV), []),
    "sink and window": (
        is_("and", is_("ge", Q, KV), is_("or", is_("lt", KV, 4), is_("lt", op("sub", Q, KV), N0))),
        [30],
    ),
    "rows of ids": (
        is_(
            "and",
            is_("eq", Load(ASCENDING, (Q,), I64), Load(ASCENDING, (KV,), I64)),
            is_("ge", Q, KV),
        ),
        [],
    ),
    "bits": (is_("lt", op("mod", op("add", KV, Q), 8), op("and", Q, 7)), []),
}


def masks() -> list[Drawn]:
    found = []
    for root, numbers in EDGES.values():
        for shape, block in (((1, 1, 80, 80), (16, 16)), ((1, 1, 61, 75), (8, 24))):
            found.append(Drawn(root, drawn(3).captures, numbers, shape, "kv_idx", block))
    huge = [*drawn(3).captures[:LOOSE], HUGE, drawn(3).captures[FLAGS]]
    root = is_("ge", op("add", Load(LOOSE, (Q,), I64), 5), op("sub", KV, 7))
    found.append(Drawn(root, huge, [], (1, 1, 80, 80), "kv_idx", (16, 16)))
    return found


def test_the_edges_are_right() -> None:
    for mask in masks():
        assert fault_of(**vars(mask)) in (None, "none"), mask


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_wrong_rule_is_seen(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, instead = MUTANTS[rule]
    if isinstance(place, dict):
        monkeypatch.setitem(place, name, instead)
    else:
        monkeypatch.setattr(place, name, instead)
    shapes_of.cache_clear()
    try:
        assert any(_is_wrong(mask) for mask in (*masks(), *map(drawn, range(SEEDS))))
    finally:
        shapes_of.cache_clear()


def _is_wrong(mask: Drawn) -> bool:
    """Whether a fault is seen, or the wrong rule makes nonsense that stops the computation."""
    try:
        return fault_of(**vars(mask)) not in (None, "none")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return True


def test_batches_that_are_alike_share_a_slice() -> None:
    ids = torch.stack([torch.arange(80) // (9 + 20 * (b % 2)) for b in range(6)])
    root = is_("eq", Load(0, (B, Q), I64), Load(0, (B, KV), I64))
    bound = bound_of(root, [ids], [], (6, 1, 80, 80))
    assert bound is not None
    rows = rows_of(bound, (16, 16))
    assert rows is not None
    assert rows.runs.slices.ravel().tolist() == [0, 1, 0, 1, 0, 1]
    assert len(rows.runs.first) == 2 * 5 + 1
