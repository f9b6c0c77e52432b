"""Masks of a million tokens, and masks that list too many blocks to be kept."""

from __future__ import annotations

import copy
import io
import pickle
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dense_truth import MODS, dense
from drawn_masks import several, spread
from drawn_runs import Rows
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn import create_block_mask
from flexattn.analysis.runs import Runs
from flexattn.errors import BlockMaskError, BlockMaskSizeError
from flexattn.masks import BlockMask, and_masks, sizes, sources

CAUSAL, SIZE, BLOCK = MODS["causal"], 8192, 128
SHARED = np.zeros((1, 1), np.int32)


def causal_runs(size: int) -> Runs:
    """Full blocks below the diagonal, partial ones on it."""
    lists = [[(0, row, True)] * (row > 0) + [(row, row + 1, False)] for row in range(size)]
    return runs_of(lists, size)


def window(b, h, q, kv):  # type: ignore[no-untyped-def]
    return q - kv < 32 * BLOCK


def window_runs(size: int) -> Runs:
    """Partial blocks 32 to the left of the diagonal, and all that is right of them is full."""
    lists = [
        [(row - 32, row - 31, False)] * (row >= 32) + [(max(0, row - 31), size, True)]
        for row in range(size)
    ]
    return runs_of(lists, size)


def runs_of(lists: list[list[tuple[int, int, bool]]], cols: int) -> Runs:
    first = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    flat = np.array([run for row in lists for run in row])
    start, stop = flat[:, 0].astype(np.int32), flat[:, 1].astype(np.int32)
    return Runs(len(lists), cols, SHARED, first, start, stop, flat[:, 2] == 1)


def mask_of(runs, mod: Callable = CAUSAL, block: int = BLOCK) -> BlockMask:  # type: ignore[no-untyped-def]
    return BlockMask._of_runs(
        runs,
        frame=(1, 1),
        device=torch.device("cpu"),
        seq_lengths=(runs.rows * block, runs.cols * block),
        BLOCK_SIZE=(block, block),
        mask_mod=mod,
        _q_wanted=True,
        _mod_alone=True,
    )


LONG, NEAR = causal_runs(SIZE), window_runs(SIZE)

WAYS: dict[str, Callable[[BlockMask], object]] = {
    "str": str,
    "repr": repr,
    "svg": lambda mask: mask.to_svg(),
    "html": lambda mask: mask._repr_html_(),
    "sparsity": lambda mask: mask.sparsity(),
    "cost": lambda mask: mask.cost(64),
    "not": lambda mask: ~mask,
    "and": lambda mask: mask & mask_of(NEAR, window),
    "or": lambda mask: mask | mask_of(NEAR, window),
    "rows": lambda mask: mask[:, :, 1000:7000],
    "row": lambda mask: mask[:, :, -1].kv_indices,
    "columns": lambda mask: mask[:, :, :, 1000:7000],
    "every other": lambda mask: mask[:, :, ::2, ::2],
    "longer": lambda mask: mask.extend_kv(SIZE * BLOCK + BLOCK),
    "shorter": lambda mask: mask._adjust(SIZE * 100, SIZE * 101),
    "equal": lambda mask: mask.equal(mask_of(LONG)),
    "cat": lambda mask: BlockMask.cat([mask, mask_of(NEAR, window)]),
    "counts": lambda mask: mask.kv_num_blocks,
    "pickle": lambda mask: pickle.loads(pickle.dumps(mask)),
    "deepcopy": copy.deepcopy,
    "save": lambda mask: mask.save(io.BytesIO()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_million_tokens_take_little(way: str) -> None:
    """Milliseconds, with room for a busy machine, and memory in proportion to the runs."""
    WAYS[way](mask_of(LONG))  # what is imported is not counted
    tracemalloc.start()
    WAYS[way](mask_of(LONG))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        WAYS[way](mask_of(LONG))
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.25


def test_a_million_tokens_are_right() -> None:
    """Corners of what was combined, against masks made of the functions there."""
    mask, near = mask_of(LONG), mask_of(NEAR, window)
    assert mask.sparsity() == 100 * (1 - (SIZE + 1) / (2 * SIZE))
    band = mask & near
    assert band.sparsity() == pytest.approx(100 * (1 - (33 * SIZE - 16 * 33) / SIZE**2))
    for result, mod in ((band, and_masks(CAUSAL, window)), (~mask, lambda b, h, q, k: q < k)):
        for rows, columns in ((slice(0, 40), slice(0, 40)), (slice(4000, 4040), slice(3980, 4050))):
            part = result[:, :, rows, columns]
            base = rows.start * BLOCK, columns.start * BLOCK
            own = create_block_mask(
                lambda b, h, q, k, base=base, mod=mod: mod(b, h, q + base[0], k + base[1]),
                *(None, None, *part.seq_lengths),
            )
            for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
                assert torch.equal(getattr(part, name), getattr(own, name))
    assert (~~mask).equal(mask) and not mask.equal(near)
    longer = mask.extend_kv(SIZE * BLOCK + BLOCK)
    assert longer[:, :, :, :-1].equal(mask) and longer[:, :, :, -1].sparsity() == 100.0


def test_tables_that_would_be_too_large() -> None:
    mask = mask_of(LONG)
    named = "67108864 entries"
    for ask in (
        lambda: mask.kv_indices,
        lambda: mask.full_kv_indices,
        lambda: mask.q_indices,
        lambda: mask.to_dense(),
        lambda: mask.to_string(grid_size=-1),
        lambda: mask.to_torch(),
        lambda: mask.as_tuple(),
    ):
        with pytest.raises(BlockMaskSizeError, match=rf"(?s){named} \(\d+ MB\).*why.*fix"):
            ask()
    assert mask_of(causal_runs(64)).q_indices.shape == (1, 1, 64, 64)


def test_the_limit_is_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "TABLE_LIMIT", 64 * 64)
    with pytest.raises(BlockMaskSizeError):
        mask_of(causal_runs(64)).kv_indices  # noqa: B018
    counts, indices, *_ = mask_of(causal_runs(64))._kernel_tables()
    assert counts.shape == (1, 1, 64) and indices.shape == (1, 1, 64, 1)  # as wide as needed
    assert mask_of(causal_runs(63)).kv_indices.shape == (1, 1, 63, 63)


# Blocks that are listed on demand ---------------------------------------------------------------


@pytest.fixture
def _one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every mask listed too many blocks to be looked at together."""
    monkeypatch.setattr(sources, "WHOLE", 0)
    monkeypatch.setattr(sources, "STRIP", 3)


def on_demand(mask: BlockMask) -> BlockMask:
    return mask._with_runs(Rows(mask._runs), mask._heads)


@pytest.mark.usefixtures("_one_by_one")
@settings(max_examples=60, deadline=None)
@given(several(2), st.data())
def test_operations_on_demand(drawn, data) -> None:  # type: ignore[no-untyped-def]
    """Results are made row by row too, and are those of masks that are kept."""
    _, (one, other) = drawn
    lazy = on_demand(one)
    index = data.draw(st.sampled_from([(0,), (0, 0, slice(1, None)), (0, 0, [0, 0], [0])]))
    if not all(one.shape):
        return
    for way in (
        lambda a: ~a,
        lambda a: a & other,
        lambda a: other | a,
        lambda a: a[index],
        lambda a: a._adjust(a.seq_lengths[0] + 9, max(1, a.seq_lengths[1] - 3)),
        lambda a: a.extend_kv(a.seq_lengths[1] + 5),
        lambda a: BlockMask.cat([a, other, a]),
    ):
        made, wanted = way(lazy), way(one)
        if made is not lazy and made._blocks.rows:
            assert not isinstance(made._blocks, Runs)
        assert made.shape == wanted.shape and torch.equal(dense(made), dense(wanted))
        assert str(made) == str(wanted) and repr(made) == repr(wanted)
        assert made.sparsity(exact=True) == pytest.approx(wanted.sparsity(exact=True))
        assert made.cost(8) == wanted.cost(8) and made.to_svg() == wanted.to_svg()
        assert made.equal(wanted) and wanted.equal(made)
        for mine, theirs in zip(made._kernel_tables(), wanted._tables()[:4]):
            assert mine.shape[:3] == theirs.shape[:3]
        assert torch.equal(made.to_dense(), wanted.to_dense())


@pytest.mark.usefixtures("_one_by_one")
def test_copies_of_what_is_made_on_demand() -> None:
    mask = on_demand(create_block_mask(MODS["noise"], 1, 1, 40, 48, BLOCK_SIZE=8))
    file = io.BytesIO()
    mask.save(file)
    file.seek(0)
    for other in (
        BlockMask.load(file),
        pickle.loads(pickle.dumps(mask)),
        copy.copy(mask),
        copy.deepcopy(mask),
    ):
        assert torch.equal(dense(other), dense(mask))
    wide = on_demand(create_block_mask(MODS["all"], 1, 1, 16, 16, BLOCK_SIZE=8))
    wide.seq_lengths = (16, 30)
    assert torch.equal(dense(~wide), ~dense(wide)) and wide.kv_indices.shape == (1, 1, 2, 4)
    with pytest.raises(BlockMaskError, match="lists column 1"):
        wide.seq_lengths = (16, 8)


def test_what_lists_too_many_blocks_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = mask_of(Rows(LONG))
    listed = SIZE * (SIZE + 1) // 2
    for ask in (lambda: mask._runs, lambda: pickle.dumps(mask), lambda: mask.save(io.BytesIO())):
        with pytest.raises(BlockMaskSizeError, match=rf"(?s)lists {listed} blocks.*why.*fix"):
            ask()
    monkeypatch.setattr(sizes, "LISTED_LIMIT", listed)
    assert len(mask._runs.start) == 2 * SIZE - 1
    assert mask._runs is mask._runs


def test_memory_of_what_is_made_on_demand_is_bounded() -> None:
    """Every second block of 8192 x 8192: 33 million runs, never in memory together."""
    evens = np.arange(0, SIZE, 2, dtype=np.int32)

    class Stripes:
        rows, cols, slices = SIZE, SIZE, SHARED

        def part(self, begin: int, end: int) -> Runs:
            many = end - begin
            first = np.arange(many + 1, dtype=np.int64) * len(evens)
            start = np.tile(evens, many)
            return Runs(many, SIZE, SHARED, first, start, start + 1, np.ones(len(start), bool))

    mask = mask_of(Stripes(), lambda b, h, q, k: k // BLOCK % 2 == 0)
    tracemalloc.start()
    assert mask.sparsity() == 50.0
    assert "░░" * 20 in str(mask)
    both = ~mask & mask_of(LONG)
    assert not isinstance(both._blocks, Runs)
    assert both[:, :, 4000:4010].sparsity() == pytest.approx(100 - 100 * 2002.5 / SIZE, abs=0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_runs_that_repeat_are_counted_without_being_spread() -> None:
    """One run a row, repeated 4096 times."""
    rows = np.arange(SIZE + 1, dtype=np.int64)
    one = np.ones(SIZE, np.int32)
    runs = Runs(SIZE, SIZE, SHARED, rows, 0 * one, one, one > 0, 2 * one, 4096 * one)
    mask = mask_of(runs, lambda b, h, q, k: k // BLOCK % 2 == 0)
    tracemalloc.start()
    assert mask.sparsity() == 50.0 and mask.cost(8).flops == 32 * (SIZE * BLOCK) ** 2 // 2
    assert "░░" * 20 in str(mask)
    assert (~mask).sparsity() == 50.0
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


# Tables -----------------------------------------------------------------------------------------


def test_kernels_read_no_more_than_is_listed() -> None:
    mask = create_block_mask(MODS["window"], None, None, 64, 64, BLOCK_SIZE=8)
    tables = mask._kernel_tables()
    assert [table.shape[-1] for table in tables] == [8, 2, 8, 1]
    assert mask._kernel_tables() is tables and not {"counts", "tables"} & mask._cache.keys()
    wide = mask.kv_indices
    assert mask._kernel_tables()[1] is wide  # who holds tables may write there
    given = spread(mask, (1, 1))
    assert all(a is b for a, b in zip(given._kernel_tables(), given._tables()))


def test_what_is_written_to_tables_counts() -> None:
    """Of a mask of runs too: for kernels and for every operation."""
    causal = create_block_mask(CAUSAL, None, None, 64, 64, BLOCK_SIZE=8)
    for name, rest in (("kv_num_blocks", 28), ("full_kv_num_blocks", 8)):
        mask = copy.copy(causal)
        mask._kernel_tables()
        getattr(mask, name).zero_()
        assert sum(int(table.sum()) for table in mask._kernel_tables()[::2]) == rest
        assert int(mask.to_dense().sum()) == rest and mask.sparsity() == 100 * (1 - rest / 64)
        assert torch.equal(dense(~mask), ~dense(mask))
        assert int(causal.to_dense().sum()) == 36


def test_tables_made_under_a_mode_serve_everyone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def made() -> BlockMask:
        return create_block_mask(MODS["documents"], 2, 1, 40, 48, BLOCK_SIZE=8)

    wanted = made()._tables() + made()._kernel_tables()
    with torch.inference_mode():
        inference = made()
        found = inference._tables() + made()._kernel_tables()
    assert not any(table.is_inference() for table in found)
    assert all(map(torch.equal, found, wanted))
    fake = made()
    with FakeTensorMode():
        found = fake._kernel_tables() + fake._tables()
    assert all(map(torch.equal, found, made()._kernel_tables() + wanted[:4]))


def test_shared_tables_cost_no_memory() -> None:
    mask = create_block_mask(CAUSAL, 8, 16, 64, 64, BLOCK_SIZE=8)
    for table in (*mask._tables(), *mask._kernel_tables(), mask.q_indices, mask.to_dense()):
        assert table.stride()[:2] == (0, 0) and table.shape[:2] == (8, 16)


# torch.compile ----------------------------------------------------------------------------------


def test_runs_inside_compiled_regions() -> None:
    """Parts of masks that come in as runs are traced through, and what is in them may change."""

    def region(mask: BlockMask):  # type: ignore[no-untyped-def]
        part = mask[:, :, 1:, 1:]
        return part.kv_indices, part.full_kv_num_blocks, mask[1].q_num_blocks

    compiled = torch.compile(region, backend="eager", fullgraph=True)
    for name in ("prefix", "window", "noise"):
        mask = create_block_mask(MODS[name], 2, 1, 24, 24, BLOCK_SIZE=8)
        assert all(map(torch.equal, compiled(mask), region(mask)))


def test_masks_without_values() -> None:
    """On the meta device every operation gives what has the right shape."""
    real = [create_block_mask(MODS[name], 2, 3, 44, 30, BLOCK_SIZE=8) for name in ("all", "heads")]
    far = [mask.to("meta") for mask in real]
    for way in (
        lambda a, b: a & b,
        lambda a, b: a | b,
        lambda a, b: ~a,
        lambda a, b: a[1:, 0, [5, 0], :2],
        lambda a, b: a._adjust(20, 20),
        lambda a, b: BlockMask.cat([a, b]),
    ):
        made, wanted = way(*far), way(*real)
        assert made.shape == wanted.shape and made.device.type == "meta"
        for mine, theirs in zip(made.as_tuple()[:-1], wanted.as_tuple()[:-1]):
            shapes = [getattr(part, "shape", part) for part in (mine, theirs)]
            assert shapes[0] == shapes[1]
        assert made.to_dense().shape == wanted.to_dense().shape


def test_on_demand_inside_compiled_regions() -> None:
    mask = on_demand(create_block_mask(MODS["window"], 1, 1, 24, 24, BLOCK_SIZE=8))
    compiled = torch.compile(lambda mask: mask.kv_indices + 0, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="made on demand"):
        compiled(mask)
    wanted = mask.kv_indices
    torch.compiler.reset()
    assert torch.equal(compiled(mask), wanted)
