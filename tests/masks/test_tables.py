"""Tables of blocks against PyTorch's own conversions, and against plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import _dense_to_ordered, _transpose_ordered

from flexattn import create_block_mask
from flexattn.masks import tables

shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


def random_blocks(shape: tuple[int, ...], seed: int, density: float = 0.5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
def test_pairs_are_pytorchs_with_their_tails(
    shape: tuple[int, int, int, int], seed: int, density: float
) -> None:
    listed = random_blocks(shape, seed, density)
    pair = tables.to_pair(listed)
    wanted = _dense_to_ordered(listed)
    assert all(map(torch.equal, pair, wanted))
    assert all(table.dtype == torch.int32 for table in pair)
    assert torch.equal(tables.to_listed(pair, shape[-1]), listed)
    if shape[2] == shape[3]:  # PyTorch's transposition takes the width for the number of columns
        assert all(map(torch.equal, tables.transpose(pair, shape[-1]), _transpose_ordered(*wanted)))


def test_the_size_of_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = random_blocks((2, 3, 11, 5), 3)
    whole = tables.to_pair(listed)
    for piece in (1, 40, 100):
        monkeypatch.setattr(tables, "PIECE", piece)
        assert all(map(torch.equal, tables.to_pair(listed), whole))


def test_shared_heads_cost_no_memory() -> None:
    listed = random_blocks((1, 1, 4, 5), 0).expand(3, 2, 4, 5)
    counts, indices = tables.to_pair(listed)
    assert counts.shape == (3, 2, 4) and indices.shape == (3, 2, 4, 5)
    assert counts.stride()[:2] == indices.stride()[:2] == (0, 0)
    assert torch.equal(tables.to_listed((counts, indices), 5), listed)
    counts, indices = tables.transpose((counts, indices), 5)
    assert indices.shape == (3, 2, 5, 4) and indices.stride()[:2] == (0, 0)


def test_classes_round_trip() -> None:
    classes = torch.randint(0, 3, (2, 1, 4, 3), generator=torch.Generator().manual_seed(1))
    partial, full = tables.from_classes(classes.to(torch.uint8), separate_full=True)
    assert torch.equal(tables.to_classes(partial, full, 3), classes.to(torch.uint8))
    merged, none = tables.from_classes(classes.to(torch.uint8), separate_full=False)
    assert none is None
    assert torch.equal(tables.to_listed(merged, 3), classes > 0)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_widen_makes_any_table_as_wide_as_the_mask(width: int) -> None:
    counts = torch.tensor([[[1, 0]]], dtype=torch.int32)
    indices = torch.full((1, 1, 2, width), 2, dtype=torch.int32)
    counts, indices = tables.widen((counts, indices), 4)
    assert counts.tolist() == [[[1, 0]]]
    assert indices.tolist() == [[[[2, 0, 1, 3], [0, 1, 2, 3]]]] or width == 4


def test_no_rows_and_no_columns() -> None:
    for shape in ((1, 1, 0, 4), (1, 1, 3, 0), (0, 2, 3, 3)):
        pair = tables.to_pair(torch.zeros(shape, dtype=torch.bool))
        assert tables.to_listed(pair, shape[-1]).shape == shape


@pytest.mark.parametrize("tokens", [1, 2, 16])
def test_intervals_that_a_table_gives_for_each_tile_of_keys(tokens: int) -> None:
    """Solving for keys meets tables derived from tables, which ascend only where theirs do."""
    first = torch.tensor([[5, 5, 5], [0, 0, 1]])
    last = torch.tensor([[9, 9, 9], [2, 2, 2]])
    used = torch.tensor([[True, True, True], [True, True, True]])

    def mask_mod(b, h, q_idx, kv_idx):
        tile = (kv_idx // tokens).clamp(max=2)
        return (first[b, tile] <= q_idx) & (q_idx < last[b, tile]) & used[b, tile]

    sizes = (2, 1, 11, 3 * tokens)
    mask = create_block_mask(mask_mod, *sizes, device="cpu", BLOCK_SIZE=2)
    grid = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    want = mask_mod(*grid)
    for b, row, column in itertools.product(range(2), range(6), range(-(-sizes[3] // 2))):
        part = want[b, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        counts = mask.kv_num_blocks[b, 0, row], mask.full_kv_num_blocks[b, 0, row]
        partial = column in mask.kv_indices[b, 0, row, : counts[0]]
        full = column in mask.full_kv_indices[b, 0, row, : counts[1]]
        assert (partial or full) or not part.any()
        assert not full or part.all()
