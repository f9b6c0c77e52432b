"""``&``, ``|``, ``~`` and concatenation against the dense masks they stand for."""

from __future__ import annotations

import pytest
import torch
from dense_truth import MODS, dense, dense_mod
from drawn_masks import frame_of, listed, make, several, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn import create_block_mask
from flexattn.errors import BlockMaskError
from flexattn.masks import BlockMask
from flexattn.masks.algebra import inputs_of, same_mod
from flexattn.masks.closures import take_out
from flexattn.masks.tables import to_classes

CAUSAL, WINDOW = MODS["causal"], MODS["window"]


@settings(max_examples=250, deadline=None)
@given(several(2), st.sampled_from(["and", "or"]))
def test_and_and_or(drawn, way: str) -> None:  # type: ignore[no-untyped-def]
    _, (one, other) = drawn
    frame = frame_of(one, other)
    result = one & other if way == "and" else one | other
    a, b = (dense(spread(mask, frame)) for mask in (one, other))
    assert torch.equal(dense(result), a & b if way == "and" else a | b)
    result.check()
    if result._mod_alone:
        assert torch.equal(dense_mod(result.mask_mod, result.shape), dense(result))


@settings(max_examples=120, deadline=None)
@given(several(1))
def test_not(drawn) -> None:  # type: ignore[no-untyped-def]
    _, (mask,) = drawn
    turned = ~mask
    assert torch.equal(dense(turned), ~dense(mask))
    assert torch.equal(dense(~turned), dense(mask))
    turned.check()
    if turned._mod_alone:
        assert torch.equal(dense_mod(turned.mask_mod, turned.shape), dense(turned))


@settings(max_examples=120, deadline=None)
@given(several(3))
def test_terms(drawn) -> None:  # type: ignore[no-untyped-def]
    """Results are operands as good as any: lists that went into a mod stay right."""
    _, (a, b, c) = drawn
    x, y, z = (dense(spread(mask, frame_of(a, b, c))) for mask in (a, b, c))
    frame = frame_of(a, b, c)
    assert torch.equal(dense(spread(~(a & ~b) | c, frame)), ~(x & ~y) | z)
    assert torch.equal(dense(spread((a | b) & ~c, frame)), (x | y) & ~z)


def classes(mask: BlockMask) -> list[list[int]]:
    return to_classes(mask._partial, mask._full, mask._cols)[0, 0].tolist()


def test_blocks_combine_exactly() -> None:
    one = listed([[0, 0, 0, 1, 1, 1, 2, 2, 2]], CAUSAL)
    other = listed([[0, 1, 2, 0, 1, 2, 0, 1, 2]], WINDOW)
    assert classes(one & other) == [[0, 0, 0, 0, 1, 1, 0, 1, 2]]
    assert classes(one | other) == [[0, 1, 2, 1, 1, 2, 2, 2, 2]]
    assert classes(~one) == [[2, 2, 2, 1, 1, 1, 0, 0, 0]]


def test_a_hand_made_list_turned_around_keeps_what_it_dropped() -> None:
    counts, columns = torch.tensor([1, 1]), torch.tensor([[1, 0], [0, 1]])
    mask = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=8)
    turned = ~mask
    assert classes(turned) == [[2, 0], [0, 2]]  # noop_mask fills blocks: nothing is left to ask
    assert torch.equal(dense(turned), ~dense(mask))
    ragged = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=8, seq_lengths=(16, 13))
    assert classes(~ragged) == [[2, 1], [0, 1]]  # a block that reaches beyond is never full
    assert torch.equal(dense(~ragged), ~dense(ragged))


def test_lists_that_follow_from_their_mods_are_not_captured() -> None:
    one = create_block_mask(CAUSAL, None, None, 64, 64, device="cpu", BLOCK_SIZE=8)
    other = create_block_mask(MODS["prefix"], 3, None, 64, 64, device="cpu", BLOCK_SIZE=8)
    for result in (one & other, one | other, ~one, ~other, one & one):
        assert result._mod_alone and not tables_in(result)
    assert (one & one).mask_mod is one.mask_mod
    hand = listed([[1, 2], [0, 1]], WINDOW)
    assert not tables_in(~hand)  # what was left to the mod still is
    assert not tables_in(hand & hand)
    full = listed([[2, 1], [1, 1]], WINDOW)
    assert tables_in(full & listed([[1, 1], [1, 1]], CAUSAL)) == 1


def tables_in(mask: BlockMask) -> int:
    """Block lists that the mod captures."""
    return sum(tensor.dtype == torch.uint8 for tensor in take_out(mask.mask_mod)[0])


def test_a_shared_list_whose_mod_reads_the_batch_is_not_trusted() -> None:
    """Made for one batch, used for three: the list of batch 0 holds for all, as in a call."""
    shared = create_block_mask(MODS["prefix"], None, None, 24, 24, device="cpu", BLOCK_SIZE=8)
    other = create_block_mask(MODS["heads"], 3, 2, 24, 24, device="cpu", BLOCK_SIZE=8)
    wanted = dense(spread(shared, (3, 2)))
    assert torch.equal(dense(shared | other), wanted | dense(other))
    assert torch.equal(dense(shared & other), wanted & dense(other))


def test_assigning_a_mod_ends_the_trust() -> None:
    mask = create_block_mask(CAUSAL, 1, 1, 21, 21, device="cpu", BLOCK_SIZE=8)
    assert mask._mod_alone and mask[:, :, 1:]._mod_alone and mask.to("cpu")._mod_alone
    mask.mask_mod = MODS["noise"]
    assert not mask._mod_alone
    assert torch.equal(dense(~mask), ~dense(mask))
    longer = create_block_mask(MODS["all"], 1, 1, 16, 16, device="cpu", BLOCK_SIZE=8)
    longer.seq_lengths = (16, 30)  # new columns are empty, whatever the mod says
    assert torch.equal(dense(~longer), ~dense(longer))


def test_what_is_combined_grows_by_its_mods() -> None:
    one = listed([[2, 0], [1, 2]], CAUSAL)
    other = create_block_mask(MODS["noise"], 1, 1, 16, 16, device="cpu", BLOCK_SIZE=8)
    for result, way in ((one & other, torch.logical_and), (one | other, torch.logical_or)):
        wide = result._adjust(20, 30)
        wanted = way(*(dense(mask._adjust(20, 30)) for mask in (one, other)))
        assert torch.equal(dense(wide), wanted)
    assert (one & other)[:, :, 1].shape == (1, 1, 8, 16)


def test_heads_without_memory_stay_so() -> None:
    many = create_block_mask(CAUSAL, 8, 16, 64, 64, device="cpu", BLOCK_SIZE=8)
    few = create_block_mask(WINDOW, None, None, 64, 64, device="cpu", BLOCK_SIZE=8)
    for result in (many & few, few | many, ~many, BlockMask.cat([many, many])):
        assert result.kv_indices.stride(1) == 0
    assert (many & few).kv_indices.untyped_storage().nbytes() == 4 * 64
    assert (many & few).shape == (8, 16, 64, 64)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(block=(8, 16)), r"BLOCK_SIZE \(8, 8\) and \(8, 16\)"),
        (make(lengths=(24, 25)), r"seq_lengths \(24, 24\) and \(24, 25\)"),
        (make(batch=3), "B of 2 and 3"),
        (make(heads=2), "H of 2 and 3"),
        (make().to("meta"), "device cpu and meta"),
    ],
)
def test_masks_that_do_not_fit(other: BlockMask, message: str) -> None:
    for combine in (lambda a, b: a & b, lambda a, b: a | b, lambda a, b: BlockMask.cat([a, b])):
        if "B of" in message and combine(make(), make()).shape[0] == 4:
            continue  # batches are joined
        with pytest.raises(BlockMaskError, match=rf"(?s){message}.*why.*fix"):
            combine(make(), other)


def test_what_is_no_mask() -> None:
    for combine in (lambda m: m & CAUSAL, lambda m: 3 | m):
        with pytest.raises(TypeError):
            combine(make())


# Concatenation ----------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(several(3), st.integers(1, 3))
def test_cat(drawn, count: int) -> None:  # type: ignore[no-untyped-def]
    _, parts = drawn
    parts = parts[:count]
    heads = frame_of(*parts)[1]
    result = BlockMask.cat(parts)
    wanted = torch.cat([dense(spread(part, (part.shape[0], heads))) for part in parts])
    assert torch.equal(dense(result), wanted)
    result.check()
    assert torch.equal(dense(~result), ~wanted)


def test_cat_of_one_mod_keeps_it() -> None:
    parts = [make(batch=1), make(batch=2), make(batch=None)]
    assert BlockMask.cat(parts).mask_mod is CAUSAL
    assert BlockMask.cat(parts).shape == (4, 3, 24, 24)
    assert BlockMask.cat(parts[:1]) is parts[0]


def test_cat_of_documents_of_different_samples() -> None:
    """Batches read tensors of their own, of different lengths: none reads another's."""

    def of(size: int) -> BlockMask:
        ids = torch.arange(24 + size) // size
        mod = lambda b, h, q, kv: ids[q] == ids[kv]  # noqa: E731
        return create_block_mask(mod, None, None, 24, 24, device="cpu", BLOCK_SIZE=8)

    result = BlockMask.cat([of(3), of(5), of(5), of(7)])
    for b, size in enumerate((3, 5, 5, 7)):
        ids = torch.arange(24) // size
        assert torch.equal(dense(result)[b, 0], ids[:, None] == ids)


def test_joined_lists_of_shared_heads_whose_mods_read_the_head_are_not_trusted() -> None:
    shared = create_block_mask(MODS["heads"], 1, None, 21, 21, device="cpu", BLOCK_SIZE=8)
    own = create_block_mask(MODS["heads"], 1, 3, 21, 21, device="cpu", BLOCK_SIZE=8)
    result, wanted = (
        BlockMask.cat([shared, own]),
        torch.cat([dense(spread(shared, (1, 3))), dense(own)]),
    )
    assert not result._mod_alone and BlockMask.cat([own, own])._mod_alone
    assert torch.equal(dense(~result), ~wanted)


def test_cat_of_nothing() -> None:
    with pytest.raises(BlockMaskError, match=r"(?s)no masks.*why.*fix"):
        BlockMask.cat([])


# What is known of mods --------------------------------------------------------------------------


def test_what_mods_read() -> None:
    assert inputs_of(CAUSAL) == {"q_idx", "kv_idx"}
    assert inputs_of(MODS["prefix"]) == {"b", "kv_idx"}
    assert inputs_of(lambda b, h, q, kv: 1 / 0) == {"b", "h", "q_idx", "kv_idx"}


def test_same_mods() -> None:
    def document(ids: torch.Tensor, shift: int = 0):  # type: ignore[no-untyped-def]
        return lambda b, h, q, kv: ids[q] == ids[kv] + shift

    ids = torch.arange(9) // 2
    assert same_mod(document(ids), document(ids.clone()))
    assert not same_mod(document(ids), document(ids + (ids == 2)))
    assert not same_mod(document(ids), document(ids, 1))
    assert not same_mod(document(ids), CAUSAL)
    assert not same_mod(document(ids), document(ids.int()))
    assert same_mod(CAUSAL, lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)
