"""The JavaScript target, run by QuickJS, against torch and the interpreter of graphs."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest
import quickjs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import expect
from operands import M, N, captures_of_all_kinds, loads, operands, random_graphs, roots_of
from run_javascript import run
from torch import Tensor

from flexattn.ir.nodes import BOOL, F32, F64, FLOATS, I64, Apply, Const, DType, Input, Load, Node
from flexattn.ir.ops import OPS, result_dtype
from flexattn.lowering.javascript_spellings import SPELLINGS
from flexattn.lowering.to_javascript import runtime
from flexattn.reports.javascript import javascript

KV = Input("kv_idx", I64)
TORCH = {BOOL: torch.bool, I64: torch.int64, F32: torch.float32, F64: torch.float64}
FLOAT_VALUES = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 3.5, 7.25, -0.75, 1e-3, 40.0, -9.5, 2.0]
FLOAT_VALUES += [math.inf, -math.inf, math.nan]
INT_VALUES = [0, 1, -1, 2, 3, -5, 7, 31, -32, 100, 2**31, -(2**31) - 5, 2**40 + 3]
DOMAIN = {"asin": 1, "acos": 1, "atanh": 1}
ROUGH = ("erf", "erfc", "sinh", "cosh", "tan", "atanh", "asinh", "pow")


def same(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        found, wanted.double(), rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True
    )


def alone(root: Node, tensors: list[Tensor], compute: str = F32) -> Tensor:
    """``root`` at kv_idx = 0, 1, …; captures are one-dimensional."""
    score = torch.zeros(1, 1, 1, len(tensors[0]))
    return run([root], tensors, score, compute=compute)[0].flatten()


def test_every_operation_has_a_spelling_and_every_function_is_there() -> None:
    assert SPELLINGS.keys() == OPS.keys()
    context = quickjs.Context()
    context.eval(runtime())
    defined = set(json.loads(context.eval("JSON.stringify(Object.keys(flexRuntime))")))
    texts = [text for row in SPELLINGS.values() for text in row.values()]
    assert set(re.findall(r"\bm\.(\w+)", " ".join(texts))) <= defined


def columns(op: str, dtype: DType, arity: int) -> list[list[Any]]:
    """All combinations of values, one list an argument."""
    values: list[Any] = {BOOL: [False, True], I64: INT_VALUES}.get(dtype, FLOAT_VALUES)
    if op in ("floordiv", "truncdiv", "mod", "fmod") and dtype == I64:
        rows = [(a, b) for a, b in itertools.product(values, repeat=2) if b]
    elif op in ("shl", "shr"):
        rows = [(a, b) for a in values for b in (0, 1, 5, 20, 40, 63, 64, 70)]
    elif op == "where":
        rows = [(c, a, b) for c in (True, False) for a, b in zip(values, values[::-1], strict=True)]
    else:
        rows = list(itertools.product(values, repeat=arity))
    return [list(column) for column in zip(*rows, strict=True)]


def cases() -> list[tuple[str, DType]]:
    kinds = {"float": [F32, F64], "int": [I64], "bool": [BOOL]}
    kinds["number"] = kinds["int"] + kinds["float"]
    kinds["integral"] = kinds["int"] + kinds["bool"]
    kinds["any"] = kinds["bool"] + kinds["number"]
    skip = {"to_i32", "override_grad"}
    kinds["pow"] = kinds["float"]  # exponents of whole numbers are constants
    return [
        (name, d)
        for name, op in OPS.items()
        if name not in skip
        for d in kinds[name if name == "pow" else op.takes]
    ]


@pytest.mark.parametrize(("op", "dtype"), cases())
def test_an_operation_is_what_torch_does(op: str, dtype: DType) -> None:
    row = OPS[op]
    lists = columns(op, dtype, max(1, row.arity))
    kinds = [BOOL if op == "where" and i == 0 else dtype for i in range(len(lists))]
    tensors = [torch.tensor(v, dtype=TORCH[k]) for v, k in zip(lists, kinds, strict=True)]
    if op in DOMAIN:
        tensors = [t.clamp(-1, 1) for t in tensors]
    if op == "to_int" and dtype in (F32, F64):
        tensors = [t[t.isfinite()] for t in tensors]  # torch promises nothing of others
    compute = F64 if dtype == F64 else F32
    reads = tuple(Load(i, (KV,), k) for i, k in enumerate(kinds))
    root = Apply(op, reads, result_dtype(op, tuple(kinds), compute))
    keyed = {"dtype": TORCH[root.dtype]} if op.startswith("to_") else {}
    wanted = row.eager(*tensors, **keyed)
    tolerance = 0.0
    if root.dtype in FLOATS:
        tolerance = (1e-12 if op in ROUGH else 1e-14) if compute == F64 else 3e-7
        tolerance *= 4 if op in ROUGH else 1
    same(alone(root, tensors, compute), wanted, tolerance)


@pytest.mark.parametrize("compute", [F32, F64])
def test_every_operation_agrees_with_the_interpreter(compute: str) -> None:
    dtype = torch.float64 if compute == F64 else torch.float32
    captures = operands(dtype)
    for number in (2, 3):  # doubles hold these
        captures[number] = captures[number].clamp(-(2**31), 2**31)
    score = torch.zeros(1, 1, 16, 16, dtype=dtype)
    roots = [root for op in OPS for root in roots_of(op, compute)]
    for root, value in zip(roots, run(roots, captures, score, compute=compute), strict=True):
        wanted = expect(root, captures, score, compute=compute)
        same(value, wanted, 0.0 if root.dtype not in FLOATS else 1e-12 if compute == F64 else 4e-6)


@pytest.mark.parametrize("compute", [F32, F64])
def test_every_load_agrees_with_the_interpreter(compute: str) -> None:
    captures = captures_of_all_kinds()
    score = torch.randn(2, 3, 9, 10, dtype=torch.float64 if compute == F64 else torch.float32)
    roots = loads(captures, compute)
    for root, value in zip(roots, run(roots, captures, score, compute=compute), strict=True):
        same(value, expect(root, captures, score, compute=compute), 0.0)


def test_inputs_numbers_and_sizes_arrive() -> None:
    captures, score = [torch.zeros(4, 9), torch.zeros(5)], torch.randn(2, 3, 5, 7)
    names = ("b", "h", "q_idx", "kv_idx", "n0", "n1", "size0_0", "size0_1", "size1_0")
    roots: list[Node] = [Input(name, I64) for name in names]
    roots += [Input("score", F32), Input("n2", F32)]
    roots.append(Apply("mul", (Input("n2", F32), Input("score", F32)), F32))
    ints, floats = (-3, 2**40), (0.1,)
    for root, value in zip(
        roots, run(roots, captures, score, ints=ints, floats=floats), strict=True
    ):
        same(value, expect(root, captures, score, ints=ints, floats=floats), 0.0)


def test_constants_keep_every_bit() -> None:
    floats = [0.1, -0.0, 1e-45, 3.4e38, math.inf, -math.inf, math.nan, 1 / 3]
    score = torch.zeros(1, 1, 2, 2)
    for compute in (F32, F64):
        roots: list[Node] = [Const(value, compute) for value in floats]
        roots += [Const(value, I64) for value in (0, -1, 2**53, -(2**31))] + [Const(True, BOOL)]
        for root, value in zip(roots, run(roots, [], score, compute=compute), strict=True):
            same(value, expect(root, [], score, compute=compute), 0.0)


@given(st.integers(0, 2**30))
@settings(max_examples=6)
def test_random_graphs_agree_with_the_interpreter(seed: int) -> None:
    torch.manual_seed(seed)
    captures = [torch.randn(M, N), torch.randn(3), torch.randint(0, 9, (N,)), torch.rand(N) < 0.5]
    score, roots = torch.randn(2, 3, 8, 9), random_graphs(seed)
    found = run(roots, captures, score, ints=(11,), floats=(0.3,))
    for root, value in zip(roots, found, strict=True):
        wanted = expect(root, captures, score, ints=(11,), floats=(0.3,))
        same(value, wanted, 2e-5 if root.dtype in FLOATS else 0.0)


def test_powers_of_constants() -> None:
    for exponent in (2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 1.7, 0.0):
        base = torch.tensor([0.5, 1.0, 2.0, 3.25, math.inf, math.nan])
        root = Apply("pow", (Load(0, (KV,), F32), Const(exponent, F32)), F32)
        same(alone(root, [base]), base**exponent, 3e-7)
    whole = torch.tensor([3, -2, 10])
    root = Apply("pow", (Load(0, (KV,), I64), Const(41, I64)), I64)
    same(alone(root, [whole]), whole**41, 0.0)


def test_products_and_shifts_beyond_doubles_wrap_in_64_bits() -> None:
    big = torch.tensor([2**40, 2**52, -(2**33) - 1])
    read = Load(0, (KV,), I64)
    same(alone(Apply("mul", (read, read), I64), [big]), big * big, 0.0)
    same(alone(Apply("shl", (read, Const(30, I64)), I64), [big]), big << 30, 0.0)


def test_what_no_whole_number_can_hold_becomes_the_least_one() -> None:
    root = Apply("to_int", (Load(0, (KV,), F32),), I64)
    values = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30])
    assert alone(root, [values]).tolist() == [-(2.0**63)] * 5


def test_divisors_of_zero_give_some_whole_number() -> None:
    for op in ("floordiv", "truncdiv", "mod", "fmod"):
        root = Apply(op, (Load(0, (KV,), I64), Const(0, I64)), I64)
        assert alone(root, [torch.tensor([5, -5, 0])]).isfinite().all()


def test_indices_count_from_the_end_and_stay_inside() -> None:
    table, index = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([0, 2, -1, -3, 3, -4])
    root = Load(1, (Load(0, (KV,), I64),), F32)
    assert alone(root, [index, table]).tolist() == [10, 30, 30, 10, 10, 10]


def test_a_call_gives_text_numbers_and_captures_once() -> None:
    slopes, window = torch.tensor([0.5, -math.inf]), 3

    def score_mod(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score + slopes[h] * 0.1

    def mask_mod(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return q_idx - kv_idx < window

    made = javascript(score_mod, mask_mod, H=2, Q_LEN=8)
    assert made.text.count("F(0.1)") == 1 and "< 3" in made.text
    assert made.captures == [{"shape": [2], "f32": "AAAAPwAAgP8="}]
    assert "score: null" in javascript(None, mask_mod, Q_LEN=8).text
