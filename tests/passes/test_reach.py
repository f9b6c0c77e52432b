"""What gradients read of the score, and the ways captured ones meet, by brute force."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import captured, grid, random_program

from flexattn.ir.hooks import Hooks
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F64, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program
from flexattn.passes.pipeline import build_hooks
from flexattn.passes.reach import reads_score, spread

S = Input("score", F64)
B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))
CAP, SHIFT = Input("n0", F64), Input("n1", F64)
LATER = Apply("lt", (Q, KV), BOOL)


def op(name: str, *args: Node, dtype: str = F64) -> Apply:
    return Apply(name, args, dtype)


def whole(name: str, *args: Node) -> Apply:
    return Apply(name, args, I64)


def const(value: float) -> Const:
    return Const(value, F64)


def backward(score: Node, *, base2: bool = True, captures=(), grads=frozenset()) -> Hooks:
    program = Program(score, None, captures, (F64, F64), F64)
    return build_hooks(program, direction="backward", base2=base2, grads=grads)


def softcap(x: Node) -> Node:
    return op("mul", CAP, op("tanh", op("div", x, CAP)))


TABLE = Load(0, (H,), F64)
READS: dict[str, tuple[Node, str]] = {
    "bias": (op("add", S, op("to_float", Q)), "none"),
    "temperature": (op("mul", S, TABLE), "none"),
    "soft-cap": (softcap(S), "output"),
    "soft-cap of a sum": (softcap(op("add", S, TABLE)), "output"),
    "sum with a soft-cap": (op("sub", op("to_float", Q), softcap(S)), "output"),
    "masked soft-cap": (op("where", LATER, softcap(S), const(-torch.inf)), "output"),
    "soft-cap below the diagonal": (op("where", LATER, softcap(S), S), "output"),
    "either of two": (
        op("where", LATER, op("mul", CAP, op("exp", S)), op("neg", op("sigmoid", S))), "output",
    ),
    "exponential": (op("exp", op("mul", S, SHIFT)), "output"),
    "both": (op("where", LATER, op("exp", S), op("mul", S, op("exp", S))), "score"),
    "one inside the other": (
        op("where", LATER, op("exp", S), op("mul", op("exp", S), op("exp", S))), "score",
    ),
    "less an exponential": (op("sub", op("to_float", Q), op("exp", S)), "output"),
    "more than an exponential": (op("sub", op("exp", S), op("to_float", Q)), "output"),
    "square": (op("mul", S, S), "score"),
    "sine": (op("sin", S), "score"),
    "root": (op("sqrt", op("exp", S)), "score"),
    "ramp": (op("where", Apply("le", (S, const(0.0)), BOOL), const(0.0), S), "score"),
    "tiny factor": (op("mul", op("tanh", S), const(1e-5)), "score"),
}  # fmt: skip


def derivative_of(hooks: Hooks, env: dict, captures: list) -> torch.Tensor:
    env = dict(env)
    for kind, values in (("u", hooks.uniform), ("q", hooks.q), ("kv", hooks.kv)):
        for number, value in enumerate(values):
            env[f"{kind}:{number}"] = evaluate(value, env, captures, F64)
    return evaluate(hooks.score_grad, env, captures, F64)


@pytest.mark.parametrize("name", READS)
def test_derivatives_read_as_little_as_they_can(name: str) -> None:
    score, wanted = READS[name]
    hooks = backward(score, captures=(CaptureType("f64", 1),))
    assert hooks.derivative == wanted
    assert reads_score(hooks.score_grad) == (wanted == "score")
    captures = [torch.tensor([0.7, -1.3], dtype=torch.float64)]
    env = {**grid(6, 5), "b": 0, "h": 1, "n0": 1.5, "n1": -0.4}
    env["score"] = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    output = evaluate(score, env, captures, F64)
    grad = torch.randn(6, 5, dtype=torch.float64)
    (exact,) = torch.autograd.grad(output, env["score"], grad)
    # Where nothing is kept the kernel hands over any number and lets nothing through.
    env |= {"output": output.detach().nan_to_num(neginf=3.0), "grad": grad}
    found = derivative_of(hooks, env, captures)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10**6))
def test_random_derivatives_do_not_depend_on_what_they_read(seed: int) -> None:
    program, captures = random_program(seed), captured(seed)
    env = {**grid(4, 5), "b": 1, "h": 2, "n0": 3, "n1": -2}
    env["score"] = torch.randn(4, 5, dtype=torch.float64)
    env["grad"] = torch.randn(4, 5, dtype=torch.float64)
    plain = build_hooks(program, direction="backward")
    ours = build_hooks(program, direction="backward", base2=True)
    assert (plain.score_grad is None) == (ours.score_grad is None)
    if plain.score_grad is None:
        return
    wanted = derivative_of(plain, env, captures)
    env["output"] = evaluate(program.score, env, captures, F64, on_fault="safe")
    if ours.derivative != "score":
        del env["score"]
    found = derivative_of(ours, env, captures)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_a_zero_factor_hides_no_gradient_of_its_own() -> None:
    gate = op("mul", TABLE, op("sigmoid", S))  # at 0 the output says nothing of the sigmoid
    types = (CaptureType("f64", 1),)
    assert backward(gate, captures=types).derivative == "output"
    assert backward(gate, captures=types, grads=frozenset({0})).derivative == "score"


# The ways in which captured gradients meet -------------------------------------------------------

D = whole("sub", Q, KV)
CLIPPED = whole("add", whole("maximum", D, Const(-3, I64)), Const(3, I64))
BUCKET = Apply(
    "to_int", (op("log", op("to_float", whole("abs", whole("sub", KV, Q)))),), I64
)  # fmt: skip
WAYS: dict[str, tuple[tuple[Node, ...], str]] = {
    "nothing": ((), "head"),
    "head": ((B, H), "head"),
    "number": ((Input("n0", I64), H), "head"),
    "query": ((H, whole("mul", Q, Q)), "query"),
    "key": ((KV,), "key"),
    "clipped": ((H, CLIPPED), "distance"),
    "bucket": ((BUCKET, H), "distance"),
    "table of buckets": ((Load(1, (whole("abs", D),), I64), H), "distance"),
    "in two steps": ((whole("sub", whole("add", Q, H), whole("sub", KV, B)),), "distance"),
    "twice": ((whole("sub", whole("mul", Q, Const(2, I64)), whole("add", KV, KV)),), "distance"),
    "pair": ((B, H, Q, KV), "pair"),
    "pair, transposed": ((KV, Q), "pair"),
    "pair and more": ((Q, KV, whole("add", Q, KV)), "scatter"),
    "shifted pair": ((Q, whole("add", KV, Const(1, I64))), "scatter"),
    "sum": ((whole("add", Q, KV),), "scatter"),
    "blocks": ((whole("floordiv", Q, Const(4, I64)), KV), "scatter"),
    "distance and query": ((CLIPPED, Q), "scatter"),
    "half": ((whole("sub", whole("floordiv", Q, Const(2, I64)), KV),), "scatter"),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_follows_from_the_indices(name: str) -> None:
    indices, way = WAYS[name]
    assert spread(indices) == way


def random_index(rng: random.Random) -> Node:
    """An expression in which q_idx and kv_idx meet in many ways, often by their difference."""
    pool: list[Node] = [Q, KV, D, H, Const(2, I64), Const(-1, I64), whole("sub", KV, Q)]
    for _ in range(rng.randint(1, 7)):
        a, b = rng.choice(pool), rng.choice(pool[-4:])
        kind = rng.choice(("add", "sub", "mul", "minimum", "neg", "where", "float", "load", "mod"))
        match kind:
            case "neg":
                pool.append(whole("neg", b))
            case "where":
                pool.append(whole("where", Apply("lt", (a, b), BOOL), b, rng.choice(pool)))
            case "float":
                pool.append(Apply("to_int", (op("exp2", op("tanh", op("to_float", b))),), I64))
            case "load":
                pool.append(Load(0, (whole("mod", b, Const(5, I64)),), I64))
            case "mod":
                pool.append(whole("mod", b, Const(7, I64)))
            case _:
                pool.append(whole(kind, a, b))
    return pool[-1]


def test_distances_are_distances() -> None:
    rng, table = random.Random(5), [torch.tensor([3, -1, 4, 1, 5])]
    env = {**grid(9, 11), "b": 0, "h": 2}
    behind = (env["kv_idx"] - env["q_idx"]).flatten() + 8
    found, missed = 0, 0
    for _ in range(3000):
        index = random_index(rng)
        value = evaluate(index, env, table, F64).expand(9, 11).flatten()
        by_distance = torch.zeros(19, dtype=torch.int64).index_put((behind,), value)
        true = bool((by_distance[behind] == value).all())
        way = spread((index,))
        assert way != "distance" or true
        found += way == "distance"
        missed += true and way == "scatter"
    assert found > 500 and missed < found


def test_targets_are_the_indices_before_anything_is_hoisted() -> None:
    score = op("add", S, Load(0, (H, whole("add", D, Input("n0", I64))), F64))
    program = Program(score, None, (CaptureType("f64", 2),), (I64,), F64)
    hooks = build_hooks(program, direction="backward", grads=frozenset({0}), base2=True)
    (place,) = hooks.capture_grads
    assert place.way == "distance"
    env = {**grid(4, 5), "b": 0, "h": 1, "n0": 3}
    capture = [torch.zeros(2, 6, dtype=torch.float64)]
    found = [evaluate(target, env, capture, F64).expand(4, 5) for target in place.targets]
    distance = env["q_idx"] - env["kv_idx"] + 3
    wrapped = torch.where(distance < 0, distance + 6, distance)
    assert (found[0] == 1).all()
    assert (found[1] == torch.where((wrapped < 0) | (wrapped > 5), 0, wrapped)).all()
