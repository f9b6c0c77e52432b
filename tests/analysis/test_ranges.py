"""Ranges contain every value: each operation over all small intervals, then random programs."""

from __future__ import annotations

import itertools

import pytest
import torch

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, FLOATS, I64, Apply, Const, Input, Load, walk
from flexattn.ir.ops import OPS, result_dtype
from flexattn.ir.program import CaptureType
from flexattn.ir.ranges import FULL, MAYBE, RULES, apply_range, ranges

A, B = Input("a", I64), Input("b", I64)
BOUNDS = (-9, -4, -1, 0, 1, 3, 8)
INTERVALS = [(lo, hi) for lo in BOUNDS for hi in BOUNDS if lo <= hi]
ON_INTS = [name for name, op in OPS.items() if op.takes in ("number", "integral", "int", "any")]
BINARY = [name for name in ON_INTS if OPS[name].arity == 2 and name != "pow"]
UNARY = [name for name in ON_INTS if OPS[name].arity == 1 and name not in ("to_float", "detach")]


def values(lo: int, hi: int) -> torch.Tensor:
    return torch.arange(lo, hi + 1)


def assert_inside(name: str, found: torch.Tensor, expected: tuple[int, int], *args: object) -> None:
    low, high = int(found.min()), int(found.max())
    assert expected[0] <= low and high <= expected[1], (name, args, (low, high), expected)


def test_every_operation_has_a_row() -> None:
    assert RULES.keys() == OPS.keys()


@pytest.mark.parametrize("name", BINARY)
def test_two_arguments(name: str) -> None:
    dtype = result_dtype(name, (I64, I64), "f32")
    node = Apply(name, (A, B), dtype)
    for a, b in itertools.product(INTERVALS, INTERVALS):
        env = {"a": values(*a)[:, None], "b": values(*b)[None, :]}
        # "safe" is what a guarded kernel does, whose ranges these must hold for.
        found = evaluate(node, env, [], on_fault="safe")
        if name in ("shl", "shr") and (b[0] < 0):
            found = evaluate(node, env | {"b": env["b"].clamp(min=0)}, [])
        assert_inside(name, found, apply_range(name, dtype, (a, b)), a, b)


@pytest.mark.parametrize("name", UNARY)
def test_one_argument(name: str) -> None:
    dtype = result_dtype(name, (I64,), "f32")
    for a in INTERVALS:
        found = evaluate(Apply(name, (A,), dtype), {"a": values(*a)}, [])
        assert_inside(name, found, apply_range(name, dtype, (a,)), a)


@pytest.mark.parametrize("name", ["and", "or", "xor", "not", "eq", "ne"])
def test_logic(name: str) -> None:
    p, q = Input("p", BOOL), Input("q", BOOL)
    args = (p, q)[: OPS[name].arity]
    for known in itertools.product([(0, 0), (1, 1), MAYBE], repeat=len(args)):
        env = {
            arg.name: torch.tensor(sorted(set(r)), dtype=torch.bool).reshape([-1] + [1] * i)
            for i, (arg, r) in enumerate(zip(args, known, strict=True))
        }
        found = evaluate(Apply(name, args, BOOL), env, []).int()
        expected = apply_range(name, BOOL, known)
        assert (int(found.min()), int(found.max())) == expected  # exact, not only safe


@pytest.mark.parametrize("exponent", range(6))
def test_powers(exponent: int) -> None:
    n = Const(exponent, I64)
    for a in INTERVALS:
        found = evaluate(Apply("pow", (A, n), I64), {"a": values(*a)}, [])
        assert_inside("pow", found, apply_range("pow", I64, (a, (exponent, exponent))), a)


def test_what_may_wrap_around_is_unknown() -> None:
    big = (0, 2**62)
    assert apply_range("add", I64, (big, big)) == FULL[I64]
    assert apply_range("neg", I64, (FULL[I64],)) == FULL[I64]
    assert apply_range("shl", I64, ((0, 4), (0, 62))) == FULL[I64]
    assert apply_range("floordiv", I64, (FULL[I64], (-1, 3))) == FULL[I64]
    assert apply_range("abs", I64, (FULL[I64],)) == FULL[I64]


def test_ranges_of_a_graph() -> None:
    q, kv = Input("q_idx", I64), Input("kv_idx", I64)
    load = Load(0, (Apply("mod", (Apply("sub", (q, kv), I64), Const(7, I64)), I64),), I64)
    root = Apply("lt", (load, Const(256, I64)), BOOL)
    found = ranges([root], {"q_idx": (0, 9), "kv_idx": (0, 5)}, (CaptureType("u8", 1),))
    assert found[load.indices[0]] == (0, 6)
    assert found[load] == (0, 255) and found[root] == (1, 1)
    assert all(found[n] is None for n in walk(root) if n.dtype in FLOATS)
