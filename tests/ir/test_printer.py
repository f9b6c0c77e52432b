"""Programs survive their text exactly; graphs print so that people can read them."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from random_graphs import programs

from flexattn.errors import ProgramTextError
from flexattn.ir.nodes import Apply, Const, Input, Load, Node
from flexattn.ir.printer import parse_program, print_graph, print_program
from flexattn.ir.program import CaptureType, Program, Ranges

SCORE, H = Input("score", "f32"), Input("h", "i64")
SOFTCAP = Apply("mul", (Const(20.0, "f32"), Apply("tanh", (SCORE,), "f32")), "f32")
BIASED = Apply("add", (SOFTCAP, Load(0, (H,), "f32")), "f32")
CAUSAL = Apply("ge", (Input("q_idx", "i64"), Input("kv_idx", "i64")), "bool")
PROGRAM = Program(BIASED, CAUSAL, (CaptureType("bf16", 1),), ("i64",), "f32")
TEXT = """\
flexattn-program 1
compute f32
captures bf16[1]
numbers i64
%0 = const 0x1.4000000000000p+4 f32
%1 = input score f32
%2 = apply tanh f32 %1
%3 = apply mul f32 %0 %2
%4 = input h i64
%5 = load 0 f32 %4
%6 = apply add f32 %3 %5
%7 = input q_idx i64
%8 = input kv_idx i64
%9 = apply ge bool %7 %8
score %6
mask %9
"""


def test_the_text_of_a_program() -> None:
    assert print_program(PROGRAM) == TEXT
    again = parse_program(TEXT)
    assert again == PROGRAM and again.score is BIASED and again.mask is CAUSAL


@given(programs())
def test_every_program_survives_its_text(program: Program) -> None:
    text = print_program(program)
    again = parse_program(text)
    assert again.score is program.score and again.mask is program.mask
    assert again == program
    assert print_program(again) == text


@given(programs())
def test_every_program_survives_pickling(program: Program) -> None:
    assert pickle.loads(pickle.dumps(program)) == program


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 0.1, math.pi, 5e-324, 1.7976931348623157e308, math.inf, -math.inf]
)
def test_floats_survive_bit_by_bit(value: float) -> None:
    constant = Const(value, "f64")
    assert parse_program(print_program(Program(constant, None, compute="f64"))).score is constant


Q, KV, ONE = Input("q_idx", "i64"), Input("kv_idx", "i64"), Const(1, "i64")
AFTER, WINDOW = Apply("add", (Q, ONE), "i64"), Apply("sub", (Q, Input("n0", "i64")), "i64")
RANGES = Ranges(((WINDOW, AFTER), (ONE, AFTER)), ((KV, Apply("add", (KV, ONE), "i64")),))
WITH_RANGES = replace(PROGRAM, ranges=RANGES)
RANGES_TEXT = (
    TEXT.partition("score %6")[0]
    + """\
%10 = input n0 i64
%11 = apply sub i64 %7 %10
%12 = const 1 i64
%13 = apply add i64 %7 %12
%14 = apply add i64 %8 %12
score %6
mask %9
rows %11 %13 %12 %13
cols %8 %14
"""
)


def test_the_text_of_ranges() -> None:
    assert print_program(WITH_RANGES) == RANGES_TEXT
    again = parse_program(RANGES_TEXT)
    assert again == WITH_RANGES and again.ranges is not None
    assert again.ranges.rows[0][0] is WINDOW


@given(programs(), st.data())
def test_every_program_survives_with_ranges(program: Program, data: st.DataObject) -> None:
    def pieces(index: Node) -> tuple[tuple[Node, Node], ...]:
        ends = st.sampled_from([Q if index is Q else KV, ONE, Input("n0", "i64"), AFTER])
        return tuple(data.draw(st.lists(st.tuples(ends, ends), min_size=1, max_size=4)))

    program = replace(program, ranges=Ranges(pieces(Q), pieces(KV)))
    assert parse_program(print_program(program)) == program


def test_nan_survives() -> None:
    constant = Const(math.nan, "f32")
    assert parse_program(print_program(Program(constant, None))).score is constant


DAMAGE = {
    "": "the first line",
    TEXT.replace("program 1", "program 2"): "the first line",
    TEXT.replace("%3 = apply mul", "%3 = apply nul"): "no operation is called 'nul'",
    TEXT.replace("f32 %0 %2", "f32 %0 %11"): "%11",
    TEXT.replace("%4 = input h i64", "%4 = input h i63"): "no dtype is called 'i63'",
    TEXT.replace("%4 = input", "%3 = input"): "not a new definition",
    TEXT.replace("0x1.4000000000000p+4", "twenty"): "invalid hexadecimal",
    TEXT.replace("score %6\n", ""): "score",
    TEXT.replace("mask %9", "mask %99"): "%99",
    TEXT.replace("captures bf16[1]", "captures bf16"): "capture 'bf16'",
    TEXT.replace("bf16[1]", "c64[1]"): "capture 'c64[1]'",
    TEXT + "rank 3\n": "unknown or repeated field 'rank'",
    TEXT + "mask %9\n": "unknown or repeated field 'mask'",
    TEXT[:150]: "Line 8",
    TEXT.replace("load 0", "read 0"): "no node is written 'read'",
    TEXT.replace("= input score f32", "= input score f32 %0"): "no node is written 'input'",
    TEXT.replace("numbers i64", "numbers i7"): "no dtype is called 'i7'",
    RANGES_TEXT.replace("rows %11 %13 %12 %13\n", ""): "missing or bad: 'rows'",
    RANGES_TEXT.replace("cols %8 %14", "cols %8 %14 %8"): "missing or bad",
    RANGES_TEXT.replace("cols %8", "cols %80"): "%80",
}


@pytest.mark.parametrize("text", DAMAGE)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ProgramTextError) as caught:
        parse_program(text)
    assert DAMAGE[text] in str(caught.value)
    assert "export the model again" in str(caught.value)


def test_a_graph_for_people() -> None:
    printed = print_graph(BIASED, None, CAUSAL, locations={SOFTCAP: "gemma.py:7: c * tanh(s)"})
    assert printed.splitlines() == [
        "  %0: f32  = tanh(score)",
        "  %1: f32  = 20.0 * %0        # gemma.py:7: c * tanh(s)",
        "  %2: f32  = capture0[h]",
        "  %3: f32  = %1 + %2",
        "  %4: bool = q_idx >= kv_idx",
        "return %3",
        "return %4",
    ]


def test_a_graph_of_one_input() -> None:
    assert print_graph(SCORE) == "return score"
    assert print_graph(Apply("not", (Const(True, "bool"),), "bool")) == (
        "  %0: bool = ~True\nreturn %0"
    )
