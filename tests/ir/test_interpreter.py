"""The interpreter against plain Python on single elements, and what it does with faults."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from flexattn import errors
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import Apply, Const, Input, Load, Node

Q, KV, H = Input("q_idx", "i64"), Input("kv_idx", "i64"), Input("h", "i64")
SCORE = Input("score", "f32")
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def trunc(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


PYTHON: dict[str, Callable[[int, int], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "minimum": min,
    "maximum": max,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "truncdiv": trunc,
    "fmod": lambda a, b: a - trunc(a, b) * b,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}


@pytest.mark.parametrize("op", PYTHON)
@given(a=INTEGERS, b=st.sampled_from([1, -1, 2, -3, 7]) | INTEGERS.filter(bool))
def test_integers_are_pythons_modulo_64_bits(op: str, a: int, b: int) -> None:
    dtype = "bool" if op in ("eq", "ne", "lt", "le", "gt", "ge") else "i64"
    node = Apply(op, (Q, KV), dtype)
    value = evaluate(node, {"q_idx": torch.tensor(a), "kv_idx": torch.tensor(b)}, []).item()
    expected = PYTHON[op](a, b)
    assert value == (expected if dtype == "bool" else wrap(expected))


def test_a_whole_block_is_evaluated_by_broadcasting() -> None:
    causal = Apply("where", (Apply("ge", (Q, KV), "bool"), SCORE, Const(-math.inf, "f32")), "f32")
    scores = torch.randn(2, 3, 4, 5)
    env = {"score": scores, "q_idx": torch.arange(4).view(4, 1), "kv_idx": torch.arange(5)}
    expected = scores.masked_fill(~torch.ones(4, 5).tril().bool(), -math.inf)
    assert torch.equal(evaluate(causal, env, []), expected)


def test_captures_are_widened_and_sizes_are_read_from_them() -> None:
    table = torch.tensor([0.5, 1.0, 3.0]).bfloat16()
    size = Apply("to_float", (Input("size0_0", "i64"),), "f32")
    value = evaluate(Apply("add", (Load(0, (H,), "f32"), size), "f32"), {"h": 2}, [table])
    assert value.dtype == torch.float32 and value.item() == 6.0
    double = evaluate(Load(0, (H,), "f64"), {"h": 2}, [table], "f64")
    assert double.dtype == torch.float64


@pytest.mark.parametrize(("index", "element"), [(0, 1), (2, 3), (-1, 3), (-3, 1)])
def test_negative_indices_count_from_the_end(index: int, element: int) -> None:
    load = Load(0, (H,), "i64")
    for on_fault in ("raise", "safe"):
        assert evaluate(load, {"h": index}, [torch.tensor([1, 2, 3])], on_fault=on_fault) == element


@pytest.mark.parametrize("index", [3, -4, 2**62, -(2**63)])
def test_an_index_outside_its_capture(index: int) -> None:
    load, table = Load(0, (H,), "i64"), torch.tensor([1, 2, 3])
    env = {"h": torch.tensor([1, index])}
    with pytest.raises(errors.IndexOutOfRangeError, match=f"Index {index} is outside dimension 0"):
        evaluate(load, env, [table])
    assert evaluate(load, env, [table], on_fault="safe").tolist() == [2, 1]


@pytest.mark.parametrize("op", ["floordiv", "truncdiv", "mod", "fmod"])
def test_division_by_zero(op: str) -> None:
    node = Apply(op, (Q, KV), "i64")
    env = {"q_idx": torch.tensor([7, -8]), "kv_idx": torch.tensor([0, 3])}
    with pytest.raises(errors.DivisionByZeroError, match="divided by zero"):
        evaluate(node, env, [])
    as_if_one = evaluate(node, {**env, "kv_idx": torch.tensor([1, 3])}, [])
    assert torch.equal(evaluate(node, env, [], on_fault="safe"), as_if_one)


@pytest.mark.parametrize("count", [-1, 64, 2**40])
def test_shift_counts_out_of_range(count: int) -> None:
    for op, expected in (("shl", 5 if count < 0 else 5 << 63), ("shr", 5 if count < 0 else 0)):
        node, env = Apply(op, (Q, KV), "i64"), {"q_idx": 5, "kv_idx": count}
        with pytest.raises(errors.ShiftRangeError):
            evaluate(node, env, [])
        assert evaluate(node, env, [], on_fault="safe").item() == wrap(expected)


def test_reading_an_empty_capture_where_nothing_is_used() -> None:
    load = Load(0, (H,), "f32")
    value = evaluate(load, {"h": torch.zeros(2, 3).long()}, [torch.zeros(0)], on_fault="safe")
    assert value.shape == (2, 3) and not value.any()


def test_gradients_pass_as_the_operations_promise() -> None:
    score = torch.tensor([0.5, -1.0], requires_grad=True)
    detached = Apply("mul", (SCORE, Apply("detach", (SCORE,), "f32")), "f32")
    (grad,) = torch.autograd.grad(evaluate(detached, {"score": score}, []).sum(), score)
    assert torch.equal(grad, score.detach())
    factor: Node = Apply("exp", (SCORE,), "f32")
    custom = Apply("override_grad", (Const(3.0, "f32"), SCORE, factor), "f32")
    value = evaluate(custom, {"score": score}, [])
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert value.tolist() == [3.0, 3.0] and torch.equal(grad, score.detach().exp())


def test_an_input_without_a_value() -> None:
    with pytest.raises(KeyError, match="kv_idx"):
        evaluate(Apply("ge", (Q, KV), "bool"), {"q_idx": 1}, [])
