"""Triton kernels that read ranges give bit by bit what they give for the lists of those ranges."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_calls import poisoned
from torch import Tensor

from flexattn import cache_info
from flexattn.op.call import backward, forward
from flexattn.op.programs import Bound, bind
from flexattn.op.ranges import attach
from flexattn.op.request import Call, KernelOptions, Saved
from flexattn.trace import trace_mod

sys.path.append(str(Path(__file__).parents[1] / "op"))
from ranged_masks import (
    MASKS,
    classes_of,
    ends_of,
    of_tables,
    random_table,
    tables_of,
    window,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf
HEADS = (1, 2)
GROUP = (1, 4)


def bound_of(mask=None, score=None) -> Bound:  # type: ignore[no-untyped-def]
    traced = [
        None if mod is None else trace_mod(mod, kind, compute="f32", device=torch.device("cpu"))
        for mod, kind in ((score, "score"), (mask, "mask"))
    ]
    return bind(*traced, "f32")


def inputs(M: int, N: int, heads: tuple[int, int] = HEADS) -> list[Tensor]:
    """Two query heads for each key head."""
    sizes = (*heads, M, 16), (heads[0], heads[1] // 2, N, 16)
    return [torch.randn(size) for size in (*sizes, sizes[1])]


def speckled(b, h, q_idx, kv_idx):
    return (q_idx + kv_idx + h) % 3 != 0


def call_of(
    qkv: list[Tensor],
    bound: Bound,
    tables: list[Tensor],
    block: tuple[int, int],
    kernel: KernelOptions = (),
) -> Call:
    return Call(*qkv, bound, tables, block, 0.3, "triton", True, True, kernel=kernel)


def assert_same(
    ranged: Call, by_rows: Call, by_columns: Call, wanted: tuple[int, ...] = ()
) -> None:
    """Forward and dQ are those of the lists by rows, dK and dV those of the lists by columns."""
    with poisoned():
        results = forward(by_rows)
        for given, found in zip(results, forward(ranged), strict=True):
            assert torch.equal(given, found)
        saved = Saved(
            results[0], results[1], torch.randn(results[0].shape), None, (True, True, True), wanted
        )
        rows, columns, found = (backward(call, saved) for call in (by_rows, by_columns, ranged))
    for given, got in zip((rows[0], *columns[1:3], *rows[3]), (*found[:3], *found[3]), strict=True):
        assert torch.equal(given, got)


SIZES = [(40, 60, (16, 16)), (64, 48, (32, 16)), (40, 50, (20, 12)), (128, 40, (1 << 30, 32))]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_ranges(count: int) -> None:
    """The mask says nothing of the ranges, so that each block's class shows in the result."""
    plain, ranges = bound_of(speckled), of_tables(count)
    for M, N, block in SIZES[count % 2 :: 1 + (count < 4)]:
        rng = np.random.default_rng([count, M])
        ends = [random_table(rng, HEADS, *size, count) for size in ((M, N), (N, M))]
        rows = tables_of(classes_of(ends_of(ends[0]), HEADS, (M, N), block))
        columns = tables_of(classes_of(ends_of(ends[1]), HEADS, (N, M), block[::-1]).mT)
        qkv = inputs(M, N)
        ranged = call_of(qkv, attach(plain, ranges, [], ends), [], block)
        assert_same(ranged, *(call_of(qkv, plain, lists, block) for lists in (rows, columns)))


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    M, N, block = 50, 70, (16, 32)
    given = MASKS[name](M, N)
    plain = bound_of(given.mask)
    rows = tables_of(classes_of(given.rows, HEADS, (M, N), block))
    columns = tables_of(classes_of(given.cols, HEADS, (N, M), block[::-1]).mT)
    qkv = inputs(M, N)
    ranged = attach(plain, given.ranges, given.ints, given.captures)
    calls = (call_of(qkv, plain, lists, block) for lists in (rows, columns))
    assert_same(call_of(qkv, ranged, [], block), *calls)


def test_gradients_of_captured_tensors() -> None:
    """Sums that go by queries, by keys and by distance; the ranges' own capture gets none."""
    given = MASKS["documents"](60, 60)
    by_key, by_query, by_distance = torch.randn(60), torch.randn(60), torch.randn(119)

    def score(score, b, h, q, kv):
        return score * by_key[kv] + by_query[q] + by_distance[kv - q + 59] * score

    plain = bound_of(given.mask, score)
    ranged = attach(plain, given.ranges, given.ints, given.captures)
    lists = tables_of(classes_of(given.rows, HEADS, (60, 60), (16, 16)))
    columns = classes_of(given.cols, HEADS, (60, 60), (16, 16)).mT
    qkv, wanted = (
        inputs(60, 60),
        tuple(i for i, tensor in enumerate(plain.captures) if tensor.is_floating_point()),
    )
    assert len(wanted) == 3
    calls = [call_of(qkv, ranged, [], (16, 16))]
    calls += [call_of(qkv, plain, x, (16, 16)) for x in (lists, tables_of(columns))]
    for call in calls:
        call.deterministic = True
    assert_same(*calls, wanted=wanted)


@pytest.mark.parametrize("name", ["aligned_at_the_end", "window_by_head", "prefix", "documents"])
@pytest.mark.parametrize("parts", [1, 3])
def test_decoding(name: str, parts: int) -> None:
    """Parts of the keys are parts of the walk, whichever of its blocks they begin in."""
    M, N, block = 3, 200, (16, 16)
    given = MASKS[name](M, N)
    plain = bound_of(given.mask)
    options = (("BACKEND", "TRITON_DECODE"), ("SPLIT_KV", parts))
    lists = tables_of(classes_of(given.rows, GROUP, (M, N), block))
    if name != "window_by_head":  # lists of one head serve all, and let heads share a program
        lists = [table[:, :1] for table in lists]
    qkv = inputs(M, N, GROUP)
    ranged = attach(plain, given.ranges, given.ints, given.captures)
    both = call_of(qkv, plain, lists, block, options), call_of(qkv, ranged, [], block, options)
    with poisoned():
        for a, b in zip(*map(forward, both), strict=True):
            assert torch.equal(a, b)


def test_decoding_any_ranges() -> None:
    plain, block = bound_of(speckled), (64, 16)
    for count in (1, 2, 4):
        for seed in range(3):
            rng = np.random.default_rng([seed, count])
            ends = [random_table(rng, HEADS, *size, count) for size in ((2, 200), (200, 2))]
            lists = tables_of(classes_of(ends_of(ends[0]), HEADS, (2, 200), block))
            ranged = attach(plain, of_tables(count), [], ends)
            options = (("BACKEND", "TRITON_DECODE"), ("SPLIT_KV", 3))
            qkv = inputs(2, 200)
            with poisoned():
                given = forward(call_of(qkv, plain, lists, block, options))
                found = forward(call_of(qkv, ranged, [], block, options))
            for a, b in zip(given, found, strict=True):
                assert torch.equal(a, b)


def test_lengths_and_windows_change_without_a_build() -> None:
    def run(M: int, N: int, W: int) -> Bound:
        given = window(M, N, W)
        plain = bound_of(given.mask)
        ranged = attach(plain, given.ranges, given.ints, [])
        lists = tables_of(classes_of(given.rows, HEADS, (M, N), (16, 16)))
        columns = tables_of(classes_of(given.cols, HEADS, (N, M), (16, 16)).mT)
        qkv = inputs(M, N)
        calls = [call_of(qkv, ranged, [], (16, 16))]
        assert_same(*calls, *(call_of(qkv, plain, x, (16, 16)) for x in (lists, columns)))
        return ranged

    run(20, 30, 10)
    run(20, 30, 11)  # the second width makes it a run-time number of the mask too
    before = cache_info()
    run(30, 20, 5)
    run(17, 33, 1 << 20)
    after = cache_info()
    assert (before.kernels_built, before.disk_hits) == (after.kernels_built, after.disk_hits)
