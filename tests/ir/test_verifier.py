"""The verifier passes what the operation table allows and names what breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from random_graphs import programs

from flexattn.errors import InvalidGraphError
from flexattn.ir.nodes import Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program, Ranges
from flexattn.ir.verifier import verify, verify_program

SCORE, GRAD, H = Input("score", "f32"), Input("grad", "f32"), Input("h", "i64")
EMPTY = Program(None, None, (CaptureType("f16", 1), CaptureType("i32", 1)), ("i64",), "f32")


@given(programs())
def test_programs_of_the_table_pass(program: Program) -> None:
    verify_program(program)


BROKEN: dict[str, tuple[Node, str]] = {
    "unknown op": (Apply("frobnicate", (SCORE,), "f32"), "no operation is called"),
    "arity": (Apply("add", (SCORE,), "f32"), "takes 2 arguments, not 1"),
    "mixed dtypes": (Apply("add", (SCORE, H), "f32"), "mixes f32, i64"),
    "wrong dtype": (Apply("exp", (H,), "i64"), "takes float arguments"),
    "wrong result": (Apply("lt", (H, H), "i64"), "gives bool, not i64"),
    "condition": (Apply("where", (H, SCORE, SCORE), "f32"), "condition of where is a bool"),
    "pairs": (Apply("override_grad", (SCORE, SCORE), "f32"), "a value and pairs"),
    "integer power": (Apply("pow", (H, H), "i64"), "a constant >= 0"),
    "negative power": (Apply("pow", (H, Const(-1, "i64")), "i64"), "a constant >= 0"),
    "double": (Input("score", "f64"), "does not occur in a mod computing in f32"),
    "narrow": (Input("h", "i32"), "does not occur"),
    "unknown input": (Input("k_idx", "i64"), "is not supplied"),
    "float index": (Input("q_idx", "f32"), "is not supplied"),
    "absent number": (Input("n1", "i64"), "is not supplied"),
    "number's dtype": (Input("n0", "f32"), "is not supplied"),
    "absent size": (Input("size0_1", "i64"), "is not supplied"),
    "absent capture": (Load(2, (H,), "f32"), "there is no capture 2"),
    "too few indices": (Load(0, (), "f32"), "0 indices for 1 dimensions"),
    "indexed by float": (Load(0, (SCORE,), "f32"), "an index is an integer"),
    "element dtype": (Load(0, (H,), "i64"), "is not read as i64"),
    "integer element": (Load(1, (H,), "f32"), "is not read as f32"),
    "wide constant": (Const(2**63, "i64"), "does not fit i64"),
    "conversion": (Apply("to_int", (SCORE,), "f32"), "gives i64, not f32"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs_are_named(name: str) -> None:
    root, why = BROKEN[name]
    with pytest.raises(InvalidGraphError) as caught:
        verify(Apply("detach", (root,), root.dtype), EMPTY)
    assert why in str(caught.value)


def test_narrowed_graphs_pass_only_where_that_is_said() -> None:
    narrow = Apply("add", (Input("q_idx", "i32"), Apply("to_i32", (H,), "i32")), "i32")
    widened = Apply("to_i64", (narrow,), "i64")
    verify(widened, EMPTY, narrowed=True)
    verify(Load(1, (narrow,), "i32"), EMPTY, narrowed=True)
    with pytest.raises(InvalidGraphError):
        verify(widened, EMPTY)


def test_hoisted_values_and_gradients_are_inputs() -> None:
    verify(Apply("mul", (GRAD, Input("kv:3", "f32")), "f32"), EMPTY)
    with pytest.raises(InvalidGraphError):
        verify(Input("kv:x", "f32"), EMPTY)


def test_roots_have_the_dtype_of_their_kind() -> None:
    with pytest.raises(InvalidGraphError, match="a mask is a bool"):
        verify_program(Program(None, H))
    with pytest.raises(InvalidGraphError, match="a score is a float"):
        verify_program(Program(H, None))


Q, KV = Input("q_idx", "i64"), Input("kv_idx", "i64")
FINE_ROWS = (Apply("sub", (Q, Load(1, (Q,), "i64")), "i64"), Q)
BAD_RANGES: dict[str, tuple[Ranges, str]] = {
    "no rows": (Ranges((), ((KV, KV),)), "has 0 ranges"),
    "too many columns": (Ranges((FINE_ROWS,), ((KV, KV),) * 5), "has 5 ranges"),
    "float": (Ranges(((Q, Load(0, (Q,), "f32")),), ((KV, KV),)), "an end of a range is an i64"),
    "keys of keys": (Ranges(((KV, Q),), ((KV, KV),)), "a range of kv_idx does not read it"),
    "queries of queries": (Ranges((FINE_ROWS,), ((KV, Q),)), "a range of q_idx does not read it"),
    "score": (
        Ranges(((Q, Apply("to_int", (SCORE,), "i64")),), ((KV, KV),)),
        "does not read it, nor scores",
    ),
    "absent": (Ranges(((Q, Load(2, (Q,), "i64")),), ((KV, KV),)), "there is no capture 2"),
}


@pytest.mark.parametrize("name", BAD_RANGES)
def test_broken_ranges_are_named(name: str) -> None:
    ranges, why = BAD_RANGES[name]
    with pytest.raises(InvalidGraphError, match=why):
        verify_program(replace(EMPTY, ranges=ranges))
    verify_program(replace(EMPTY, ranges=Ranges((FINE_ROWS,), ((KV, KV),))))
