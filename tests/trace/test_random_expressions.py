"""Random formulas of Python and torch: the traced graph against evaluating the formula itself."""

from __future__ import annotations

import itertools
import re
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from flexattn.ir.interpreter import evaluate
from flexattn.ir.printer import parse_program, print_program
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.verifier import verify_program
from flexattn.trace import trace_mod

NAMES: dict[str, Any] = {
    "torch": torch,
    "F": torch.nn.functional,
    "table": torch.arange(-6, 6).view(3, 4),
    "flags": torch.tensor([True, False, True, True, False]),
    "bias": torch.linspace(-2, 2, 20).view(4, 5),
    "bytes_": torch.tensor([250, 3, 7], dtype=torch.uint8),
    "half": torch.tensor([0.5, -1.25, 2.0]).bfloat16(),
}
STORED = {torch.int64: "i64", torch.bool: "bool", torch.float32: "f32", torch.uint8: "u8"}
STORED[torch.bfloat16] = "bf16"
small = st.integers(-9, 9).map(str)
count = st.integers(0, 5).map(str)
divisor = st.sampled_from(["1", "2", "3", "-3", "7", "64"])


def joined(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda found: template.format(*found))


def choice(*templates: tuple[Any, ...]) -> st.SearchStrategy[str]:
    return st.one_of([joined(*template) for template in templates])


def build(depth: int) -> tuple[st.SearchStrategy[str], ...]:
    """Strategies for integer, bool and float formulas of at most ``depth`` operations in a row."""
    integers = st.sampled_from(["b", "h", "q", "k"]) | small.map(lambda n: f"(q * 0 + {n})")
    bools = st.sampled_from(["(q >= k)", "(h == 1)", "flags[k % 5]"])
    floats = st.sampled_from(["s", "(s * 0.25)", "bias[q % 4, k % 5]", "half[h].float()"])
    for _ in range(depth):
        i, t, f = integers, bools, floats
        number = i | small
        integers = i | choice(
            *[("({} " + op + " {})", i, number) for op in ("+", "-", "*", "&", "|", "^")],
            *[("({} " + op + " {})", i, divisor) for op in ("//", "%")],
            *[("({} " + op + " {})", i, count) for op in ("<<", ">>", "**")],
            ("({1} - {0})", i, small),
            ("(-{})", i),
            ("(~{})", i),
            ("({} + {})", t, i),
            ("({} * {})", t, number),
            ("{}.clamp({}, 7)", i, small),
            ("torch.maximum({}, {})", i, i),
            ("torch.where({}, {}, {})", t, i, number),
            ("torch.div({}, {}, rounding_mode='trunc')", i, divisor),
            ("torch.fmod({}, {})", i, divisor),
            ("table[{} % 3, {} % 4]", i, i),
            ("table[{} % 3][{} % 4]", i, i),
            ("table[:, {} % 4].sum()", i),
            ("bytes_[{} % 3].long()", i),
            ("(table[{} % 3] == {}).sum(-1)", i, i),
            ("table[{} % 3].amax()", i),
            ("({} / 3).clamp(-99, 99).long()", i),
        )
        bools = t | choice(
            *[("({} " + op + " {})", i, number) for op in ("<", "<=", ">", ">=", "==", "!=")],
            *[("({} " + op + " {})", t, t) for op in ("&", "|", "^", "+", "*", "==", "<")],
            ("({} < {})", f, f),
            ("(~{})", t),
            ("torch.logical_and({}, {})", i, t),
            ("torch.where({}, {}, {})", t, t, t),
            ("(table[{} % 3] == {}).any(-1)", i, i),
            ("{}.bool()", i),
        )
        floats = f | choice(
            *[("({} " + op + " {})", f, f | i | t) for op in ("+", "*")],
            ("({} - {})", f, f | i),
            ("({} / {})", i, divisor),
            ("({} - {})", small, f),
            ("(1.5 * {})", i),
            ("torch.tanh({})", f),
            ("torch.sigmoid({})", i),
            ("({} // 0.75)", f),
            ("({} % 2.5)", f),
            ("{}.clamp({}, 5.5)", f, small),
            ("torch.where({}, {}, {})", t, f, i),
            ("torch.where({}, 0.5, {})", t, small),
            ("torch.maximum({}, {})", f, f),
            ("F.relu({})", f),
            ("{}.to(torch.float16).float()", t),
            ("bias[{} % 4].mean()", i),
            ("torch.stack([{}, {}]).sum()", f, f),
        )
    return integers, bools, floats


INTEGERS, BOOLS, FLOATS = build(3)
PLACES = list(itertools.product((0, 1), (0, 2), (0, 3), (1, 4)))


def check(source: str, kind: str) -> None:
    arguments = "s, b, h, q, k" if kind == "score" else "b, h, q, k"
    mod = eval(f"lambda {arguments}: {source}", NAMES)
    expected = []
    for place in PLACES:
        indices = [torch.tensor(i) for i in place]
        score = [torch.tensor(0.75 * place[2] - place[3])] if kind == "score" else []
        expected.append(mod(*score, *indices))
    wanted = torch.stack(expected)
    traced = trace_mod(mod, kind)  # type: ignore[arg-type]
    root = traced.graph()
    types = tuple(CaptureType(STORED[t.dtype], t.ndim) for t in traced.captures)
    program = Program(root if kind == "score" else None, root if kind == "mask" else None, types)
    verify_program(program)
    assert parse_program(print_program(program)) == program
    b, h, q, k = torch.tensor(PLACES).T
    env = {"b": b, "h": h, "q_idx": q, "kv_idx": k, "score": 0.75 * q - k}
    given_values = evaluate(root, env, traced.captures).expand(len(PLACES))
    if kind == "mask":
        assert torch.equal(given_values, wanted)
    else:
        torch.testing.assert_close(given_values, wanted.float(), rtol=1e-5, atol=1e-5)


@given(BOOLS)
@settings(max_examples=60)
def test_random_masks(source: str) -> None:
    check(re.sub(r"\bs\b", "(k * 0.5)", source), "mask")


@given(FLOATS)
@settings(max_examples=60)
def test_random_scores(source: str) -> None:
    check(source, "score")


@given(INTEGERS)
@settings(max_examples=60)
def test_random_integers_as_scores(source: str) -> None:
    check(f"({source}).clamp(-1000, 1000)", "score")
