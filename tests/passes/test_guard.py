"""Guards, by brute force: every position against a scalar evaluation of the rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import Poison, captured, grid, random_program, scalar

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.sites import GUARDED, INSIDE, WRAPS, find_sites
from flexattn.passes.guard import guard
from flexattn.passes.simplify import simplify

Q, KV = Input("q_idx", I64), Input("kv_idx", I64)
TABLE = (CaptureType("f32", 1),)


def op(name: str, *args: Node, dtype: str = I64) -> Apply:
    return Apply(name, args, dtype)


def i(value: int) -> Const:
    return Const(value, I64)


def guarded(root: Node, captures=TABLE, proved=frozenset()):
    program = Program(*((None, root) if root.dtype == BOOL else (root, None)), captures)
    return guard(root, find_sites(program), proved)


@given(st.integers(0, 10**6))
def test_random_programs(seed: int) -> None:
    program = random_program(seed)
    captures = captured(seed)
    plain = [capture.tolist() for capture in captures]
    sites = find_sites(program)
    fixed = {"b": 1, "h": 2, "n0": 3, "n1": -2, "score": 0.75}
    for root in (program.score, program.mask):
        found = guard(root, sites, frozenset())
        env = {**grid(5, 6), **fixed}
        # "raise": not one access of the guarded graph is unsafe, whatever side it is on.
        value = evaluate(found.root, env, captures, "f64", on_fault="raise").expand(5, 6)
        fault = torch.zeros(5, 6, dtype=torch.bool)
        if found.fault is not None:
            fault = evaluate(found.fault, env, captures, "f64", on_fault="raise").expand(5, 6)
        for q in range(5):
            for kv in range(6):
                try:
                    expected = scalar(root, {**fixed, "q_idx": q, "kv_idx": kv}, plain)
                except Poison:
                    assert fault[q, kv], (q, kv)
                    continue
                assert not fault[q, kv], (q, kv)
                assert value[q, kv].item() == expected


def faults_of(root: Node, size: int = 4, m: int = 6, n: int = 6) -> torch.Tensor:
    found = guarded(root)
    table = [torch.arange(float(size))]
    if found.fault is None:
        return torch.zeros(m, n, dtype=torch.bool)
    return evaluate(simplify(found.fault), grid(m, n), table).expand(m, n)


def test_the_rule_of_the_guarding_where() -> None:
    d = op("sub", Q, KV)
    inside = op("and", op("ge", d, i(0), dtype=BOOL), op("lt", d, i(4), dtype=BOOL), dtype=BOOL)
    load = Load(0, (d,), F32)
    assert not faults_of(op("where", inside, load, Const(0.0, F32), dtype=F32)).any()
    q, kv = grid(6, 6)["q_idx"], grid(6, 6)["kv_idx"]
    assert torch.equal(faults_of(load), ((q - kv) >= 4) | ((q - kv) < -4))


def test_either_side_of_and_guards_the_other() -> None:
    small = op("lt", Q, i(4), dtype=BOOL)
    load = op("gt", Load(0, (Q,), F32), Const(0.0, F32), dtype=BOOL)
    assert not faults_of(op("and", small, load, dtype=BOOL)).any()
    assert not faults_of(op("and", load, small, dtype=BOOL)).any()
    assert not faults_of(op("or", op("not", small, dtype=BOOL), load, dtype=BOOL)).any()
    assert faults_of(op("or", small, load, dtype=BOOL))[4:].all()
    assert faults_of(op("and", load, load, dtype=BOOL))[4:].all()


def test_negative_indices_wrap() -> None:
    found = guarded(Load(0, (op("sub", Q, i(4)),), F32))
    value = evaluate(found.root, grid(9, 1), [torch.arange(4.0)])
    assert value.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0]
    assert evaluate(found.fault, grid(9, 1), [torch.arange(4.0)]).flatten().tolist() == [
        False
    ] * 8 + [True]


@pytest.mark.parametrize("name", ["floordiv", "mod", "truncdiv", "fmod"])
def test_integer_division(name: str) -> None:
    """By a captured divisor: 0 faults, -1 never traps, the rest is torch's."""
    divisors = torch.tensor([0, -1, 3, -3, 1])
    dividends = torch.tensor([-(2**63), -7, 7])
    a, b = Load(0, (Q,), I64), Load(1, (KV,), I64)
    found = guarded(op("eq", op(name, a, b), i(0), dtype=BOOL), (CaptureType("i64", 1),) * 2)
    env = grid(3, 5)
    fault = evaluate(found.fault, env, [dividends, divisors])
    assert torch.equal(fault, (divisors == 0).expand(3, 5))
    quotient = found.root.args[0]
    # The guarded divisor never is -1 under the lowest integer, which would trap.
    safe = evaluate(quotient.args[1], env, [dividends, divisors]).expand(3, 5)
    assert (safe != 0).all() and safe[0, 1] == 1
    value = evaluate(quotient, env, [dividends, divisors])
    mode = {"floordiv": "floor", "truncdiv": "trunc"}.get(name)
    for row, column in ((1, 2), (1, 3), (2, 2), (2, 3), (1, 1), (2, 4)):
        x, y = dividends[row], divisors[column]
        expected = {"mod": torch.remainder, "fmod": torch.fmod}.get(
            name, lambda x, y: torch.div(x, y, rounding_mode=mode)
        )(x, y)
        assert value[row, column] == expected
    assert value[0, 1] == (-(2**63) if mode else 0)


@pytest.mark.parametrize("name", ["shl", "shr"])
def test_shift_counts(name: str) -> None:
    counts = torch.tensor([-1, 0, 63, 64])
    found = guarded(
        op("eq", op(name, Q, Load(0, (KV,), I64)), i(0), dtype=BOOL), (CaptureType("i64", 1),)
    )
    assert evaluate(found.fault, grid(1, 4), [counts]).flatten().tolist() == [
        True,
        False,
        False,
        True,
    ]
    evaluate(found.root, grid(1, 4), [counts], on_fault="raise")


def test_constant_divisors_and_counts_make_no_site() -> None:
    fine = op("eq", op("shl", op("mod", Q, i(3)), i(2)), op("floordiv", Q, i(-1)), dtype=BOOL)
    assert find_sites(Program(None, fine)) == ()
    assert guarded(fine, ()).root is fine
    assert len(find_sites(Program(None, op("eq", op("mod", Q, i(0)), Q, dtype=BOOL)))) == 1


def test_proofs_leave_out_guards() -> None:
    load = Load(0, (op("sub", Q, KV),), F32)
    inside = guarded(load, proved=frozenset({(0, INSIDE), (0, WRAPS), (0, GUARDED)}))
    assert inside.root is load and inside.fault is None
    wraps = guarded(load, proved=frozenset({(0, WRAPS), (0, GUARDED)}))
    assert wraps.fault is None
    env, table = grid(4, 5), [torch.arange(4.0)]
    assert torch.equal(evaluate(wraps.root, env, table), evaluate(load, env, table))
    only = guarded(load, proved=frozenset({(0, GUARDED)}))
    assert only.fault is None
    evaluate(only.root, grid(9, 9), table, on_fault="raise")
