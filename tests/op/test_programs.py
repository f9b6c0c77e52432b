"""When numbers become run-time arguments, and when two calls share a program."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from flexattn.ir.interpreter import evaluate
from flexattn.op.programs import Bound, bind, clear_programs
from flexattn.trace import trace_mod

pytestmark = pytest.mark.null


@pytest.fixture(autouse=True)
def _fresh() -> None:
    clear_programs()


def _window(size):
    return trace_mod(lambda b, h, q, k: (q >= k) & (q - k < size), "mask")


def _bind_window(size) -> Bound:
    return bind(None, _window(size), "f32")


def test_first_value_is_built_in_and_second_becomes_an_argument() -> None:
    first, second, third = (_bind_window(size) for size in (128, 256, 512))
    assert first.variant.program.numbers == ()
    assert second.variant is third.variant
    assert second.variant.program.numbers == ("i64",)
    assert (second.ints, third.ints) == ([256], [512])


def test_first_value_keeps_its_own_program() -> None:
    first = _bind_window(128)
    _bind_window(256)
    assert _bind_window(256).ints == [256]
    again = _bind_window(128)
    assert again.variant in (first.variant, _bind_window(256).variant)


@pytest.mark.parametrize("sizes", [range(100, 1100, 100), range(10), (8, 1, 2, 0, *range(20, 26))])
def test_ten_windows_make_two_programs(sizes: Sequence[int]) -> None:
    variants = {id(_bind_window(size).variant) for size in sizes}
    assert len(variants) == 2


def test_lifted_program_computes_what_the_built_in_one_does() -> None:
    _bind_window(3)
    bound = _bind_window(5)
    grid = {"q_idx": torch.arange(9).view(-1, 1), "kv_idx": torch.arange(9), "n0": torch.tensor(5)}
    grid |= {"b": torch.tensor(0), "h": torch.tensor(0)}
    found = evaluate(bound.variant.program.mask, grid, [])
    q, k = grid["q_idx"], grid["kv_idx"]
    assert torch.equal(found, (q >= k) & (q - k < 5))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan])
def test_identities_do_not_cause_an_argument(value: float) -> None:
    def score(x):
        return bind(trace_mod(lambda s, b, h, q, k: s + x, "score"), None, "f32")

    score(2.5)
    assert score(value).variant.program.numbers == ()
    assert score(value).variant is score(value).variant


def test_signed_zeros_are_different_constants() -> None:
    def score(x):
        return bind(trace_mod(lambda s, b, h, q, k: s + x, "score"), None, "f32")

    assert score(0.0).variant is not score(-0.0).variant


def test_exponents_stay_constants() -> None:
    variants = [
        bind(trace_mod(lambda s, b, h, q, k, n=n: s**n, "score"), None, "f32").variant
        for n in (2, 3, 4)
    ]
    assert all(variant.program.numbers == () for variant in variants)


def test_numbers_of_both_mods_are_told_apart() -> None:
    def both(cap, size):
        score = trace_mod(lambda s, b, h, q, k: torch.tanh(s / cap) * cap, "score")
        return bind(score, _window(size), "f32")

    both(20.0, 128)
    bound = both(30.0, 256)
    assert sorted(bound.variant.program.numbers) == ["f32", "f32", "i64"] or sorted(
        bound.variant.program.numbers
    ) == ["f32", "i64"]
    assert set(bound.ints) == {256} and set(bound.floats) == {30.0}


def test_a_tensor_captured_by_both_mods_is_one_capture() -> None:
    shared, own = torch.arange(8), torch.arange(8.0)
    score = trace_mod(lambda s, b, h, q, k: s + own[k] * shared[q], "score")
    mask = trace_mod(lambda b, h, q, k: shared[q] == shared[k], "mask")
    bound = bind(score, mask, "f32")
    assert len(bound.captures) == 2
    grid = {"q_idx": torch.arange(8).view(-1, 1), "kv_idx": torch.arange(8)}
    found = evaluate(bound.variant.program.mask, grid, bound.captures)
    assert torch.equal(found, torch.eye(8, dtype=torch.bool))


def test_values_of_captures_are_not_part_of_the_program() -> None:
    variants = set()
    for seed in range(3):
        table = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        traced = trace_mod(lambda s, b, h, q, k, t=table: s + t[h], "score")
        variants.add(id(bind(traced, None, "f32").variant))
    assert len(variants) == 1
