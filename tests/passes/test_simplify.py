"""Simplification shortens graphs and keeps every bit, special values included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import captured, grid, operations, random_program, same_bits

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, Input, Node
from flexattn.ir.verifier import verify
from flexattn.passes.fold import fold
from flexattn.passes.simplify import simplify, without_marks

X, Y = Input("x", F32), Input("y", F32)
M, N = Input("m", I64), Input("n", I64)
P, Q = Input("p", BOOL), Input("q", BOOL)

SPECIAL = [0.0, -0.0, 1.0, -1.5, 3e-45, -1e-38, 3.4e38, 7.1, math.inf, -math.inf, math.nan]
ONE_ARGUMENT = ("sqrt", "round", "ceil", "trunc")
INTS = [0, 1, -1, 2, -7, 63, 2**63 - 1, -(2**63)]


def op(name: str, *args: Node, dtype: str | None = None) -> Apply:
    return Apply(name, args, dtype or args[-1].dtype)


def f(value: float) -> Const:
    return Const(value, F32)


def i(value: int) -> Const:
    return Const(value, I64)


def test(a: Node, name: str, b: Node) -> Apply:
    return op(name, a, b, dtype=BOOL)


test.__test__ = False  # type: ignore[attr-defined]

YES, NO = Const(True, BOOL), Const(False, BOOL)

SHORTER = [
    (op("add", M, i(0)), M),
    (op("add", op("add", M, i(3)), i(4)), op("add", M, i(7))),
    (op("add", X, op("neg", Y)), op("sub", X, Y)),
    (op("add", op("neg", X), Y), op("sub", Y, X)),
    (op("sub", X, f(0.0)), X),
    (op("sub", M, M), i(0)),
    (op("sub", M, i(5)), op("add", M, i(-5))),
    (op("sub", i(0), M), op("neg", M)),
    (op("sub", X, op("neg", Y)), op("add", X, Y)),
    (op("mul", f(1.0), X), X),
    (op("mul", X, f(-1.0)), op("neg", X)),
    (op("mul", M, i(0)), i(0)),
    (op("neg", op("neg", X)), X),
    (op("div", X, f(1.0)), X),
    (op("div", X, f(4.0)), op("mul", X, f(0.25))),
    (op("div", X, f(-0.5)), op("mul", X, f(-2.0))),
    (op("floordiv", M, i(1)), M),
    (op("floordiv", M, i(-1)), op("neg", M)),
    (op("mod", M, i(-1)), i(0)),
    (op("pow", X, f(2.0)), op("mul", X, X)),
    (op("pow", X, f(3.0)), op("mul", op("mul", X, X), X)),
    (op("pow", X, f(-1.0)), op("div", f(1.0), X)),
    (op("pow", X, f(-2.0)), op("div", f(1.0), op("mul", X, X))),
    (op("pow", X, f(0.0)), f(1.0)),
    (op("abs", op("abs", op("neg", X))), op("abs", X)),
    (op("minimum", X, X), X),
    (op("minimum", op("minimum", M, i(4)), i(9)), op("minimum", M, i(4))),
    (test(M, "le", M), YES),
    (test(i(3), "lt", M), test(M, "gt", i(3))),
    (test(op("to_int", P, dtype=I64), "ne", i(0)), P),
    (test(P, "eq", NO), op("not", P)),
    (op("not", test(M, "lt", N)), test(M, "ge", N)),
    (op("not", op("not", P)), P),
    (op("and", P, YES), P),
    (op("and", NO, P), NO),
    (op("and", P, op("not", P)), NO),
    (op("and", P, op("or", Q, P)), P),
    (op("or", P, op("and", P, Q)), P),
    (op("or", op("not", P), P), YES),
    (op("xor", P, YES), op("not", P)),
    (op("shl", M, i(0)), M),
    (op("where", YES, X, Y), X),
    (op("where", P, X, X), X),
    (op("where", op("not", P), X, Y), op("where", P, Y, X)),
    (op("where", P, op("where", P, X, Y), f(2.0)), op("where", P, X, f(2.0))),
    (op("where", P, Q, NO), op("and", P, Q)),
    (op("where", P, YES, Q), op("or", P, Q)),
    (op("to_float", X), X),
    (op("to_bool", op("to_int", P, dtype=I64), dtype=BOOL), P),
    (op("add", f(0.1), f(0.2)), f(0.30000001192092896)),
    (op("add", i(2**63 - 1), i(1)), i(-(2**63))),
    (op("floordiv", i(-7), i(2)), i(-4)),
    (op("truncdiv", i(-7), i(2)), i(-3)),
    (op("mod", i(7), i(-3)), i(-2)),
    (op("fmod", i(-7), i(3)), i(-1)),
]


def tensors() -> dict[str, torch.Tensor]:
    return {
        "x": torch.tensor(SPECIAL)[:, None, None, None],
        "y": torch.tensor(SPECIAL)[:, None, None],
        "m": torch.tensor(INTS)[:, None, None, None],
        "n": torch.tensor(INTS)[:, None, None],
        "p": torch.tensor([True, False])[:, None],
        "q": torch.tensor([True, False]),
    }


@pytest.mark.parametrize(("before", "after"), SHORTER, ids=lambda n: getattr(n, "op", "leaf"))
def test_each_rule(before: Node, after: Node) -> None:
    assert simplify(before) is after
    assert same_bits(evaluate(before, tensors(), []), evaluate(after, tensors(), []))


@pytest.mark.parametrize(
    "stays",
    [
        op("add", X, f(0.0)),  # -0.0 would stay negative
        op("sub", X, f(-0.0)),
        op("mul", X, f(0.0)),  # NaN and inf
        op("sub", X, X),
        op("div", X, f(3.0)),  # 1/3 is rounded
        op("div", X, f(2.0**-140)),
        op("div", X, f(0.0)),
        test(X, "eq", X),
        op("not", test(X, "lt", Y)),  # both are false for NaN
        op("pow", X, f(0.5)),  # pow(-inf, 0.5) is inf
        op("minimum", f(0.0), f(-0.0)),  # which zero is up to the kernel
        op("exp", f(0.5)),  # the kernel's own exp decides the last bit
        op("floordiv", i(5), i(0)),
        op("shl", i(1), i(64)),
        op("mul", X, f(2.0)),
        op("to_int", f(math.nan), dtype=I64),
        op("to_int", f(1e30), dtype=I64),
        op("add", op("add", X, f(0.1)), f(0.2)),
    ],
    ids=lambda n: n.op,
)
def test_stays(stays: Node) -> None:
    assert simplify(stays) is stays


@given(st.integers(0, 10**6))
def test_random_graphs_keep_their_bits(seed: int) -> None:
    program = random_program(seed, size=25)
    env = {**grid(4, 5), "b": 1, "h": 2, "n0": 3, "n1": -2, "score": torch.linspace(-1, 1, 5)}
    for root in (program.score, program.mask):
        short = simplify(root)
        verify(short, program)
        assert operations(short) <= operations(root)
        assert simplify(short) is short
        before = evaluate(root, env, captured(seed), F64, on_fault="safe")
        assert same_bits(before, evaluate(short, env, captured(seed), F64, on_fault="safe"))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "sqrt", "round", "ceil", "trunc"])
def test_float_folding_matches_eager_torch(name: str) -> None:
    for a in SPECIAL:
        for b in SPECIAL[: 1 if name in ONE_ARGUMENT else None]:
            args = [f(a)] if name in ONE_ARGUMENT else [f(a), f(b)]
            folded = fold(name, args, F32)
            assert folded is not None
            expected = evaluate(op(name, *args), {}, [])
            assert same_bits(torch.tensor(folded.value), expected), (name, a, b)


def test_marks_go_to_their_values() -> None:
    marked = op("mul", op("detach", X), op("override_grad", Y, X, f(2.0), dtype=F32))
    assert without_marks(marked) is op("mul", X, Y)
