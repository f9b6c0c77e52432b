"""Proofs about accesses: never wrong on random programs, and found where users need them."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexattn.analysis.bounds import call_ranges, prove
from flexattn.analysis.intervals import Scope
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.sites import GUARDED, INSIDE, WRAPS, find_sites

Q, KV, B, H = (Input(name, I64) for name in ("q_idx", "kv_idx", "b", "h"))
N0 = Input("n0", I64)
ZERO = Const(0.0, F32)
VECTOR = (CaptureType("f32", 1),)


def op(name: str, *args: Node, dtype: str = I64) -> Apply:
    return Apply(name, args, F32 if name == "where" and args[1].dtype == F32 else dtype)


def i(value: int) -> Const:
    return Const(value, I64)


def is_(name: str, a: Node, b: Node) -> Apply:
    return op(name, a, b, dtype=BOOL)


def both(a: Node, b: Node) -> Apply:
    return op("and", a, b, dtype=BOOL)


def best(program: Program, number: int = 0, lengths=(2, 4, 10, 8), sizes=((10,),), numbers=()):
    found = prove(program, lengths, sizes, numbers)
    return next((p for p in (INSIDE, WRAPS, GUARDED) if (number, p) in found), None)


def scored(load: Node) -> Program:
    return Program(load, None, VECTOR)


D = op("sub", Q, KV)
LOAD = Load(0, (D,), F32)


def test_plain_indices() -> None:
    assert best(scored(Load(0, (Q,), F32))) == INSIDE
    assert best(scored(Load(0, (Q,), F32)), sizes=((9,),)) is None
    assert best(scored(Load(0, (op("add", Q, i(1)),), F32))) is None
    assert best(scored(Load(0, (i(-10),), F32))) == WRAPS
    assert best(scored(Load(0, (i(10),), F32))) is None
    assert best(scored(Load(0, (i(0),), F32)), sizes=((0,),)) is None


def test_a_relative_bias_table() -> None:
    shifted = Load(0, (op("add", D, i(7)),), F32)
    assert best(scored(shifted), sizes=((17,),)) == INSIDE
    assert best(scored(shifted), sizes=((16,),)) is None
    assert best(scored(LOAD)) == WRAPS


def test_clamps() -> None:
    clamped = op("minimum", op("maximum", D, i(-3)), i(3))
    assert best(scored(Load(0, (op("add", clamped, i(3)),), F32)), sizes=((7,),)) == INSIDE
    low = op("maximum", op("minimum", Load(0, (Q,), I64), i(5)), i(0))
    bucket = Program(Load(1, (low,), F32), None, (CaptureType("i64", 1), CaptureType("f32", 1)))
    assert best(bucket, 1, sizes=((10,), (6,))) == INSIDE


def test_the_guarding_where() -> None:
    """`where((0 <= d) & (d < E), R[d], 0)` is legal however the guard is written."""
    inside = both(is_("le", i(0), D), is_("lt", D, N0))
    guards = [
        op("where", inside, LOAD, ZERO, dtype=F32),
        op("where", op("not", inside, dtype=BOOL), ZERO, LOAD, dtype=F32),
        op("where", is_("lt", D, i(0)), ZERO, op("where", is_("lt", D, N0), LOAD, ZERO)),
        op("where", both(is_("ge", Q, KV), is_("lt", D, N0)), LOAD, ZERO, dtype=F32),
        op("where", is_("lt", op("abs", D), N0), LOAD, ZERO, dtype=F32),
    ]  # fmt: skip
    for root in guards:
        program = Program(root, None, VECTOR, ("i64",))
        assert best(program, sizes=((4,),), numbers=(4,)) == GUARDED
        assert best(program, sizes=((4,),), numbers=(5,)) is None


def test_a_use_outside_the_guard_counts() -> None:
    inside = is_("lt", op("abs", D), i(4))
    root = op("add", op("where", inside, LOAD, ZERO, dtype=F32), LOAD, dtype=F32)
    assert best(scored(root), sizes=((4,),)) is None


def test_the_mask_guards_the_score_and_not_itself() -> None:
    window = both(is_("ge", Q, KV), is_("lt", D, i(4)))
    assert best(Program(LOAD, window, VECTOR), sizes=((4,),)) == GUARDED
    assert best(Program(LOAD, window, VECTOR), sizes=((3,),)) is None
    table = is_("gt", LOAD, ZERO)
    assert best(Program(None, both(table, window), VECTOR), sizes=((4,),)) == GUARDED
    assert best(Program(None, op("or", table, window, dtype=BOOL), VECTOR), sizes=((4,),)) is None


def test_divisors_and_shifts() -> None:
    def proof(node: Node, **call):
        return best(Program(None, is_("eq", node, i(0)), VECTOR, ("i64",)), **call)

    assert proof(op("floordiv", Q, N0), numbers=(3,)) == INSIDE
    assert proof(op("floordiv", Q, N0), numbers=(-1,)) == INSIDE
    assert proof(op("floordiv", Q, N0), numbers=(0,)) is None
    assert proof(op("mod", Q, op("add", KV, i(1)))) == INSIDE
    assert proof(op("mod", Q, KV)) is None
    assert proof(op("shl", Q, KV)) == INSIDE
    assert proof(op("shr", Q, KV), lengths=(1, 1, 4, 65)) is None
    guarded = op("where", is_("ne", KV, i(0)), op("mod", Q, KV), i(1))
    assert proof(guarded) == GUARDED


def test_a_condition_that_is_itself_an_error_is_not_believed() -> None:
    """Of two bad sides of ``&`` neither may excuse the other: then nobody would report it."""
    bad = Load(1, (op("add", Q, i(100)),), I64)
    limit = is_("lt", Q, op("minimum", bad, i(4)))
    program = Program(
        None, both(is_("gt", Load(0, (Q,), F32), ZERO), limit), (*VECTOR, CaptureType("u8", 1))
    )
    table = {site.node.capture: site.number for site in find_sites(program)}[0]
    assert best(program, table, sizes=((4,), (10,))) is None
    assert best(program, table, sizes=((4,), (200,))) == GUARDED


def test_differences_that_may_wrap_around_are_not_believed() -> None:
    """x > y does not make x - y positive for captured 64-bit numbers."""
    x, y = Load(1, (Q,), I64), Load(1, (KV,), I64)
    index = op("minimum", op("sub", x, y), i(3))
    root = op("where", is_("gt", x, y), Load(0, (index,), F32), ZERO)
    program = Program(root, None, (*VECTOR, CaptureType("i64", 1)))
    table = {site.node.capture: site.number for site in find_sites(program)}[0]
    assert best(program, table, sizes=((4,), (10,))) is None
    small = Program(root, None, (*VECTOR, CaptureType("i32", 1)))
    assert best(small, table, sizes=((4,), (10,))) == GUARDED


def test_weaker_proofs_come_along() -> None:
    found = prove(scored(Load(0, (Q,), F32)), (1, 1, 10, 10), [(10,)])
    assert found == {(0, INSIDE), (0, WRAPS), (0, GUARDED)}


def test_no_sites_no_work() -> None:
    assert prove(Program(None, is_("ge", Q, KV)), (1, 1, 4, 4), []) == frozenset()


@pytest.mark.parametrize("seed", range(60))
def test_random_guards_by_brute_force(seed: int) -> None:
    """Where every path is proved, no position that uses the value is outside."""
    rng = random.Random(seed)
    shift = rng.randint(-4, 4)
    sums = [op("add", D, i(shift)), op("add", Q, i(shift))]
    index = rng.choice([D, op("abs", D), op("mul", Q, KV), *sums])
    comparisons = ["lt", "le", "gt", "ge", "eq", "ne"]
    operands = [(index, i(rng.randint(-3, 6))), (Q, KV), (D, i(rng.randint(-4, 4))), (Q, i(3))]
    conditions = [is_(rng.choice(comparisons), *rng.choice(operands)) for _ in range(3)]
    condition = op(rng.choice(["and", "or"]), conditions[0], conditions[1], dtype=BOOL)
    if rng.random() < 0.5:
        condition = op("not", condition, dtype=BOOL)
    root = op("where", condition, Load(0, (index,), F32), ZERO, dtype=F32)
    program, size = Program(root, conditions[2], VECTOR), rng.randint(3, 9)
    kind = best(program, lengths=(1, 1, 6, 5), sizes=((size,),))
    env = {"q_idx": torch.arange(6)[:, None], "kv_idx": torch.arange(5)[None, :]}
    position = evaluate(index, env, []).expand(6, 5)
    used = (evaluate(condition, env, []) & evaluate(conditions[2], env, [])).expand(6, 5)
    fine = (position >= -size) & (position < size)
    if kind == INSIDE:
        assert (fine & (position >= 0)).all()
    if kind == WRAPS:
        assert fine.all()
    if kind == GUARDED:
        assert fine[used].all()


def test_the_random_guards_meet_every_kind() -> None:
    """The test above would pass on an analysis that proves nothing; this one would not."""
    seen = set()
    for bound, size in itertools.product(range(1, 6), range(3, 9)):
        root = op("where", is_("lt", op("abs", D), i(bound)), LOAD, ZERO, dtype=F32)
        kind = best(scored(root), lengths=(1, 1, 6, 5), sizes=((size,),))
        assert (kind is not None) == (bound <= size or size >= 6)
        seen.add(kind)
    assert seen == {WRAPS, GUARDED, None}


@given(
    st.integers(-5, 9), st.integers(-5, 9), st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"])
)
def test_scopes_hold_what_their_condition_leaves(low: int, high: int, name: str) -> None:
    x, y = Input("x", I64), Input("y", I64)
    inputs = {"x": (-3, 6), "y": (min(low, high), max(low, high))}
    condition = is_(name, x, y)
    for holds in (True, False):
        scope = Scope(inputs, ()).where(condition, holds)
        pairs = [
            (a, b)
            for a in range(-3, 7)
            for b in range(inputs["y"][0], inputs["y"][1] + 1)
            if bool(evaluate(condition, {"x": a, "y": b}, [])) == holds
        ]
        if scope.empty:
            assert not pairs
        for a, b in pairs:
            for node, value in ((x, a), (y, b), (op("sub", x, y), a - b)):
                found = scope.range(node)
                assert found is not None and found[0] <= value <= found[1]


def test_call_ranges() -> None:
    found = call_ranges((2, 3, 0, 5), [(4, 0)], (7, 0.5))
    assert found["h"] == (0, 2) and found["q_idx"] == (0, 0)
    assert found["size0_1"] == (0, 0) and found["n0"] == (7, 7) and "n1" not in found
    assert B.name in found and H.name in found
