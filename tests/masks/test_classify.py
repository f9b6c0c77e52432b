"""Classes of blocks against PyTorch's create_block_mask, whatever the pieces."""

from __future__ import annotations

import pytest
import torch
from dense_truth import MODS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from flexattn.masks.classify import classify, lower_edges, pieces
from flexattn.masks.tables import from_classes

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MODS)),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    block=st.tuples(st.sampled_from([1, 3, 8, 16, 70, 300]), st.sampled_from([1, 5, 8, 64, 300])),
    piece=st.sampled_from([1, 50, 1000, 1 << 20]),
)
def test_tables_are_pytorchs(
    name: str, shape: tuple[int, int, int, int], block: tuple[int, int], piece: int
) -> None:
    if shape[0] * shape[1] * shape[2] * shape[3] > 100 * piece:
        piece = 4000
    mine = classify(MODS[name], shape, block, CPU, piece=piece)
    partial, full = from_classes(mine, separate_full=True)
    theirs = create_block_mask(MODS[name], *shape, device="cpu", BLOCK_SIZE=block)
    assert full is not None
    assert torch.equal(partial[0], theirs.kv_num_blocks)
    assert torch.equal(partial[1], theirs.kv_indices)
    assert torch.equal(full[0], theirs.full_kv_num_blocks)
    assert torch.equal(full[1], theirs.full_kv_indices)


@given(
    shape=st.tuples(*[st.integers(0, 9)] * 4),
    block=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    most=st.integers(1, 200),
)
def test_pieces_cover_everything_once_and_stay_small(
    shape: tuple[int, int, int, int], block: tuple[int, int], most: int
) -> None:
    seen = torch.zeros(shape, dtype=torch.int64)
    for box in pieces(shape, block, most):
        part = seen[tuple(slice(*bounds) for bounds in box)]
        assert part.numel() <= most
        part += 1
        for (low, high), size in zip(box[2:], block):
            assert low % size == 0 or low // size == (high - 1) // size
    assert bool((seen == 1).all())


def test_only_pairs_inside_the_lengths_are_asked() -> None:
    """PyTorch issue #137801: padding a length to a block asked mods for indices beyond it."""

    def nosy(b, h, q, kv):  # type: ignore[no-untyped-def]
        assert int(q.max()) < 10 and int(kv.max()) < 13
        return q >= kv

    classify(nosy, (1, 1, 10, 13), (8, 8), CPU)


def test_a_mask_of_one_row_is_evaluated_once() -> None:
    """A mask that does not depend on the query is broadcast, not evaluated per row."""
    shapes = []

    def padding(b, h, q, kv):  # type: ignore[no-untyped-def]
        shapes.append(kv.shape)
        return kv < 20

    classes = classify(padding, (1, 1, 64, 32), (16, 16), CPU)
    assert shapes == [(1, 1, 1, 32)]
    assert classes[0, 0].tolist() == [[2, 1]] * 4


@pytest.mark.parametrize("lengths", [(20, 20), (16, 20), (20, 16), (16, 16)])
def test_edges_are_never_full(lengths: tuple[int, int]) -> None:
    rows, cols = (-(-length // 8) for length in lengths)
    classes = lower_edges(torch.full((1, 2, rows, cols), 2, dtype=torch.uint8), lengths, (8, 8))
    theirs = create_block_mask(MODS["all"], 1, 2, *lengths, device="cpu", BLOCK_SIZE=8)
    assert torch.equal((classes == 2).sum(-1), theirs.full_kv_num_blocks)
