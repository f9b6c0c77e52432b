"""BlockMask's fields and methods against PyTorch's where that is right, else against the truth."""

from __future__ import annotations

import copy

import pytest
import torch
from dense_truth import MODS, dense, dense_mod
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask
from torch.nn.attention.flex_attention import create_block_mask

from flexattn.errors import BlockMaskAttributeError, BlockMaskError, ModSignatureError
from flexattn.masks import BlockMask, noop_mask

CAUSAL = MODS["causal"]


def pair_of_masks(
    name: str = "causal",
    shape: tuple[int, int, int, int] = (1, 2, 40, 48),
    block: int | tuple[int, int] = 8,
) -> tuple[BlockMask, TorchBlockMask]:
    theirs = create_block_mask(MODS[name], *shape, device="cpu", BLOCK_SIZE=block)
    return BlockMask.from_torch(theirs), theirs


def same(mine: object, theirs: object) -> bool:
    if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return torch.equal(mine, theirs)
    return mine == theirs


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(MODS)),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 8, (5, 16), 64]),
    st.booleans(),
)
def test_every_field_is_pytorchs(name, shape, block, separate) -> None:  # type: ignore[no-untyped-def]
    theirs = create_block_mask(
        MODS[name], *shape, device="cpu", BLOCK_SIZE=block, separate_full_blocks=separate
    )
    mine = BlockMask.from_torch(theirs)
    for flatten in (True, False):
        mine_fields, their_fields = mine.as_tuple(flatten), theirs.as_tuple(flatten)
        assert len(mine_fields) == len(their_fields)
        assert all(map(same, mine_fields, their_fields))
    assert mine.shape == theirs.shape and mine.numel() == theirs.numel()
    assert torch.equal(mine.to_dense(), theirs.to_dense())
    assert torch.equal(dense(mine), dense_mod(MODS[name], shape))
    back = mine.to_torch()
    assert all(map(same, back.as_tuple(), theirs.as_tuple()))


def test_sparsity_is_of_blocks() -> None:
    mine, theirs = pair_of_masks(shape=(1, 2, 64, 64))
    assert mine.sparsity() == pytest.approx(theirs.sparsity())
    ragged, wrong = pair_of_masks("all", shape=(1, 1, 9, 9))
    assert wrong.sparsity() < 0  # PyTorch divides the blocks' area by the lengths' area
    assert ragged.sparsity() == 0.0


def test_q_tables_are_made_when_asked_and_only_if_wanted() -> None:
    mine, theirs = pair_of_masks()
    assert not mine._cache
    assert torch.equal(mine.q_indices, theirs.q_indices)
    assert mine.q_indices is mine.q_indices
    without = BlockMask.from_kv_blocks(mine.kv_num_blocks, mine.kv_indices, compute_q_blocks=False)
    assert without.q_num_blocks is None and without.full_q_indices is None
    assert without[:, :, 1:]._adjust(8, 8).q_indices is None


# from_kv_blocks ---------------------------------------------------------------------------------


def test_unpadded_tables() -> None:
    """PyTorch takes the width of the table for the width of the mask, and reads outside."""
    counts = torch.tensor([[[1, 1, 1, 1]]], dtype=torch.int32)
    indices = torch.tensor([[[[0], [3], [5], [1]]]], dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(
        counts, indices, BLOCK_SIZE=4, seq_lengths=(16, 23), mask_mod=CAUSAL
    )
    assert mask.shape == (1, 1, 16, 23)
    blocks = torch.zeros(4, 6, dtype=torch.int32)
    blocks[range(4), [0, 3, 5, 1]] = 1
    assert torch.equal(mask.to_dense()[0, 0], blocks)
    assert mask.q_num_blocks.tolist() == [[[1, 1, 0, 1, 0, 1]]]
    assert mask.q_indices[0, 0, :, 0].tolist() == [0, 3, 0, 1, 0, 2]
    theirs = mask.to_torch()
    assert torch.equal(theirs.to_dense()[0, 0], blocks)
    assert torch.equal(theirs.q_indices, mask.q_indices)


def test_defaults_of_from_kv_blocks() -> None:
    counts = torch.tensor([[[1, 2]]])  # int64 is taken too
    indices = torch.tensor([[[[0, 1, 2], [2, 0, 1]]]])
    mask = BlockMask.from_kv_blocks(counts, indices)
    assert mask.seq_lengths == (256, 384) and mask.BLOCK_SIZE == (128, 128)
    assert mask.mask_mod is noop_mask
    assert mask.kv_indices.dtype == torch.int32
    assert mask.full_kv_num_blocks is None and mask.full_q_indices is None
    assert BlockMask.from_kv_blocks(counts[0, 0], indices[0, 0]).shape == (1, 1, 256, 384)


def test_a_shared_full_list_is_expanded() -> None:
    counts = torch.zeros(2, 1, 2, dtype=torch.int32)
    indices = torch.zeros(2, 1, 2, 2, dtype=torch.int32)
    full = torch.ones(1, 3, 2, dtype=torch.int32), torch.ones(1, 3, 2, 1, dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(counts, indices, *full, BLOCK_SIZE=8, seq_lengths=(16, 16))
    assert mask.shape == (2, 3, 16, 16)
    assert dense(mask)[1, 2].sum() == 16 * 8


def ints(*rows: object) -> torch.Tensor:
    return torch.tensor(list(rows), dtype=torch.int32)


ONE = (ints(1, 1), ints([0, 1], [1, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ints(1, 1), ints([0, 1])), r"shape \(2,\) and kv_indices \(1, 2\)"),
        ((ints(1), ints(0)), "shape"),
        ((ONE[0].float(), ONE[1]), r"kv_num_blocks has dtype torch.float32"),
        ((ONE[0], ONE[1].bool()), "dtype torch.bool"),
        (([1, 1], ONE[1]), "kv_num_blocks is list"),
        ((ONE[0].to("meta"), ONE[1]), "meta"),
        ((*ONE, ints(1, 1)), "full_kv_num_blocks and full_kv_indices is missing"),
        ((*ONE, ints(1), ints([0])), "full_kv_num_blocks"),
        ((ints(3, 1), ONE[1]), r"kv_num_blocks\[0, 0, 0\] is 3"),
        ((ints(-1, 1), ONE[1]), "is -1"),
        ((ONE[0], ints([2, 0], [0, 1])), r"kv_indices\[0, 0, 0, 0\] is 2"),
        ((ONE[0], ints([0, 0], [-1, 1])), r"kv_indices\[0, 0, 1, 0\] is -1"),
        ((ints(1, 2), ints([0, 0], [1, 1])), "more than once"),
        ((*ONE, ints(0, 1), ints([0, 1], [1, 0])), r"block \(0, 0, 1, 1\)"),
    ],
)
def test_tables_that_do_not_fit(arguments, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BlockMaskError, match=rf"(?s){message}") as caught:
        BlockMask.from_kv_blocks(*arguments, BLOCK_SIZE=8)
    assert caught.value.why and caught.value.fix


@pytest.mark.parametrize(
    "keywords",
    [
        {"BLOCK_SIZE": 0},
        {"BLOCK_SIZE": (8, 8, 8)},
        {"BLOCK_SIZE": 8.0},
        {"BLOCK_SIZE": True},
        {"seq_lengths": (8, 16), "BLOCK_SIZE": 8},
        {"seq_lengths": (16, 8), "BLOCK_SIZE": 8},
        {"seq_lengths": (16, -1), "BLOCK_SIZE": 8},
        {"seq_lengths": 16, "BLOCK_SIZE": 8},
        {"dq_write_order": ONE[1]},
        {"dq_kv_order": ONE[1]},
    ],
)
def test_numbers_that_do_not_fit(keywords) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BlockMaskError, match=r"(?s)why.*fix"):
        BlockMask.from_kv_blocks(*ONE, **keywords)


def test_write_order_fields_are_none() -> None:
    mask = BlockMask.from_kv_blocks(*ONE, dq_write_order=None, dq_kv_order=True)
    assert mask.dq_write_order is mask.dq_write_order_full is mask.dq_kv_order is None
    assert mask.dq_kv_order_spt is True


# Assigning --------------------------------------------------------------------------------------


def test_only_mask_mod_and_seq_lengths_can_change() -> None:
    mask, _ = pair_of_masks()
    for name in ("kv_num_blocks", "kv_indices", "BLOCK_SIZE", "q_indices", "something"):
        with pytest.raises(BlockMaskAttributeError, match=name):
            setattr(mask, name, None)
    with pytest.raises(AttributeError):
        del mask.kv_indices
    mask.mask_mod = noop_mask
    assert mask.mask_mod is noop_mask
    with pytest.raises(ModSignatureError):
        mask.mask_mod = None  # type: ignore[assignment]
    assert mask.mask_mod is noop_mask


def test_seq_lengths_are_checked_again() -> None:
    mask, _ = pair_of_masks(shape=(1, 1, 40, 48), block=16)
    mask.seq_lengths = (33, 41)
    assert mask.shape == (1, 1, 33, 41)
    for wrong in ((49, 48), (32, 48), (40, 32), (40,), (40, None)):
        with pytest.raises(BlockMaskError):
            mask.seq_lengths = wrong  # type: ignore[assignment]
    assert mask.seq_lengths == (33, 41)
    mask.seq_lengths = (40, 100)  # PyTorch's users widen a mask for a longer cache
    assert mask.to_dense().shape == (1, 1, 3, 7) and mask.q_indices.shape == (1, 1, 7, 3)


# Copies -----------------------------------------------------------------------------------------


def test_copies() -> None:
    ids = torch.arange(48) // 5
    mask, _ = pair_of_masks()
    mask.mask_mod = lambda b, h, q, kv: ids[q] == ids[kv]
    shallow, deep = copy.copy(mask), copy.deepcopy(mask)
    assert shallow.kv_indices is mask.kv_indices and deep.kv_indices is not mask.kv_indices
    for other in (shallow, deep):
        assert all(map(same, other.as_tuple(), mask.as_tuple()))
        other.mask_mod = noop_mask
    assert mask.mask_mod is not noop_mask


def test_to_moves_tables_and_captured_tensors() -> None:
    ids = torch.arange(48) // 5
    mask, _ = pair_of_masks()
    mask.mask_mod = lambda b, h, q, kv: ids[q] == ids[kv]
    moved = mask.to("meta")
    assert {moved.kv_indices.device.type, moved.full_kv_num_blocks.device.type} == {"meta"}
    assert moved.mask_mod.__closure__[0].cell_contents.device.type == "meta"
    assert mask.device.type == "cpu" and ids.device.type == "cpu"
    assert "mask_mod=<lambda>" in repr(moved)  # no values to count: no sparsity, no failure
    assert mask.to("cpu").mask_mod is mask.mask_mod


# To look at -------------------------------------------------------------------------------------


def test_picture() -> None:
    mask, _ = pair_of_masks("window", shape=(1, 1, 48, 48))
    assert str(mask) == (
        "BlockMask(shape=(1, 1, 48, 48), sparsity=69.44%,\n"
        "(0, 0)\n"
        "░░          \n"
        "░░░░        \n"
        "  ░░░░      \n"
        "    ░░░░    \n"
        "      ░░░░  \n"
        "        ░░░░\n"
        ")"
    )
    causal, _ = pair_of_masks(shape=(1, 1, 48, 48))
    assert causal.to_string(grid_size=3) == "(0, 0)\n░░    \n██░░  \n████░░\n"
    assert causal.to_string(grid_size=(2, 6)) == "(0, 0)\n░░░░░░      \n█████████░░░\n".replace(
        "█████████░░░", "██████░░░░░░"
    )
    lines = causal.to_string(grid_size=-1).splitlines()
    assert len(lines) == 7 and lines[-1] == "██████████░░"


def test_pictures_are_limited() -> None:
    mask, _ = pair_of_masks("heads", shape=(2, 3, 8, 8))
    assert mask.to_string(limit=2).count("(0, ") == 2
    assert "and 4 more" in mask.to_string(limit=2)
    assert mask.to_string(limit=6).count("░") > 0 and "more" not in mask.to_string(limit=6)


def test_repr_names_the_parts() -> None:
    text = repr(pair_of_masks("documents")[0])
    assert "kv_indices=(1, 2, 5, 6)" in text and "BLOCK_SIZE=(8, 8)" in text
    assert "sparsity=" in text and "mask_mod=<lambda>" in text


def test_empty_masks() -> None:
    for q_len, kv_len in ((0, 0), (0, 20), (20, 0)):
        rows, cols = -(-q_len // 8), -(-kv_len // 8)
        mask = BlockMask.from_kv_blocks(
            torch.zeros(1, 1, rows, dtype=torch.int32),
            torch.zeros(1, 1, rows, cols, dtype=torch.int32),
            BLOCK_SIZE=8,
            seq_lengths=(q_len, kv_len),
        )
        assert mask.shape == (1, 1, q_len, kv_len) and mask.numel() == 0
        assert mask.sparsity() == 100.0 and mask.q_indices.shape == (1, 1, cols, rows)
        assert "no elements" in str(mask)


# From and to PyTorch ----------------------------------------------------------------------------


def test_a_sliced_torch_mask_without_its_mod_is_refused() -> None:
    _, theirs = pair_of_masks()
    with pytest.raises(BlockMaskError, match="sliced"):
        BlockMask.from_torch(theirs[0])
    part = theirs[0, 1]
    part.mask_mod = CAUSAL
    assert torch.equal(
        dense(BlockMask.from_torch(part)), dense(BlockMask.from_torch(theirs))[:, 1:]
    )


def test_torch_write_order_is_left_behind() -> None:
    theirs = create_block_mask(
        CAUSAL, 1, 1, 32, 32, device="cpu", BLOCK_SIZE=8, compute_dq_write_order=True
    )
    assert theirs.dq_write_order is not None
    mine = BlockMask.from_torch(theirs)
    assert mine.dq_write_order is None and mine.dq_kv_order_spt is True
