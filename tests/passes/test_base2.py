"""log2(e) folded into scores: the same value, and as few multiplications per pair as can be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import captured, grid, random_program

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, F64, I64, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType, Program
from flexattn.passes.base2 import LOG2_E, in_base_2
from flexattn.passes.pipeline import build_hooks

S, S2 = Input("score", F32), Input("score_log2", F32)
B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))


def op(name: str, *args: Node, dtype: str = F32) -> Apply:
    return Apply(name, args, dtype)


def const(value: float) -> Const:
    return Const(value, F32)


def forward(score: Node, *captures: CaptureType):
    proved = frozenset((number, "inside") for number in range(9))
    program = Program(score, None, captures, (F32,), F32)
    return build_hooks(program, direction="forward", base2=True, proved=proved)


def products(root: Node) -> int:
    return sum(isinstance(node, Apply) and node.op in ("mul", "div") for node in walk(root))


@given(st.integers(0, 10**6))
def test_it_is_the_score_times_log2_e(seed: int) -> None:
    program, captures = random_program(seed), captured(seed)
    fixed = {"b": 1, "h": 2, "n0": 3, "n1": -2}
    env = {**grid(4, 5), **fixed, "score": torch.randn(4, 5, dtype=torch.float64)}
    env["score_log2"] = env["score"] * LOG2_E
    natural = evaluate(program.score, env, captures, F64, on_fault="safe")
    found = evaluate(in_base_2(program.score), env, captures, F64, on_fault="safe")
    torch.testing.assert_close(found, natural * LOG2_E, rtol=1e-12, atol=1e-12)


def test_an_unchanged_score_has_no_hook() -> None:
    assert forward(S).score is None


DISTANCE = op("to_float", op("sub", Q, KV, dtype=I64))
PAIR = Load(0, (B, H, Q, KV), F32)
CAP = Input("n0", F32)
FREE: dict[str, tuple[Node, int]] = {  # score_mod → products per pair, as many as without log2(e)
    "alibi": (op("sub", S, op("mul", Load(1, (H,), F32), DISTANCE)), 1),
    "soft-cap": (op("mul", CAP, op("tanh", op("div", S, CAP))), 2),
    "row bias": (op("add", S, Load(2, (Q, Q), F32)), 0),
    "masked": (op("where", op("lt", Q, KV, dtype=BOOL), S, const(-math.inf)), 0),
    "scaled": (op("mul", S, const(0.3)), 1),
    "clipped": (op("minimum", op("maximum", S, const(-5.0)), const(5.0)), 0),
    "negated": (op("neg", S), 0),
}


@pytest.mark.parametrize("name", FREE)
def test_most_mods_pay_nothing(name: str) -> None:
    score, count = FREE[name]
    types = (CaptureType("f32", 4), CaptureType("f32", 1), CaptureType("f32", 2))
    assert products(forward(score, *types).score) == count


def test_others_pay_one_product() -> None:
    types = (CaptureType("f32", 4),)
    assert products(forward(op("add", S, PAIR), *types).score) == 1
    assert products(forward(op("tanh", S)).score) == 1
    assert products(forward(op("add", op("tanh", S), op("exp", S))).score) == 1


def test_an_affine_mod_reads_only_the_base_2_score() -> None:
    hooks = forward(FREE["alibi"][0], CaptureType("f32", 4), CaptureType("f32", 1))
    assert S not in set(walk(hooks.score)) and S2 in set(walk(hooks.score))


def test_minus_infinity_and_the_least_number_stay_what_they_are() -> None:
    least = torch.finfo(torch.float32).min
    for value in (-math.inf, least):
        masked = op("where", op("lt", Q, KV, dtype=BOOL), S, const(value))
        env = {**grid(2, 2), "score": torch.ones(2, 2), "score_log2": torch.full((2, 2), LOG2_E)}
        found = evaluate(in_base_2(masked), env, [])
        assert found[1, 0] == value and found[0, 1] == torch.tensor(LOG2_E)
        bias = torch.full((1, 1, 2, 2), value)
        added = evaluate(in_base_2(op("add", S, PAIR)), {**env, "b": 0, "h": 0}, [bias])
        assert (added == value).all()


def test_other_backends_get_natural_scores() -> None:
    hooks = build_hooks(Program(op("neg", S), None), direction="forward")
    assert hooks.score is op("neg", S) and hooks.derivative == "score"
