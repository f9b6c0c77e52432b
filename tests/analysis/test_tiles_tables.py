"""Every row of the prover's tables: made wrong, a mask shows it.

A table's rows are read from the table, so that a new one without a mask here fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from claims import FEW, IDS, is_caught

from flexattn.analysis.tiles import bounds, direction, rewrites, values
from flexattn.analysis.tiles.values import Values
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Load, Node

Q, KV = Input("q_idx", I64), Input("kv_idx", I64)
LOOSE_Q, REAL_Q, REAL_KV = Load(2, (Q,), I64), Load(4, (Q,), F32), Load(4, (KV,), F32)
PRODUCT = Apply("mul", (Q, KV), I64)


def i64(op: str, *args: Any) -> Node:
    return Apply(op, [Const(a, I64) if isinstance(a, int) else a for a in args], I64)


def less(a: Node, b: Node) -> Node:
    return Apply("lt", (a, b), BOOL)


def caught(mask: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    return is_caught(mask, monkeypatch)


BOUNDS: dict[str, Any] = {
    "add": lambda b, h, q, k: q * k + (q - k) % 3 < 900,
    "sub": lambda b, h, q, k: q * k - (q - k) % 3 < 900,
    "mul": lambda b, h, q, k: q * k < 900,
    "neg": lambda b, h, q, k: -(q * k) < -900,
    "abs": lambda b, h, q, k: abs(q * k - 900) + 1 < 300,
    "minimum": lambda b, h, q, k: torch.minimum(q * k, q + k) + 1 < 99,
    "maximum": lambda b, h, q, k: torch.maximum(q * k, q + k) + 1 < 900,
    "floordiv": lambda b, h, q, k: (q + k) // 7 < 9,
    "mod": lambda b, h, q, k: (q + k) % 400 < 90,
    "shr": lambda b, h, q, k: (q + k) >> 3 < 9,
    "and": lambda b, h, q, k: (q * q) & (k * 2 + q) > 90,
    "where": lambda b, h, q, k: torch.where(q * k < 900, q, k) + 1 < 30,
    "to_i64": less(i64("to_i64", PRODUCT), Const(900, I64)),
    "to_int": less(i64("to_int", PRODUCT), Const(900, I64)),
    "detach": less(i64("detach", PRODUCT), Const(900, I64)),
}


def tightened(rule: Callable[..., Any], end: int) -> Callable[..., Any]:
    """The rule with one end moved past the middle."""

    def tight(*args: Any) -> Any:
        found = list(rule(*args))
        found[end] = found[end] + (1 - 2 * end) * (1 + (found[1] - found[0]) // 2)
        return tuple(found)

    return tight


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("op", bounds.RULES)
def test_a_bound_too_tight(op: str, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not caught(BOUNDS[op], monkeypatch)
    monkeypatch.setitem(bounds.RULES, op, tightened(bounds.RULES[op], end))
    assert caught(BOUNDS[op], monkeypatch)


ORDER: dict[str, Any] = {
    "lt": lambda b, h, q, k: q * k < 900,
    "le": lambda b, h, q, k: q * k <= 900,
    "gt": lambda b, h, q, k: q * k > 900,
    "ge": lambda b, h, q, k: q * k >= 900,
    "eq": lambda b, h, q, k: q * k == 900,
    "ne": lambda b, h, q, k: (q * k != 900) | (q == k),
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("op", bounds.ORDER)
def test_an_order_of_bounds_that_is_wrong(
    op: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = bounds.ORDER[op]

    def wrong(a: Any, b: Any) -> Any:
        found = list(rule(a, b))
        found[side] = found[side] & ~found[1 - side]
        return tuple(found)

    assert not caught(ORDER[op], monkeypatch)
    monkeypatch.setitem(bounds.ORDER, op, wrong)
    assert caught(ORDER[op], monkeypatch)


REWRITES: dict[str, Any] = {
    "where": lambda b, h, q, k: torch.where(q + k < 99, IDS[q] == IDS[k], q > k),
    "xor": lambda b, h, q, k: (q < 40) ^ (IDS[q] == IDS[k]),
    "ne": lambda b, h, q, k: (q < 40) != (IDS[q] == IDS[k]),
    "eq": lambda b, h, q, k: (q < 40) == (IDS[q] == IDS[k]),
    "lt": lambda b, h, q, k: abs(IDS[q] - IDS[k]) < 2,
    "le": lambda b, h, q, k: torch.maximum(IDS[q] - IDS[k], IDS[k] - q) <= 1,
    "gt": lambda b, h, q, k: torch.minimum(IDS[q] - IDS[k], q + 3 - IDS[k]) > 1,
    "ge": lambda b, h, q, k: torch.where(q + k < 99, IDS[q] - IDS[k], q - k) >= 2,
    "to_bool": Apply("to_bool", (less(i64("add", Q, KV), Const(70, I64)),), BOOL),
    "detach": Apply("detach", (less(i64("add", Q, KV), Const(70, I64)),), BOOL),
}
SPLIT: dict[str, list[Any]] = {
    "abs": [REWRITES["lt"], lambda b, h, q, k: abs(IDS[q] - IDS[k]) > 2],
    "maximum": [REWRITES["le"], lambda b, h, q, k: torch.maximum(IDS[q] - k, k - q) > 1],
    "minimum": [REWRITES["gt"], lambda b, h, q, k: torch.minimum(IDS[q] - k, k - q) < 1],
    "where": [REWRITES["ge"], lambda b, h, q, k: torch.where(q + k < 99, IDS[q] - k, q - k) < -5],
}


def opposite(found: Node | None) -> Node | None:
    return None if found is None else Apply("not", (found,), BOOL)


@pytest.mark.parametrize("op", rewrites.RULES)
def test_a_rewrite_that_is_wrong(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = rewrites.RULES[op]
    assert not caught(REWRITES[op], monkeypatch)
    monkeypatch.setitem(rewrites.RULES, op, lambda node: opposite(rule(node)))
    assert caught(REWRITES[op], monkeypatch)


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("inner", SPLIT)
def test_a_comparison_split_wrongly(inner: str, case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With or in the place of and, and the other way round."""
    whole = rewrites._order_of
    swapped = {"_both": rewrites._either, "_either": rewrites._both}

    def wrong(op: str, node: Apply, other: Node) -> Node | None:
        with pytest.MonkeyPatch.context() as patch:
            for name, instead in swapped.items() if node.op == inner else ():
                patch.setattr(rewrites, name, instead)
            return whole(op, node, other)

    mask = SPLIT[inner][case]
    assert not caught(mask, monkeypatch)
    monkeypatch.setattr(rewrites, "_order_of", wrong)
    assert caught(mask, monkeypatch)


DIRECTIONS: dict[str, Any] = {
    "add": lambda b, h, q, k: q * 2 + 3 < k,
    "sub": lambda b, h, q, k: 90 - q * 2 < k,
    "neg": lambda b, h, q, k: -(q // 2) + 60 < k,
    "minimum": lambda b, h, q, k: q.clamp(max=44) * 2 < k,
    "maximum": lambda b, h, q, k: q.clamp(min=44) * 2 < k + 50,
    "lt": lambda b, h, q, k: q < 44,
    "le": lambda b, h, q, k: q <= 44,
    "gt": lambda b, h, q, k: q > 44,
    "ge": lambda b, h, q, k: q >= 44,
    "to_i64": less(i64("to_i64", i64("mul", Q, 2)), KV),
    "to_int": less(i64("to_int", i64("mul", Q, 2)), KV),
    "detach": less(i64("detach", i64("mul", Q, 2)), KV),
    "and": lambda b, h, q, k: (q > 44) & (q > 50),
    "or": lambda b, h, q, k: ((q > 44) | (q > 50)) & (k > 3),
    "not": lambda b, h, q, k: ~(q > 44),
    "mul": lambda b, h, q, k: q * 3 < k * 2,
    "floordiv": lambda b, h, q, k: q // 3 < k * 2 - 30,
    "truncdiv": less(i64("truncdiv", Q, 3), i64("sub", KV, 30)),
    "shr": lambda b, h, q, k: q >> 2 < k - 30,
    "shl": lambda b, h, q, k: q << 2 < k * 3,
}


@pytest.mark.parametrize("op", [*direction.RULES, *direction.LOGIC, *sorted(direction.BY_A_NUMBER)])
def test_a_direction_that_is_wrong(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = direction.Directions._find

    def wrong(self: Any, node: Node) -> Any:
        found = find(self, node)
        return -found if found and isinstance(node, Apply) and node.op == op else found

    assert not caught(DIRECTIONS[op], monkeypatch)
    monkeypatch.setattr(direction.Directions, "_find", wrong)
    assert caught(DIRECTIONS[op], monkeypatch)


def of_two(op: str) -> Node:
    """An equality of ``op(table[q], 3)`` and kv."""
    return Apply("eq", (i64(op, LOOSE_Q, 3), KV), BOOL)


def of_one(op: str) -> Node:
    return Apply("eq", (i64(op, LOOSE_Q), KV), BOOL)


def of_float(op: str, *more: Node) -> Node:
    return less(Apply(op, (REAL_Q, *more), F32), REAL_KV)


SMALL_Q = less(LOOSE_Q, Const(3, I64))
VALUES: dict[str, Node] = {
    **{op: of_two(op) for op in ("add", "sub", "mul", "minimum", "maximum", "floordiv")},
    **{op: of_two(op) for op in ("truncdiv", "mod", "fmod", "pow", "shl", "shr")},
    **{op: of_one(op) for op in ("neg", "abs", "sign")},
    **{
        op: Apply(op, (LOOSE_Q, Const(3, I64)), BOOL) for op in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    **{op: Apply("eq", (i64(op, LOOSE_Q, 6), KV), BOOL) for op in ("and", "or", "xor")},
    "not": of_one("not"),
    "where": Apply("eq", (i64("where", SMALL_Q, 5, 70), KV), BOOL),
    **{op: of_float(op) for op in ("floor", "ceil", "round", "trunc", "to_float")},
    "div": of_float("div", Const(2.0, F32)),
    "override_grad": of_float("override_grad", REAL_Q, REAL_Q),
    **{op: Apply(op, (REAL_Q,), BOOL) for op in ("isnan", "isinf")},
    "to_bool": Apply("to_bool", (i64("maximum", LOOSE_Q, 0),), BOOL),
    **{op: of_one(op) for op in ("to_i32", "to_i64", "detach")},
    "to_int": less(i64("to_int", SMALL_Q), KV),
}


@pytest.mark.parametrize("op", sorted({*values.RULES, *values.CASTS, *values._KEEPS, "to_int"}))
def test_a_value_that_is_wrong(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Values._apply

    def wrong(self: Any, node: Apply, args: list[Any]) -> Any:
        found = apply(self, node, args)
        if node.op != op:
            return found
        return ~found if found.dtype == bool else found + np.ones((), found.dtype)

    mask = VALUES[op]
    assert not caught(mask, monkeypatch)
    monkeypatch.setattr(Values, "_apply", wrong)
    assert caught(mask, monkeypatch)


def test_the_rows_are_torchs() -> None:
    from flexattn.ir.ops import OPS

    a = torch.arange(-20, 21).reshape(-1, 1)
    n = torch.tensor([-3, -2, -1, 1, 2, 3, 8])
    for op in ("floordiv", "mod", "truncdiv", "fmod"):
        for other in (n, *(value.reshape(1) for value in n)):
            want = OPS[op].eager(a, other)
            assert np.array_equal(values.RULES[op](a.numpy(), other.numpy()), want.numpy()), op


def test_few_has_every_value() -> None:
    assert set(FEW.tolist()) == set(range(12))  # the tables of these tests rely on it
