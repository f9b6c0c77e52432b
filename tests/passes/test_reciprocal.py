"""Division of scores by what many pairs share becomes multiplication, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, Input, Load, walk
from flexattn.passes.reciprocal import multiply_by_inverses

SCORE, GRAD = Input("score", F32), Input("grad", F32)
Q, KV, H = (Input(name, I64) for name in ("q_idx", "kv_idx", "h"))


def as_float(node):
    return Apply("to_float", (node,), F32)


def div(x, d, dtype=F32):
    return Apply("div", (x, d), dtype)


def divisions(root):
    return [node for node in walk(root) if isinstance(node, Apply) and node.op == "div"]


def test_a_constant_is_inverted_in_float32():
    (product,) = [multiply_by_inverses(div(SCORE, Const(20.1, F32)))]
    assert product is Apply(
        "mul", (SCORE, Const(float(np.float32(1) / np.float32(20.1)), F32)), F32
    )


@pytest.mark.parametrize(
    "divisor", [Input("n0", F32), Load(0, (H,), F32), Load(0, (Q,), F32), as_float(KV)]
)
@pytest.mark.parametrize("x", [SCORE, GRAD, Apply("tanh", (SCORE,), F32)])
def test_what_is_hoisted_is_inverted_once(x, divisor):
    root = multiply_by_inverses(div(x, divisor))
    assert root.op == "mul"
    assert root.args[0] is x
    assert divisions(root) == [div(Const(1.0, F32), divisor)]


@pytest.mark.parametrize(
    "root",
    [
        div(as_float(Apply("sub", (Q, KV), I64)), Const(7.0, F32)),  # exact: may be compared
        div(SCORE, as_float(Apply("sub", (Q, KV), I64))),  # its inverse takes as long
        div(SCORE, SCORE),
        div(Const(1.0, F32), SCORE),
        div(Input("score", F64), Const(20.0, F64), F64),
        Apply("lt", (div(as_float(Q), Const(3.0, F32)), Const(1.0, F32)), BOOL),
    ],
)
def test_the_rest_stays(root):
    assert multiply_by_inverses(root) is root


def test_divisions_inside_one_another():
    root = multiply_by_inverses(div(div(SCORE, Const(3.0, F32)), Input("n0", F32)))
    assert divisions(root) == [div(Const(1.0, F32), Input("n0", F32))]
