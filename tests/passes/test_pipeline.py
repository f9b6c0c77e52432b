"""Hooks evaluated as a template would, against the program itself and torch.autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import Poison, captured, grid, random_program, same_bits, scalar

from flexattn.ir.hooks import Hooks
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, F64, I32, I64, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.verifier import verify
from flexattn.passes.pipeline import PASSES, build_hooks

SCORE, GRAD = Input("score", F64), Input("grad", F64)
B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))


def op(name: str, *args: Node, dtype: str = F64) -> Apply:
    return Apply(name, args, dtype)


def run(hooks: Hooks, node: Node, env: dict, captures: list) -> torch.Tensor:
    """``node`` with the hoisted values computed first, in the order a template does."""
    env = dict(env)
    for kind in ("u", "q", "kv"):
        values = {"u": hooks.uniform, "q": hooks.q, "kv": hooks.kv}[kind]
        for number, value in enumerate(values):
            env[f"{kind}:{number}"] = evaluate(value, env, captures, hooks.compute)
    return evaluate(node, env, captures, hooks.compute)


def roots_of(hooks: Hooks) -> list[Node]:
    roots = [*hooks.uniform, *hooks.q, *hooks.kv]
    roots += [r for r in (hooks.mask, hooks.score, hooks.fault, hooks.score_grad) if r is not None]
    for grad in hooks.capture_grads:
        roots += [grad.value, *grad.indices]
    return roots


@given(st.integers(0, 10**6), st.booleans())
def test_forward_hooks_are_the_program(seed: int, wide: bool) -> None:
    program, captures = random_program(seed), captured(seed)
    plain = [capture.tolist() for capture in captures]
    hooks = build_hooks(program, direction="forward", wide=wide)
    for root in roots_of(hooks):
        verify(root, program, narrowed=not wide)
    fixed = {"b": 1, "h": 2, "n0": 3, "n1": -2, "score": 0.75}
    env = {**grid(4, 5), **fixed}

    def value(node: Node | None, missing: float | bool) -> torch.Tensor:
        found = torch.tensor(missing) if node is None else run(hooks, node, env, captures)
        return found.expand(4, 5)

    kept, score = value(hooks.mask, True), value(hooks.score, 0.75)
    fault = value(hooks.fault, False) & kept
    for q in range(4):
        for kv in range(5):
            at = {**fixed, "q_idx": q, "kv_idx": kv}
            try:
                keeps = scalar(program.mask, at, plain)
                expected = scalar(program.score, at, plain) if keeps else None
            except Poison:
                assert fault[q, kv]  # and the mask keeps it, so that the tile is looked at
                continue
            assert not fault[q, kv]
            assert kept[q, kv] == keeps
            assert expected is None or score[q, kv] == expected


def bias_program() -> tuple[Program, list[torch.Tensor]]:
    """tanh soft-cap with a learned scale, a bias matrix and one table read at two places."""
    scale, table = Load(0, (), F64), 1
    capped = op("mul", scale, op("tanh", op("div", SCORE, scale)))
    bias = op("add", Load(table, (H, Q), F64), Load(table, (H, KV), F64))
    dense = Load(2, (B, H, Q, KV), F64)
    far = op("gt", op("sub", Q, KV, dtype=I64), Const(2, I64), dtype=BOOL)
    score = op("where", far, op("add", capped, bias), op("mul", capped, dense))
    mask = op("ge", Load(3, (Q,), F64), Const(0.0, F64), dtype=BOOL)
    types = tuple(CaptureType("f64", ndim) for ndim in (0, 2, 4, 1))
    shapes = [(), (3, 6), (2, 3, 6, 5), (6,)]
    generator = torch.Generator().manual_seed(0)
    captures = [torch.rand(s, generator=generator, dtype=torch.float64) + 0.5 for s in shapes]
    return Program(score, mask, types, (), F64), captures


def test_backward_hooks_are_the_gradient() -> None:
    program, captures = bias_program()
    hooks = build_hooks(program, direction="backward", grads=frozenset({0, 1, 2, 3}))
    raw = torch.linspace(-2, 2, 30, dtype=torch.float64).reshape(6, 5)
    grad = torch.linspace(1, -3, 30, dtype=torch.float64).reshape(6, 5)
    leaves = [c.clone().requires_grad_() for c in captures]
    score = raw.clone().requires_grad_()
    q, kv = grid(6, 5).values()
    s, t, m, _ = leaves
    capped = s * torch.tanh(score / s)
    user = torch.where(q - kv > 2, capped + (t[1, q] + t[1, kv]), capped * m[0, 1, q, kv])
    user.backward(grad)

    env = {**grid(6, 5), "b": 0, "h": 1, "score": raw, "grad": grad}
    torch.testing.assert_close(run(hooks, hooks.score, env, captures), user.detach())
    torch.testing.assert_close(run(hooks, hooks.score_grad, env, captures), score.grad)
    found = [torch.zeros_like(c) for c in captures]
    for place in hooks.capture_grads:
        index = tuple(run(hooks, i, env, captures).expand(6, 5).long() for i in place.indices)
        value = run(hooks, place.value, env, captures).expand(6, 5)
        if index:
            found[place.capture].index_put_(index, value, accumulate=True)
        else:
            found[place.capture] += value.sum()
    for ours, leaf in zip(found[:3], leaves[:3], strict=True):
        torch.testing.assert_close(ours, leaf.grad)
    assert hooks.fault is None and 3 not in {place.capture for place in hooks.capture_grads}


def test_how_gradients_are_spread() -> None:
    program, _ = bias_program()
    proved = frozenset((n, "inside") for n in range(9))
    hooks = build_hooks(program, direction="backward", grads=frozenset({0, 1, 2, 3}), proved=proved)
    places = {(p.capture, p.depends): (p.dense, p.plain) for p in hooks.capture_grads}
    assert places == {
        (0, "none"): (False, frozenset()),
        (1, "q"): (False, frozenset({"h"})),
        (1, "kv"): (False, frozenset({"h"})),
        (2, "qkv"): (True, frozenset({"b", "h"})),
    }
    guarded = build_hooks(program, direction="backward", grads=frozenset({2}))
    (dense,) = guarded.capture_grads  # not proved inside: two pairs may meet in element 0
    assert not dense.dense and dense.plain == frozenset()


def test_a_relative_index_depends_on_both_and_is_not_dense() -> None:
    score = op("add", SCORE, Load(0, (op("sub", Q, KV, dtype=I64),), F64))
    program = Program(score, None, (CaptureType("f64", 1),), (), F64)
    hooks = build_hooks(program, direction="backward", grads=frozenset({0}))
    (place,) = hooks.capture_grads
    assert (place.depends, place.dense) == ("qkv", False)
    assert hooks.score_grad is GRAD and place.value is GRAD


def test_a_score_that_ignores_the_score() -> None:
    program = Program(Load(0, (Q,), F64), None, (CaptureType("f64", 1),), (), F64)
    hooks = build_hooks(program, direction="backward", grads=frozenset({0}))
    assert hooks.score_grad is Const(0.0, F64) and len(hooks.capture_grads) == 1


def test_a_captured_tensor_without_effect_on_the_gradient() -> None:
    above = op("gt", SCORE, Load(0, (Q,), F64), dtype=BOOL)
    detached = op("mul", SCORE, op("detach", Load(0, (KV,), F64)))
    program = Program(op("where", above, detached, SCORE), None, (CaptureType("f64", 1),), (), F64)
    hooks = build_hooks(program, direction="backward", grads=frozenset({0}))
    assert hooks.capture_grads == ()
    assert not any(isinstance(n, Apply) and n.op == "detach" for n in walk(*roots_of(hooks)))


def test_hooks_that_change_nothing_are_absent() -> None:
    score = op("mul", SCORE, Const(1.0, F64))
    mask = op("ge", Q, Const(0, I64), dtype=BOOL)
    program = Program(score, mask, (), (), F64)
    for direction in ("forward", "backward", "tiles"):
        hooks = build_hooks(program, direction=direction)
        assert roots_of(hooks) == []
    assert roots_of(build_hooks(Program(None, None), direction="backward")) == []


def test_tiles_want_the_mask_alone() -> None:
    program, _ = bias_program()
    hooks = build_hooks(program, direction="tiles")
    assert hooks.score is None and hooks.score_grad is None and hooks.capture_grads == ()
    assert hooks.mask is not None and hooks.fault is not None


def test_a_fault_of_the_mask_is_where_the_mask_looks_kept() -> None:
    """Element 0, read in its place, says "drop": the tile must be looked at all the same."""
    mask = op("gt", Load(0, (Q,), F64), Const(0.0, F64), dtype=BOOL)
    program, table = Program(None, mask, (CaptureType("f64", 1),), (), F64), [-torch.ones(4)]
    for direction in ("forward", "tiles"):
        hooks = build_hooks(program, direction=direction)
        kept, fault = (run(hooks, n, grid(6, 1), table) for n in (hooks.mask, hooks.fault))
        assert (kept & fault).expand(6, 1).flatten().tolist() == [False] * 4 + [True] * 2


def test_narrow_by_default_and_wide_on_request() -> None:
    program = Program(None, op("lt", op("sub", Q, KV, dtype=I64), Const(9, I64), dtype=BOOL))
    narrow = build_hooks(program, direction="forward")
    assert {node.dtype for node in walk(narrow.mask)} == {I32, BOOL}
    wide = build_hooks(program, direction="forward", wide=True)
    assert {node.dtype for node in walk(wide.mask)} == {I64, BOOL}


@pytest.mark.parametrize("value", [3.0, 0.1, -7.5, 4.0, 1e-20])
def test_a_number_baked_and_one_lifted_agree_bitwise(value: float) -> None:
    """Whatever simplification does with the constant, the lifted one gives the same bits."""

    def program(number: Node, numbers: tuple[str, ...]) -> Program:
        score = Input("score", F32)
        bent = Apply("tanh", (Apply("div", (score, number), F32),), F32)
        distance = Apply("to_float", (Apply("sub", (Q, KV), I64),), F32)
        slope = Apply("mul", (Apply("add", (number, number), F32), distance), F32)
        total = Apply("sub", (Apply("mul", (bent, number), F32), slope), F32)
        return Program(total, None, (), numbers)

    env = {**grid(4, 9), "b": 0, "h": 0, "n0": torch.tensor(value)}
    env |= {"score": torch.linspace(-9, 9, 9), "grad": torch.linspace(-1, 1, 9)}
    for direction in ("forward", "backward"):
        baked = build_hooks(program(Const(value, F32), ()), direction=direction)
        lifted = build_hooks(program(Input("n0", F32), (F32,)), direction=direction)
        for name in ("score", "score_grad"):
            if getattr(baked, name) is not None:
                one, other = (run(h, getattr(h, name), env, []) for h in (baked, lifted))
                assert same_bits(one, other)


def test_derivatives_are_hoisted_too() -> None:
    """The slope sqrt(t[kv] + 1) is computed once per key, not once per pair."""
    root = op("sqrt", op("add", Load(0, (KV,), F64), Const(1.0, F64)))
    program = Program(op("mul", SCORE, root), None, (CaptureType("f64", 1),), (), F64)
    hooks = build_hooks(program, direction="backward", grads=frozenset({0}))
    inner = [hooks.score_grad, *(place.value for place in hooks.capture_grads)]
    assert {n.op for n in walk(*inner) if isinstance(n, Apply)} <= {"mul", "div"}
    assert any(isinstance(n, Apply) and n.op == "sqrt" for n in walk(*hooks.kv))


def test_each_pass_has_a_reason() -> None:
    assert all(entry.name and entry.reason for entry in PASSES)
    with pytest.raises(ValueError, match="sideways"):
        build_hooks(Program(None, None), direction="sideways")
