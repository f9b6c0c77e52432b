"""The JavaScript target, run by QuickJS: every operation against torch."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import quickjs
import torch
from torch import Tensor

from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, DType, Input, Load, Node
from flexattn.ir.ops import OPS, result_dtype
from flexattn.ir.program import CaptureType, Program
from flexattn.lowering.to_javascript import lower_javascript, runtime

KV = Input("kv_idx", I64)
TORCH = {BOOL: torch.bool, I64: torch.int64, F32: torch.float32, F64: torch.float64}
FLOAT_VALUES = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 3.5, 7.25, -0.75, 1e-3, 40.0, -9.5, 2.0]
FLOAT_VALUES += [math.inf, -math.inf, math.nan]
INT_VALUES = [0, 1, -1, 2, 3, -5, 7, 31, -32, 100, 2**31, -(2**31) - 5, 2**40 + 3]
DOMAIN = {"asin": 1, "acos": 1, "atanh": 1}


def columns(op: str, dtype: DType, arity: int) -> list[list[Any]]:
    """All combinations of values, one list an argument."""
    values: list[Any] = {BOOL: [False, True], I64: INT_VALUES}.get(dtype, FLOAT_VALUES)
    if op in ("floordiv", "truncdiv", "mod", "fmod") and dtype == I64:
        rows = [(a, b) for a, b in itertools.product(values, repeat=2) if b]
    elif op in ("shl", "shr"):
        rows = [(a, b) for a in values for b in (0, 1, 5, 20)]
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
    skip = {"to_i32", "override_grad", "pow"}
    return [(name, d) for name, op in OPS.items() if name not in skip for d in kinds[op.takes]]


def evaluate(root: Node, tensors: list[Tensor], compute: str) -> list[Any]:
    """``root`` at kv_idx = 0, 1, …; captures are one-dimensional."""
    storage = {torch.bool: "bool", torch.int64: "i64", torch.float32: "f32", torch.float64: "f64"}
    captures = tuple(CaptureType(storage[t.dtype], 1) for t in tensors)
    mask = root if root.dtype == BOOL else None
    score = None if mask is not None else root
    text = lower_javascript(Program(score, mask, captures, compute=compute))
    data = [{"shape": list(t.shape), "data": [str(v) for v in t.tolist()]} for t in tensors]
    context = quickjs.Context()
    context.eval(runtime())
    words = {"True": 1, "False": 0, "inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    given = json.dumps([d | {"data": [words.get(v, v) for v in d["data"]]} for d in data])
    call = "f.mask(" if mask is not None else "f.score(0, "
    script = f"""
      const f = ({text})(flexRuntime);
      const captures = {given}.map((c) => ({{shape: c.shape, data: c.data.map(Number)}}));
      const out = [];
      for (let i = 0; i < {len(tensors[0])}; i++) {{
        out.push(String({call}0, 0, 0, i, [], [], captures)));
      }}
      out.join(" ")
    """
    return str(context.eval(script)).split()


@pytest.mark.parametrize(("op", "dtype"), cases())
def test_an_operation_is_what_torch_does(op: str, dtype: DType) -> None:
    row = OPS[op]
    lists = columns(op, dtype, max(1, row.arity))
    kinds = [BOOL if op == "where" and i == 0 else dtype for i in range(len(lists))]
    tensors = [torch.tensor(v, dtype=TORCH[k]) for v, k in zip(lists, kinds, strict=True)]
    if op in DOMAIN:
        tensors = [t.clamp(-1, 1) for t in tensors]
    compute = F64 if dtype == F64 else F32
    loads = tuple(Load(i, (KV,), k) for i, k in enumerate(kinds))
    root = Apply(op, loads, result_dtype(op, tuple(kinds), compute))
    keyed = {"dtype": TORCH[root.dtype]} if op.startswith("to_") else {}
    finite = tensors[0].isfinite() if tensors[0].is_floating_point() else None
    if op == "to_int" and finite is not None:
        tensors = [tensors[0][finite]]
    want = row.eager(*tensors, **keyed)
    got = evaluate(root, tensors, compute)
    if root.dtype == BOOL:
        assert got == [str(v).lower() for v in want.tolist()]
        return
    found = torch.tensor([float(v) for v in got], dtype=torch.float64)
    exact = {"rtol": 1e-14, "atol": 1e-300} if compute == F64 else {"rtol": 3e-7, "atol": 1e-38}
    if op in ("erf", "erfc", "sinh", "cosh", "tan", "atanh", "asinh"):
        exact["rtol"] = 1e-12 if compute == F64 else 1e-6
    torch.testing.assert_close(found, want.double(), equal_nan=True, **exact)


def test_powers_of_constants() -> None:
    for exponent in (2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 1.7):
        base = torch.tensor([0.5, 1.0, 2.0, 3.25])
        root = Apply("pow", (Load(0, (KV,), F32), Const(exponent, F32)), F32)
        found = torch.tensor([float(v) for v in evaluate(root, [base], F32)])
        torch.testing.assert_close(found, base**exponent)
    whole = torch.tensor([3, -2, 10])
    root = Apply("pow", (Load(0, (KV,), I64), Const(3, I64)), I64)
    assert [int(v) for v in evaluate(root, [whole], F32)] == [27, -8, 1000]


def test_products_beyond_doubles_wrap_in_64_bits() -> None:
    big = torch.tensor([2**40, 2**62, -(2**33) - 1])
    root = Apply("mul", (Load(0, (KV,), I64), Load(0, (KV,), I64)), I64)
    want = [float(v) for v in (big * big).tolist()]
    assert [float(v) for v in evaluate(root, [big], F32)] == want


def test_indices_count_from_the_end_and_stay_inside() -> None:
    table, index = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([0, 2, -1, -3, 3, -4])
    root = Load(0, (Load(1, (KV,), I64),), F32)
    swapped = evaluate(Apply("add", (root, Const(0.0, F32)), F32), [table.repeat(2), index], F32)
    assert swapped[:4] == ["10", "30", "30", "10"]
