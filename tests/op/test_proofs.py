"""Blocks found by proof: the same tables as by evaluation, and the same errors."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask as peer

from flexattn.analysis.runs import Runs, to_classes
from flexattn.analysis.tiles import search, singly
from flexattn.analysis.tiles.census import Census
from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError
from flexattn.op import proofs, settle
from flexattn.op.blocks import block_runs
from flexattn.op.create import create_block_mask
from flexattn.op.symbolic import bind_mask

G = torch.Generator().manual_seed(0)
DOC = (torch.rand(2, 200, generator=G) < 0.05).cumsum(-1)
LOOSE = torch.randint(0, 9, (200,), generator=G)
WINDOW = torch.tensor([3, 40, 90])
VALID = torch.rand(2, 3, 200, generator=G) < 0.9
BIAS = torch.randn(200, generator=G)
PAIRS = torch.rand(200, 200, generator=G) < 0.3

MODS: dict[str, Any] = {
    "documents": lambda b, h, q, k: (DOC[b, q] == DOC[b, k]) & (q >= k),
    "windows": lambda b, h, q, k: abs(q - k) <= WINDOW[h],
    "padding": lambda b, h, q, k: VALID[b, h, k] & (q >= k),
    "float": lambda b, h, q, k: BIAS[q] > BIAS[k] + 1.0,
    "float sum": lambda b, h, q, k: BIAS[q] + BIAS[k] > 2.5,
    "transcendental": lambda b, h, q, k: torch.exp(BIAS[q]) > 0.2 + (q - k),
    "hash": lambda b, h, q, k: (q * 7919 + k * 104729) % 97 < 40,
    "product": lambda b, h, q, k: q * k < 900,
    "loose": lambda b, h, q, k: (LOOSE[q] == LOOSE[k]) | (q == 3),
    "bitmap": lambda b, h, q, k: PAIRS[q, k],
    "clamped": lambda b, h, q, k: LOOSE[torch.clamp(q - k, 0, 199)] < 5,
    "wraps": lambda b, h, q, k: LOOSE[q - k] < 5,
    "guarded": lambda b, h, q, k: (k + q < 200) & (LOOSE[torch.where(k + q < 200, k + q, 0)] < 4),
}
TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


@pytest.mark.parametrize("block", [(16, 16), (8, 24), 128])
@pytest.mark.parametrize("name", MODS)
def test_tables_are_pytorchs_and_those_of_evaluation(name: str, block: Any) -> None:
    sizes = (2, 3, 181, 200)
    found = create_block_mask(MODS[name], *sizes, device="cpu", BLOCK_SIZE=block)
    evaluated = create_block_mask(
        MODS[name], *sizes, device="cpu", BLOCK_SIZE=block, backend="eager"
    )
    theirs = peer(MODS[name], *sizes, device="cpu", BLOCK_SIZE=block)
    for table in TABLES:
        for other in (evaluated, theirs):
            want = getattr(other, table)
            assert torch.equal(getattr(found, table), want.expand_as(getattr(found, table))), table


def test_faults_are_those_of_evaluation() -> None:
    """What is said is that of the first pair in error, queries in order."""

    def outside(b: Any, h: Any, q: Any, k: Any) -> Any:
        return LOOSE[q + k] < 5

    def zero(b: Any, h: Any, q: Any, k: Any) -> Any:
        return 100 // (q - k) > 3

    first = {
        outside: (IndexOutOfRangeError, "q_idx=71, kv_idx=129"),
        zero: (DivisionByZeroError, "q_idx=0, kv_idx=0"),
    }
    for mod, (error, place) in first.items():
        for backend in (None, "eager"):
            with pytest.raises(error, match=None if backend else place):
                create_block_mask(
                    mod, None, None, 150, 130, device="cpu", BLOCK_SIZE=16, backend=backend
                )


def test_a_fault_that_decides_nothing_is_none() -> None:
    def guarded(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q + k < 200) & (LOOSE[q + k] < 5)

    found = create_block_mask(guarded, None, None, 150, 130, device="cpu", BLOCK_SIZE=16)
    want = create_block_mask(
        guarded, None, None, 150, 130, device="cpu", BLOCK_SIZE=16, backend="eager"
    )
    assert torch.equal(found.kv_indices, want.kv_indices)
    assert torch.equal(found.full_kv_num_blocks, want.full_kv_num_blocks)


def test_masks_that_are_proved_evaluate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a tile was evaluated")

    monkeypatch.setattr(singly._Work, "_by_evaluation", never)
    monkeypatch.setattr(settle.Settler, "__call__", never)
    for name in ("documents", "windows", "padding"):
        create_block_mask(MODS[name], 2, 3, 192, 192, device="cpu", BLOCK_SIZE=16)
    length = 32768
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device="cpu")
    assert mask.kv_num_blocks.sum() == 256


CPU = torch.device("cpu")


def rows_of(source: Any, begin: int, end: int) -> np.ndarray:
    part = source.part(begin, end)
    return to_classes(part)[part.slices]


def test_batches_and_heads_that_are_alike_share_a_slice() -> None:
    ids = DOC[[0, 1, 0, 0]]
    bound = bind_mask(lambda b, h, q, k: (ids[b, q] == ids[b, k]) & (q >= k))
    runs = block_runs(bound, (4, 32, 200, 200), (16, 16), CPU)
    assert runs.slices.tolist() == [[0], [1], [0], [0]]
    assert len(runs.first) == 2 * 13 + 1
    assert block_runs(bind_mask(MODS["windows"]), (4, 3, 200, 200), (16, 16), CPU).slices.shape == (
        1,
        3,
    )
    assert block_runs(bind_mask(MODS["product"]), (4, 3, 200, 200), (16, 16), CPU).slices.shape == (
        1,
        1,
    )


def test_a_length_or_count_of_zero_lists_nothing() -> None:
    for shape in ((2, 3, 0, 50), (2, 3, 50, 0), (0, 3, 50, 50)):
        runs = block_runs(bind_mask(MODS["windows"]), shape, (16, 16), CPU)
        assert not len(runs.start)


@pytest.mark.parametrize("most", [0, 1 << 40])
def test_a_mask_with_no_structure_is_exact_at_any_length(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip of a million tokens, evaluated by the kernel, or by the interpreter."""
    monkeypatch.setattr(settle, "INTERPRETED", most)
    monkeypatch.setattr(singly, "MOST_PAIRS", 0)
    monkeypatch.setattr(proofs, "STRIP", 1 << 13)
    length = 1 << 20

    def wild(b: Any, h: Any, q: Any, k: Any) -> Any:
        return ((q * k + q) * 7919) % 1000003 < 30

    source = block_runs(bind_mask(wild), (1, 1, length, length), (8, 128), CPU)
    assert not isinstance(source, Runs)
    row = 70001
    tracemalloc.start()
    got = rows_of(source, row, row + 1)[0, 0, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    q = torch.arange(row * 8, row * 8 + 8)[:, None]
    kept = wild(0, 0, q, torch.arange(length)).reshape(8, -1, 128)
    want = kept.any(0).any(-1).int() + kept.all(0).all(-1).int()
    assert 0 < want.sum() < len(want)  # many of either kind
    assert np.array_equal(got, want.numpy())


def test_strips_of_rows_are_rows_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mod in MODS.items():
        whole = block_runs(bind_mask(mod), (2, 3, 181, 200), (8, 8), CPU)
        with monkeypatch.context() as patch:
            patch.setattr(proofs, "MOST_TILES", 0)
            patch.setattr(proofs, "STRIP", 500)
            patch.setattr(search, "TOP", 8)
            patch.setattr(search, "DENSE", 1)
            strips = block_runs(bind_mask(mod), (2, 3, 181, 200), (8, 8), CPU)
            if isinstance(strips, Runs):
                continue
            for begin, end in ((0, 23), (3, 4), (5, 17), (22, 23), (7, 7)):
                got = rows_of(strips, begin, end)
                assert np.array_equal(got, rows_of(whole, begin, end)), (name, begin, end)
    assert not isinstance(strips, Runs)


def test_a_census_counts_every_tile_once() -> None:
    length, block = 4096, (8, 8)
    for name, mod in {
        "causal": lambda b, h, q, k: q >= k,
        "rows": lambda b, h, q, k: (q // 100 == k // 100) & (q % 100 >= k % 100),
        "wild": lambda b, h, q, k: ((q * k + q) * 7919) % 1000003 < 30000,
    }.items():
        census = Census()
        block_runs(bind_mask(mod), (1, 1, length, length), block, CPU, None, census)
        assert sum(census.tiles.values()) == (length // 8) ** 2, name
        assert (
            abs(sum(map(census.share, ("proof", "witness", "segments", "evaluation"))) - 1) < 1e-9
        )
        if name == "causal":
            assert set(census.tiles) == {(8, "proof"), (1, "proof")}
            assert set(census.rules) == {"distance"}
        assert all(0 < n <= (length // 8) ** 2 for n in census.rules.values())
