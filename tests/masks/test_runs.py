"""Operations on runs of blocks against the same on dense classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_runs import dense_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import _dense_to_ordered

from flexattn.analysis.runs import FULL, PARTIAL, Runs
from flexattn.errors import BlockMaskError
from flexattn.masks import cuts, grids, listing
from flexattn.masks import sources as whole
from flexattn.masks.picture import coarsen
from flexattn.masks.runs_check import check_runs, columns_fit
from flexattn.masks.selection import Selection

FRAMES = st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3)])
SIZES = st.tuples(st.integers(0, 6), st.integers(0, 9))


@st.composite
def several(draw, count: int):  # type: ignore[no-untyped-def]
    frame, size = draw(FRAMES), draw(SIZES)
    return frame, [draw(sources(*size, frame)) for _ in range(count)]


@pytest.fixture(params=["whole", "strips"], autouse=True)
def _how(request, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Once with few runs, taken whole, and once as if they were too many for that."""
    if request.param == "strips":
        monkeypatch.setattr(whole, "WHOLE", 0)


def check(source, wanted: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """``source`` stands for ``wanted``, whole and strip by strip, in canonical form."""
    runs = whole.collected(source)
    found = np.broadcast_to(dense_of(runs), wanted.shape)
    assert (source.rows, source.cols) == wanted.shape[2:] == (runs.rows, runs.cols)
    assert np.array_equal(found, wanted)
    check_runs(runs, wanted.shape[:2])
    for begin in range(source.rows):
        part = source.part(begin, source.rows)
        assert np.array_equal(np.broadcast_to(dense_of(part), found[:, :, begin:].shape),
                              wanted[:, :, begin:])  # fmt: skip


many = settings(max_examples=60, deadline=None)


@many
@given(several(2), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_combined(drawn, kinds: list[int]) -> None:  # type: ignore[no-untyped-def]
    _, (one, other) = drawn
    rule = ((0, *kinds[:2]), tuple(kinds[2:5]), tuple(kinds[5:]))
    a, b = np.broadcast_arrays(dense_of(one), dense_of(other))
    wanted = np.array(rule, np.uint8)[a, b]
    check(grids.combine(one, other, rule), wanted)
    assert grids.meet(one, other, rule) == wanted.any()
    as_tensors = grids.combine(torch.from_numpy(a.copy()), other, rule)
    assert np.array_equal(as_tensors.numpy(), wanted)


@many
@given(several(1), st.data())
def test_picked(drawn, data) -> None:  # type: ignore[no-untyped-def]
    """Batches, heads, rows and columns, in any order and repeated."""
    frame, (source,) = drawn
    dense = np.broadcast_to(dense_of(source), (*frame, source.rows, source.cols))
    chosen = []
    for size in dense.shape:
        some = st.lists(st.integers(0, size - 1), max_size=6) if size else st.just([])
        span = st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda ends: range(*ends))
        chosen.append(data.draw(some | span.filter(lambda r: len(r) > 0) if size else some))
    selections = [Selection(size, tuple(c)) for size, c in zip(dense.shape, chosen)]
    wanted = dense[np.ix_(*(np.array(list(c), int) for c in chosen))]
    check(grids.pick(source, selections), wanted)
    tensor = grids.pick(torch.from_numpy(dense.copy()), selections)
    assert np.array_equal(np.broadcast_to(tensor.numpy(), wanted.shape), wanted)


@many
@given(st.data(), SIZES)
def test_many_stretches_of_columns(data, size: tuple[int, int]) -> None:
    source = data.draw(sources(size[0], size[1] + 1, (2, 1)))
    chosen = data.draw(st.lists(st.integers(0, size[1]), max_size=9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "PIECES", 0)
        found = cuts.pick_columns(source, chosen)
    check(found, dense_of(source)[..., chosen])


@many
@given(st.data(), FRAMES, SIZES, st.integers(0, 5))
def test_put_together(data, frame, size: tuple[int, int], more: int) -> None:  # type: ignore[no-untyped-def]
    first = data.draw(sources(*size, frame))
    below, right = (
        data.draw(sources(more, size[1], frame)),
        data.draw(sources(size[0], more, frame)),
    )
    for other, axis, put in ((below, 2, grids.below), (right, 3, grids.beside)):
        parts = dense_of(first), dense_of(other)
        sizes = np.broadcast_shapes(*(part.shape[:2] for part in parts))
        a, b = (np.broadcast_to(part, (*sizes, *part.shape[2:])) for part in parts)
        wanted = np.concatenate((a, b), axis)
        check(put(first, other), wanted)
        assert np.array_equal(put(torch.from_numpy(a.copy()), other).numpy(), wanted)


@many
@given(several(3), st.booleans())
def test_batches_joined(drawn, again: bool) -> None:  # type: ignore[no-untyped-def]
    frame, parts = drawn
    parts = [*parts, parts[0]] if again else parts
    wanted = [np.broadcast_to(d, (*frame, *d.shape[2:])) for d in map(dense_of, parts)]
    found = grids.joined(parts, [frame] * len(parts), frame[1])
    check(found, np.concatenate(wanted))
    if again and isinstance(found, Runs):
        used = {int(n) for part in {id(p): p for p in parts}.values() for n in part.slices.ravel()}
        assert found.slices.max() < 3 * (max(used) + 1)  # the repeated one shares its slices


@many
@given(several(1))
def test_tables_are_pytorchs_with_their_tails(drawn) -> None:  # type: ignore[no-untyped-def]
    _, (source,) = drawn
    dense = dense_of(source)
    tables = []
    for full in (False, True):
        kind = FULL if full else PARTIAL
        counts, indices = (t.numpy() for t in _dense_to_ordered(torch.from_numpy(dense == kind)))
        assert np.array_equal(listing.index_table(source, full, "table"), indices)
        found = whole.row_counts(source)[int(full)]
        assert np.array_equal(found[source.slices], counts)
        narrow = listing.narrow_table(source, full, found, "table")
        assert narrow.shape[-1] == max(1, counts.max(initial=0))
        for place in np.ndindex(*counts.shape):
            own = counts[place]
            assert np.array_equal(narrow[place][:own], indices[place][:own])
        tables += [torch.from_numpy(counts), torch.from_numpy(indices)]
    assert np.array_equal(listing.class_table(source, "table"), dense)
    check(listing.runs_of_tables(tables, source.cols), dense)


@many
@given(several(1), st.data())
def test_runs_of_lists_in_any_order(drawn, data) -> None:  # type: ignore[no-untyped-def]
    """Narrow tables, their columns shuffled, what is behind them out of range."""
    _, (source,) = drawn
    dense = dense_of(source)
    width = max(1, source.cols)
    counts = np.zeros((2, *dense.shape[:3]), np.int32)
    indices = np.full((2, *dense.shape[:3], width), 99, np.int32)
    for place in np.ndindex(*dense.shape[:3]):
        for kind in (0, 1):
            columns = data.draw(st.permutations(np.flatnonzero(dense[place] == 1 + kind).tolist()))
            counts[kind][place] = len(columns)
            indices[kind][place][: len(columns)] = columns
    tables = [torch.from_numpy(t) for pair in zip(counts, indices) for t in pair]
    check(listing.runs_of_tables(tables, source.cols), dense)


@many
@given(several(1), st.tuples(st.integers(1, 7), st.integers(1, 10)))
def test_pictures_of_runs(drawn, grid) -> None:  # type: ignore[no-untyped-def]
    _, (source,) = drawn
    numbers = sorted(set(source.slices.ravel().tolist()))
    cells = coarsen(source, grid, numbers)
    dense, (down, across) = (
        dense_of(source),
        (max(1, -(-n // most)) for n, most in zip((source.rows, source.cols), grid)),
    )
    for place in np.ndindex(*source.slices.shape):
        found = cells[int(source.slices[place])]
        for i, j in np.ndindex(*found.shape):
            kinds = np.unique(
                dense[place][i * down : (i + 1) * down, j * across : (j + 1) * across]
            )
            assert found[i, j] == (kinds[0] if len(kinds) == 1 else PARTIAL)


@many
@given(several(1))
def test_columns_that_are_needed(drawn) -> None:  # type: ignore[no-untyped-def]
    _, (source,) = drawn
    used = whole.used_slices(source, source.slices)
    last = int(np.flatnonzero(dense_of(source).any((0, 1, 2))).max(initial=-1)) + 1
    columns_fit(used, last)
    if last:
        with pytest.raises(BlockMaskError, match=f"column {last - 1}"):
            columns_fit(used, last - 1)


AND = ((0, 0, 0), (0, 1, 1), (0, 1, 2))


@pytest.mark.parametrize(("slices", "count"), [(np.arange(64), 64), (np.arange(64) // 2, 32)])
def test_alike_heads_keep_sharing(slices: np.ndarray, count: int) -> None:
    """64 batches of documents and 32 heads make as many slices as there are batches unlike."""
    first = np.arange(count + 1, dtype=np.int64)
    start, stop = np.zeros(count, np.int32), first[1:].astype(np.int32)
    own = slices.astype(np.int32)[:, None]
    documents = Runs(1, 70, own, first, start, stop, start > 0)
    shared = Runs(1, 70, own[:1], first[:2], start[:1], start[:1] + 5, start[:1] == 0)
    made = whole.collected(grids.combine(documents, shared, AND))
    assert made.slices.shape == (64, 1) and len(made.first) == count + 1
