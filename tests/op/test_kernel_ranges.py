"""Kernels that read ranges give bit by bit what they give for the block lists of those ranges."""

from __future__ import annotations

import itertools
import timeit

import numpy as np
import pytest
import torch
from dense_attention import dense_attention
from ranged_masks import (
    MASKS,
    Ranged,
    causal,
    classes_of,
    documents,
    ends_of,
    of_tables,
    prefix,
    random_table,
    sink_and_window,
    tables_of,
    window,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flexattn import cache_info
from flexattn.ir.nodes import Input, walk
from flexattn.ir.printer import parse_program
from flexattn.ir.verifier import verify_program
from flexattn.op.call import backward, forward, run_backward, run_forward
from flexattn.op.programs import Bound, bind
from flexattn.op.ranges import attach, listed_blocks
from flexattn.op.request import Call, Saved
from flexattn.trace import trace_mod

HEADS = (2, 4)


def bound_of(mask=None, score=None) -> Bound:  # type: ignore[no-untyped-def]
    """A program of these mods."""
    traced = [
        None if mod is None else trace_mod(mod, kind, compute="f32", device=torch.device("cpu"))
        for mod, kind in ((score, "score"), (mask, "mask"))
    ]
    return bind(*traced, "f32")


def inputs(M: int, N: int, D: int = 16) -> list[Tensor]:
    return [torch.randn(2, h, n, D) for h, n in ((4, M), (2, N), (2, N))]


def calls(
    bound: Bound, ranged: Bound, tables: list[Tensor], qkv: list[Tensor], block: tuple[int, int]
) -> tuple[Call, Call]:
    """The call with block lists, and the one with ranges."""
    rest = (block, 0.3, "cpp", True, True)
    return Call(*qkv, bound, tables, *rest), Call(*qkv, ranged, [], *rest)


def assert_same(listed: Call, ranged: Call, wanted: tuple[int, ...] = ()) -> None:
    """Both calls give the same bits, forward and backward."""
    results = forward(listed)
    for given, found in zip(results, forward(ranged), strict=True):
        assert torch.equal(given, found)
    pull = torch.randn(results[0].shape)
    saved = Saved(results[0], results[1], pull, None, (True, True, True), wanted)
    for given, found in zip(backward(listed, saved)[:3], backward(ranged, saved)[:3], strict=True):
        assert torch.equal(given, found)
    captured = (backward(call, saved)[3] for call in (listed, ranged))
    for given, found in zip(*captured, strict=True):
        assert torch.equal(given, found) and given.any()


def speckled(b, h, q_idx, kv_idx):
    return (q_idx + kv_idx + h) % 3 != 0


SIZES = [
    *((201, 230, (32, 16)), (96, 160, (32, 32)), (130, 70, (64, 128)), (70, 300, (16, 256))),
    *((256, 128, (256, 64)), (50, 50, (128, 128)), (128, 256, (1 << 30, 1 << 30))),
]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_ranges(count: int) -> None:
    """The mask says nothing of the ranges, so that each block's class shows in the result."""
    plain, ranges = bound_of(speckled), of_tables(count)
    for seed, (M, N, block) in itertools.product(range(4), SIZES):
        rng = np.random.default_rng([seed, count, M])
        tables = [random_table(rng, HEADS, *size, count) for size in ((M, N), (N, M))]
        ranged = attach(plain, ranges, [], tables)
        classes = classes_of(ends_of(tables[0]), HEADS, (M, N), block)
        listed = listed_blocks(ranged, (*HEADS, M, N), block, torch.device("cpu"))
        assert torch.equal(listed[0] + 2 * listed[1].to(torch.uint8), classes)
        assert_same(*calls(plain, ranged, tables_of(classes), inputs(M, N), block))


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    """Lengths are no multiples of blocks, and differ."""
    for M, N, block in ((201, 230, (32, 16)), (230, 201, (16, 64))):
        given: Ranged = MASKS[name](M, N)
        plain = bound_of(given.mask)
        ranged = attach(plain, given.ranges, given.ints, given.captures)
        verify_program(ranged.variant.program)
        classes = classes_of(given.rows, HEADS, (M, N), block)
        by_columns = classes_of(given.cols, HEADS, (N, M), block[::-1]).mT
        assert torch.equal(by_columns == 2, classes == 2)
        qkv = inputs(M, N)
        listed, ranged_call = calls(plain, ranged, tables_of(classes), qkv, block)
        assert_same(listed, ranged_call)
        wanted = dense_attention(*(t.double() for t in qkv), None, given.mask, scale=0.3)
        for found, right in zip(forward(ranged_call), wanted, strict=True):
            torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


def test_gradients_of_captured_tensors() -> None:
    """A bias is shared with the ranges' captures, which get no gradient."""
    given = documents(201, 230)
    bias, ids = torch.randn(230), given.captures[0]

    def score(score, b, h, q, kv):
        return score + bias[kv] * torch.tanh(score)

    plain = bound_of(given.mask, score)
    ranged = attach(plain, given.ranges, given.ints, given.captures)
    assert [t is u for t, u in zip(ranged.captures, (bias, ids, given.captures[1]))] == [True] * 3
    classes = classes_of(given.rows, HEADS, (201, 230), (64, 32))
    both = calls(plain, ranged, tables_of(classes), inputs(201, 230), (64, 32))
    assert_same(*both, wanted=(0,))


@pytest.mark.parametrize("name", ["prefix", "window_by_head", "documents"])
def test_eager(name: str) -> None:
    given = MASKS[name](75, 90)
    plain = bound_of(speckled)
    ranged = attach(plain, given.ranges, given.ints, given.captures)
    classes = classes_of(given.rows, HEADS, (75, 90), (16, 32))
    pair = calls(plain, ranged, tables_of(classes), inputs(75, 90), (16, 32))
    for call in pair:
        call.backend = "eager"
    for a, b in zip(*map(forward, pair), strict=True):
        assert torch.equal(a, b)


def test_lengths_and_windows_change_without_a_build() -> None:
    def run(M: int, N: int, W: int) -> Bound:
        given = window(M, N, W)
        plain = bound_of(speckled)
        ranged = attach(plain, given.ranges, given.ints, [])
        classes = classes_of(given.rows, HEADS, (M, N), (32, 32))
        assert_same(*calls(plain, ranged, tables_of(classes), inputs(M, N), (32, 32)))
        return ranged

    first = run(100, 120, 30)
    before = cache_info()
    for M, N, W in ((100, 120, 31), (64, 64, 5), (300, 200, 64), (33, 500, 1 << 20)):
        assert run(M, N, W).variant is first.variant
    after = cache_info()
    assert (before.kernels_built, before.compiler_runs) == (
        after.kernels_built,
        after.compiler_runs,
    )


def test_the_operators_carry_ranges() -> None:
    given = sink_and_window(130, 130)
    ranged = attach(bound_of(given.mask), given.ranges, given.ints, given.captures)
    text = ranged.variant.text
    assert parse_program(text) == ranged.variant.program
    call = Call(*inputs(130, 130), ranged, [], (16, 32), 0.3, "cpp", True, True)
    bound_args = ([], [], text)
    rest = (ranged.ints, ranged.floats, 0.3, call.options())
    tensors = (call.query, call.key, call.value)
    found = run_forward(*tensors, *bound_args, *rest)
    for given_part, found_part in zip(forward(call), found, strict=True):
        assert torch.equal(given_part, found_part)
    pull = torch.randn_like(found[0])
    grads = run_backward(*tensors, *found[:2], pull, None, *bound_args, [], *rest)
    saved = Saved(found[0], found[1], pull, None, (True, True, True), ())
    for given_part, found_part in zip(backward(call, saved)[:3], grads[:3], strict=True):
        assert torch.equal(given_part, found_part)


def test_counted_operations_are_those_of_the_blocks() -> None:
    given = window(100, 90)
    plain = bound_of(given.mask)
    ranged = attach(plain, given.ranges, given.ints, [])
    classes = classes_of(given.rows, HEADS, (100, 90), (16, 32))
    qkv = inputs(100, 90)
    counts = []
    for bound, tables in ((plain, tables_of(classes)), (ranged, [])):
        options = Call(*qkv, bound, tables, (16, 32), 0.3, "cpp", True, False).options()
        tensors = [t.clone().requires_grad_() for t in qkv]
        with FlopCounterMode(display=False) as counter:
            out, *_ = torch.ops.flexattn.forward(
                *tensors, [], tables, bound.variant.text, bound.ints, [], 0.3, options
            )
            out.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == int((classes > 0).sum()) * 16 * 32 * 16 * (4 + 10)


def test_vmap_rewrites_ranges() -> None:
    """Samples have a table of ranges each; the batch index becomes part of a longer one."""
    plain, samples = bound_of(speckled), 3
    tables = [
        torch.stack([random_table(np.random.default_rng([s, at]), HEADS, *size, 2)
                     for s in range(samples)])
        for at, size in enumerate(((40, 50), (50, 40)))
    ]  # fmt: skip
    qkv = [torch.stack([t] * samples) for t in inputs(40, 50)]

    def attention(query: Tensor, key: Tensor, value: Tensor, *ends: Tensor) -> Tensor:
        ranged = attach(plain, of_tables(2), [], list(ends))
        options = Call(query, key, value, ranged, [], (16, 16), 0.3, "cpp", True, True).options()
        return torch.ops.flexattn.forward(
            query, key, value, ranged.captures, [], ranged.variant.text, [], [], 0.3, options
        )[0]

    found = torch.func.vmap(attention)(*qkv, *tables)
    for s in range(samples):
        alone = attention(*(tensor[s] for tensor in (*qkv, *tables)))
        assert torch.equal(found[s], alone)
    assert not torch.equal(found[0], found[1])


def test_attaching_again_is_a_look_up() -> None:
    given = documents(64, 64)
    plain = bound_of(given.mask)
    first = attach(plain, given.ranges, given.ints, given.captures)
    again = attach(plain, given.ranges, [9], [given.captures[0], given.captures[1].clone()])
    assert again.variant is first.variant and again.ints == [9]
    # One tensor in both places, another dtype: other programs.
    once = attach(plain, given.ranges, [7], [given.captures[0]] * 2)
    wide = attach(plain, given.ranges, [7], [given.captures[0], given.captures[1].long()])
    assert len({id(x.variant) for x in (first, once, wide)}) == 3
    assert len(once.captures) == 1 and len(first.captures) == 2
    call = lambda: attach(plain, given.ranges, given.ints, given.captures)  # noqa: E731
    assert min(timeit.repeat(call, number=1000, repeat=5)) / 1000 < 20e-6


def test_numbers_go_behind_those_of_the_program() -> None:
    plain = None
    for shift in (3, 4):  # the second makes it a run-time number

        def mask(b, h, q, kv, shift=shift):
            return q + shift >= kv

        plain = bound_of(mask)
    assert plain is not None and plain.ints == [4]
    given = prefix(40, 40, 11)
    ranged = attach(plain, given.ranges, given.ints, [])
    assert ranged.ints == [4, 11]
    assert ranged.variant.program.numbers == ("i64", "i64")
    ranges = ranged.variant.program.ranges
    assert ranges is not None
    names = {node.name for node in walk(*ranges.nodes) if isinstance(node, Input)}
    assert names == {"n1", "q_idx", "kv_idx"}


def test_a_program_without_ranges_is_as_before() -> None:
    plain = bound_of(causal(8, 8).mask)
    assert "rows" not in plain.variant.text and "cols" not in plain.variant.text
