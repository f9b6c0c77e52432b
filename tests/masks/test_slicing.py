"""Slices and other lengths: what remains means what it meant in the whole."""

from __future__ import annotations

import pytest
import torch
from dense_truth import MODS, dense, dense_mod
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from flexattn.errors import BlockMaskError, BlockMaskIndexError
from flexattn.masks import BlockMask, resize
from flexattn.masks.classify import classify
from flexattn.masks.listing import runs_of_classes

B, H, Q, KV, BLOCK = 3, 2, 44, 30, 8  # the last row of blocks is short


def make(
    name: str, shape: tuple[int, int, int, int] = (B, H, Q, KV), block: int = BLOCK
) -> BlockMask:
    return BlockMask.from_torch(
        create_block_mask(MODS[name], *shape, device="cpu", BLOCK_SIZE=BLOCK)
    )


def entries(size: int) -> st.SearchStrategy[object]:
    bounds = st.none() | st.integers(-size - 1, size + 1)
    some = st.lists(st.integers(-size, size - 1), max_size=4)
    return (
        st.integers(-size, size - 1)
        | st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2]))
        | some
        | some.map(lambda chosen: torch.tensor(chosen, dtype=torch.int64))
    )


def rows_of(index: object, size: int) -> list[int]:
    """The selected entries, by plain Python lists."""
    everything = list(range(size))
    if isinstance(index, int):
        return [everything[index]]
    if isinstance(index, slice):
        return everything[index]
    return [everything[i] for i in (index.tolist() if isinstance(index, torch.Tensor) else index)]


def expected(whole: torch.Tensor, index: tuple[object, ...], block: int) -> torch.Tensor:
    """The dense part; short blocks inside it are filled with queries that attend to nothing."""
    padded = tuple(index) + (slice(None),) * (4 - len(index))
    rows, columns = (-(-length // block) for length in whole.shape[2:])
    batches, heads, row_blocks, key_blocks = (
        rows_of(part, size) for part, size in zip(padded, (*whole.shape[:2], rows, columns))
    )
    part = picked(whole[batches][:, heads], row_blocks, block)
    return picked(part.transpose(2, 3), key_blocks, block).transpose(2, 3)


def picked(whole: torch.Tensor, blocks: list[int], block: int) -> torch.Tensor:
    """These blocks along dimension 2; short ones that do not come last are filled up."""
    pieces = []
    for place, row in enumerate(blocks):
        piece = whole[:, :, row * block : (row + 1) * block]
        missing = block - piece.shape[2] if place < len(blocks) - 1 else 0
        pieces.append(torch.nn.functional.pad(piece, (0, 0, 0, missing)))
    return torch.cat(pieces, 2) if pieces else whole[:, :, :0]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(["causal", "heads", "documents", "prefix", "all"]),
    st.tuples(entries(B), entries(H), entries(6), entries(4))
    | st.tuples(entries(B), entries(H), entries(6))
    | st.tuples(entries(B)),
)
def test_a_slice_is_the_part_of_the_dense_mask(name: str, index: tuple[object, ...]) -> None:
    part = make(name)[index]
    wanted = expected(dense_mod(MODS[name], (B, H, Q, KV)), index, BLOCK)
    assert part.shape == tuple(wanted.shape)
    assert torch.equal(dense(part), wanted)
    if all(wanted.shape):
        part.check()
        assert part.to_torch().shape == part.shape


@settings(max_examples=40, deadline=None)
@given(entries(6), entries(5))
def test_slices_of_slices(first, second) -> None:  # type: ignore[no-untyped-def]
    once = make("documents")[:, :, first]
    rows = once.kv_num_blocks.shape[2]
    if any(not -rows <= i < rows for i in _plain(second)):
        return
    twice = once[:, 1:, second]
    assert torch.equal(
        dense(twice), expected(dense(once), (slice(None), slice(1, 2), second), BLOCK)
    )


def _plain(index: object) -> list[int]:
    if isinstance(index, slice):
        return []
    return [index] if isinstance(index, int) else list(map(int, index))  # type: ignore[call-overload]


def test_tables_of_slices_are_pytorchs() -> None:
    theirs = create_block_mask(MODS["heads"], B, H, Q, KV, device="cpu", BLOCK_SIZE=BLOCK)
    mine = BlockMask.from_torch(theirs)
    for index in ((0,), (slice(1, 3), -1), (0, 1, 2), (slice(None), 0, slice(1, 4)), (-1, -1, -1)):
        a, b = mine[index], theirs[index]
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    assert mine[:, :, 1].shape == (B, H, BLOCK, KV)
    assert theirs[:, :, 1].shape == (B, H, Q, KV)  # issue #143260: the lengths of the whole


def test_keys_have_an_index_beside_pytorchs_three() -> None:
    mask = make("documents")
    assert mask[:, :, :, 1:3].shape == (B, H, Q, 16)
    assert mask[..., 1].shape == (B, H, BLOCK, KV)  # the ellipsis stands for three indices
    assert mask[..., 0, 1, 2, -1].shape == (1, 1, BLOCK, 6)
    assert mask[:, :, :, :].mask_mod is mask.mask_mod
    many = make("causal", (1, 1, Q, KV))
    wide = many._with(
        tuple(t.expand(4, 8, *t.shape[2:]) for t in many._partial),
        tuple(t.expand(4, 8, *t.shape[2:]) for t in many._full),
    )
    assert wide[:, :, :, 1:].kv_indices.stride()[:2] == (0, 0)  # shared heads stay shared


@pytest.mark.parametrize("name", ["all", "noise", "heads", "documents"])
@pytest.mark.parametrize("separate", [True, False])
def test_parts_of_keys(name: str, separate: bool) -> None:
    """Queries from 44 and keys from 30 never existed, wherever their blocks are moved."""
    wanted = dense_mod(MODS[name], (B, H, Q, KV))
    theirs = create_block_mask(
        MODS[name], B, H, Q, KV, device="cpu", BLOCK_SIZE=BLOCK, separate_full_blocks=separate
    )
    mask = BlockMask.from_torch(theirs)
    every = slice(None)
    for rows in (every, [5, 0], [5, 5], slice(2, 4)):
        for columns in (every, [3, 1], [0, 3, 3, 2], slice(1, 3), slice(1, None), -1):
            index = (slice(1, None), every, rows, columns)
            assert torch.equal(dense(mask[index]), expected(wanted, index, BLOCK))


def test_full_blocks_that_reach_beyond_are_cut_when_moved() -> None:
    """A list of one's own may call them full; nothing lies beyond all the same."""
    full = torch.full((1, 1, 2), 2), torch.tensor([[[[0, 1], [0, 1]]]])
    none = torch.zeros(1, 1, 2, dtype=torch.int32), full[1]
    mask = BlockMask.from_kv_blocks(*none, *full, BLOCK_SIZE=8, seq_lengths=(13, 11))
    for index in ((0, 0, [1, 0]), (0, 0, slice(None), [1, 0]), (0, 0, [1, 0], [1, 0])):
        wanted = expected(torch.ones(1, 1, 13, 11, dtype=torch.bool), index, 8)
        assert torch.equal(dense(mask[index]), wanted)


def test_slices_are_views_and_keep_what_is_not_cut() -> None:
    mask = make("documents")
    assert mask[1:].kv_indices.data_ptr() == mask.kv_indices[1:].data_ptr()
    assert mask[:].mask_mod is mask.mask_mod
    assert mask[...].mask_mod is mask.mask_mod
    assert mask[..., 1].shape == (B, H, BLOCK, KV)
    shared = make("causal", (1, 1, Q, KV))
    assert shared[0].mask_mod is shared.mask_mod  # B=1 stays a mask for every batch
    assert [part.shape[0] for part in mask] == [1, 1, 1]  # iteration ends


def test_a_mask_cut_to_one_batch_serves_every_batch() -> None:
    one = make("prefix")[2]
    for b in range(3):
        index = torch.tensor(b), torch.tensor(0), torch.tensor(0), torch.tensor(8)
        assert bool(one.mask_mod(*index)) == (8 < 7 + 2)


def test_a_mask_mod_of_ones_own_still_replaces_the_right_one() -> None:
    """PyTorch's decoding idiom: slice a row of blocks, then set offset and lengths by hand."""
    mask = make("causal", (1, 1, 64, 64))
    position = torch.tensor([21])
    step = mask[:, :, position // 8]
    step.mask_mod = lambda b, h, q, kv: q + 21 >= kv
    step.seq_lengths = (1, 64)
    assert torch.equal(dense(step)[0, 0, 0], torch.arange(64) <= 21)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -4,
        (0, 2),
        (0, 0, 6),
        (0, 0, 0, 4),
        (0, 0, 0, 0, 0),
        "x",
        1.5,
        None,
        torch.tensor([0.5]),
        torch.tensor([[0]]),
        torch.tensor([True, False]),
        [0, 5],
    ],
)
def test_bad_indices(index) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BlockMaskIndexError, match=r"(?s)why.*fix"):
        make("causal")[index]


def test_a_bool_tensor_selects() -> None:
    mask = make("heads")
    part = mask[torch.tensor([True, False, True])]
    assert torch.equal(dense(part), dense(mask)[[0, 2]])


# Other lengths ----------------------------------------------------------------------------------


def evaluated(mod, shape, block, device):  # type: ignore[no-untyped-def]
    return runs_of_classes(classify(mod, shape, block, device))


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_classifiers", [evaluated])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["window", "heads", "all", "noise", "documents"]),
    st.tuples(st.integers(0, Q), st.integers(0, KV)),
)
def test_cropping(name: str, lengths: tuple[int, int]) -> None:
    """Windows lose blocks in their last rows, which PyTorch's _adjust keeps outside the mask."""
    mask = make(name)._adjust(*lengths)
    assert mask.shape == (B, H, *lengths)
    assert torch.equal(
        dense(mask), dense_mod(MODS[name], (B, H, Q, KV))[:, :, : lengths[0], : lengths[1]]
    )
    mask.check()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["window", "heads", "all", "noise", "documents"]),
    st.tuples(st.integers(0, 70), st.integers(0, 70)),
    st.booleans(),
)
def test_growing(name: str, lengths: tuple[int, int], separate: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_classifiers", [evaluated])
        theirs = create_block_mask(
            MODS[name], B, H, Q, KV, device="cpu", BLOCK_SIZE=BLOCK, separate_full_blocks=separate
        )
        mask = BlockMask.from_torch(theirs)._adjust(*lengths)
    assert mask.shape == (B, H, *lengths)
    assert torch.equal(dense(mask), dense_mod(MODS[name], (B, H, *lengths)))
    assert (mask.full_kv_indices is not None) == separate
    mask.check()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["window", "heads", "noise", "documents"]),
    st.lists(st.integers(0, 20), min_size=1, max_size=4),
    st.booleans(),
)
def test_keys_are_appended(name: str, steps: list[int], one_row: bool) -> None:
    """Step by step, as in decoding; the tables are those of a mask made for the last length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_classifiers", [evaluated])
        mask = make(name)[:, :, 2] if one_row else make(name)
        whole, q_len = make(name, (B, H, Q, KV + sum(steps))), mask.shape[2]
        for step in steps:
            mask = mask.extend_kv(mask.shape[3] + step)
    assert mask.shape == (B, H, q_len, KV + sum(steps))
    wanted = whole[:, :, 2] if one_row else whole
    assert torch.equal(dense(mask), dense(wanted))
    for field in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
        assert torch.equal(getattr(mask, field), getattr(wanted, field))


def test_only_new_blocks_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watch(mod, shape, block, device):  # type: ignore[no-untyped-def]
        asked.append(shape)
        return evaluated(mod, shape, block, device)

    monkeypatch.setattr(resize, "_classifiers", [watch])
    mask = make("window", (1, 1, 64, 64))
    longer = mask.extend_kv(65).extend_kv(72).extend_kv(100)
    assert asked == [(1, 1, 64, 1), (1, 1, 64, 8), (1, 1, 64, 28)]
    assert torch.equal(dense(longer), dense_mod(MODS["window"], (1, 1, 64, 100)))
    asked.clear()
    mask._adjust(72, 72)
    assert asked == [(1, 1, 8, 64), (1, 1, 72, 8)]
    assert mask.extend_kv(64).shape == mask.shape
    for wrong in (63, -1, 2.5):
        with pytest.raises(BlockMaskError, match=r"(?s)why.*fix"):
            mask.extend_kv(wrong)


@pytest.mark.usefixtures("growing")
def test_growing_a_slice_and_a_list_of_ones_own() -> None:
    part = make("causal", (1, 1, 64, 64))[:, :, 2:4]._adjust(24, 64)
    q, kv = torch.arange(24)[:, None], torch.arange(64)
    assert torch.equal(dense(part)[0, 0], q + 16 >= kv)
    listed = BlockMask.from_kv_blocks(
        torch.tensor([1, 1]), torch.tensor([[1, 0], [0, 1]]), BLOCK_SIZE=8
    )
    grown = dense(listed._adjust(16, 24))[0, 0]
    assert not grown[:8, :8].any() and grown[:8, 8:].all()  # the old list holds, the new is asked
