"""Narrow graphs give what wide ones give, at the far ends of every range too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import captured, random_program, same_bits

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F64, I32, I64, Apply, Const, Input, Load, walk
from flexattn.ir.program import CaptureType
from flexattn.ir.ranges import ALWAYS
from flexattn.ir.sites import find_sites
from flexattn.ir.verifier import verify
from flexattn.passes.guard import guard
from flexattn.passes.narrow import MAX_NUMBER, NARROW, fits_narrow, narrow
from flexattn.passes.sharpen import sharpen
from flexattn.passes.simplify import simplify

Q, KV, N = Input("q_idx", I64), Input("kv_idx", I64), Input("n0", I64)


def op(name: str, *args, dtype: str = I64) -> Apply:
    return Apply(name, args, dtype)


def extremes() -> dict[str, torch.Tensor]:
    """Every combination of the ends of the ranges that narrowing relies on."""
    ends = {
        "b": (0, NARROW["b"][1]),
        "h": (1, NARROW["h"][1]),
        "q_idx": (0, 3, NARROW["q_idx"][1]),
        "kv_idx": (0, 5, NARROW["kv_idx"][1]),
        "n0": NARROW["n"],
        "n1": (-1, 0, NARROW["n"][1]),
    }
    axes = torch.meshgrid(*(torch.tensor(v) for v in ends.values()), indexing="ij")
    return dict(zip(ends, (axis.flatten() for axis in axes), strict=True))


@given(st.integers(0, 10**6))
def test_random_programs_at_the_ends(seed: int) -> None:
    program = random_program(seed, size=20)
    env = {**extremes(), "score": torch.linspace(-2, 2, 216, dtype=torch.float64)}
    captures = captured(seed)
    captures[0] = torch.tensor([2**31 - 1, -(2**31), 0, -1, 7], dtype=torch.int32)
    sites = find_sites(program)
    for root in (program.score, program.mask):
        wide = guard(root, sites, frozenset()).root
        before = evaluate(wide, env, captures, F64)
        sharp = simplify(sharpen(wide, NARROW, program.captures))
        assert same_bits(before, evaluate(sharp, env, captures, F64))
        (short,) = narrow([sharp], program.captures)
        verify(short, program, narrowed=True)
        assert same_bits(before, evaluate(short, env, captures, F64))


def test_causal_window_is_all_narrow() -> None:
    window = op("lt", op("sub", Q, KV), N, dtype=BOOL)
    (short,) = narrow([window], ())
    assert {node.dtype for node in walk(short)} == {I32, BOOL}


def test_what_may_overflow_stays_wide() -> None:
    product = op("lt", op("mul", Q, KV), N, dtype=BOOL)
    (short,) = narrow([product], ())
    env = extremes()
    assert torch.equal(evaluate(product, env, []), evaluate(short, env, []))
    assert next(n for n in walk(short) if isinstance(n, Apply) and n.op == "mul").dtype == I64


@pytest.mark.parametrize("by", [1, 31, 32, 40, 63])
def test_shifts_by_more_than_32_bits_hold(by: int) -> None:
    shifted = op("eq", op("shr", op("neg", Q), Const(by, I64)), KV, dtype=BOOL)
    (short,) = narrow([shifted], ())
    env = {"q_idx": torch.arange(5), "kv_idx": torch.tensor(-1)}
    assert torch.equal(evaluate(shifted, env, []), evaluate(short, env, []))
    assert short.args[0].op == ("shr" if by < 32 else "to_i32")


def test_small_captures_narrow_and_large_ones_do_not() -> None:
    for stored, dtype in (("i32", I32), ("u8", I32), ("i64", I64)):
        (short,) = narrow(
            [op("eq", Load(0, (Q,), I64), Load(0, (KV,), I64), dtype=BOOL)],
            (CaptureType(stored, 1),),
        )
        assert short.args[0].dtype == dtype
        assert short.args[0].args[0].dtype == I32


def test_a_wide_value_cut_down_is_converted() -> None:
    clamped = op("minimum", op("maximum", Load(0, (Q,), I64), Const(0, I64)), Const(9, I64))
    (short,) = narrow([op("lt", clamped, KV, dtype=BOOL)], (CaptureType("i64", 1),))
    assert short.args[0].op == "to_i32" and short.args[1].dtype == I32


@pytest.mark.parametrize(("name", "cheap"), [("floordiv", "truncdiv"), ("mod", "fmod")])
def test_cheap_divisions(name: str, cheap: str) -> None:
    """For what is never negative; and powers of two become shifts and masks for all."""
    seven, eight = Const(7, I64), Const(8, I64)
    assert sharpen(op(name, Q, seven), ALWAYS, ()) is op(cheap, Q, seven)
    mixed = op(name, op("sub", Q, KV), seven)
    assert sharpen(mixed, ALWAYS, ()) is mixed
    power = op(name, op("sub", Q, KV), eight)
    bits = sharpen(power, ALWAYS, ())
    assert bits.op in ("shr", "and")
    env = {"q_idx": torch.arange(20)[:, None], "kv_idx": torch.arange(20)}
    assert torch.equal(evaluate(power, env, []), evaluate(bits, env, []))


def test_what_a_call_must_satisfy() -> None:
    assert fits_narrow((2, 8, 1024, 1 << 24), [(4, 7)], [MAX_NUMBER])
    assert not fits_narrow((2, 8, 1024, (1 << 24) + 1), [], [])
    assert not fits_narrow((2, 8, 4, 4), [(1 << 31,)], [])
    assert not fits_narrow((2, 8, 4, 4), [], [-MAX_NUMBER - 1])
