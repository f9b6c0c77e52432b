"""Pairs counted and compared: exact sparsity, equality, and the cost of a call."""

from __future__ import annotations

import pytest
import torch
from dense_truth import MODS, dense
from drawn_masks import masks, several, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn import create_block_mask
from flexattn.analysis.cost import Shape, backward_cost, forward_cost
from flexattn.errors import BlockMaskError, IndexOutOfRangeError
from flexattn.masks import BlockMask, pairs

PIECES = st.sampled_from([1, 3, 7, 40, 1 << 20])


def make(name: str = "causal", shape=(1, 2, 40, 48), block=8, **keywords) -> BlockMask:  # type: ignore[no-untyped-def]
    mod = MODS[name]
    return create_block_mask(mod, *shape, device="cpu", BLOCK_SIZE=block, **keywords)


# Sparsity ---------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(several(1), PIECES)
def test_pairs_are_counted_exactly(drawn, piece: int) -> None:  # type: ignore[no-untyped-def]
    _, (mask,) = drawn
    assert pairs.count_kept(mask, piece) == int(dense(mask).sum())
    exact = 100 * (1 - dense(mask).double().mean().item())
    assert mask.sparsity(exact=True) == pytest.approx(exact)


def test_exact_sparsity_differs_from_that_of_blocks() -> None:
    mask = make(shape=(1, 1, 16, 16))
    assert mask.sparsity() == 25.0
    assert mask.sparsity(exact=True) == pytest.approx(100 * 120 / 256)
    assert make(shape=(1, 1, 0, 16)).sparsity(exact=True) == 100.0


def test_shared_heads_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    make_evaluate = pairs._makers[-1]

    def watch(mod, shape, device):  # type: ignore[no-untyped-def]
        evaluate = make_evaluate(mod, shape, device)
        return lambda *index: asked.append(index[0].numel()) or evaluate(*index)

    monkeypatch.setattr(pairs, "_makers", [watch])
    shared, own = make("window", (4, 3, 40, 48)), make("heads", (4, 3, 40, 48))
    for mask, blocks in ((shared, 9), (own, int(own.kv_num_blocks[0].sum()))):
        asked.clear()
        assert pairs.count_kept(mask) == int(dense(mask).sum())
        assert sum(asked) == blocks
    listed = spread(make("prefix", (1, 1, 40, 48)), (3, 1))  # one list, and a mod that reads b
    assert pairs.count_kept(listed) == int(dense(listed).sum())


def test_an_error_of_the_mask_names_the_pair() -> None:
    ids = torch.zeros(20)
    mask = make(shape=(1, 1, 24, 24))
    mask.mask_mod = lambda b, h, q, kv: ids[kv] <= q
    with pytest.raises(IndexOutOfRangeError, match="20"):
        mask.sparsity(exact=True)


def test_nothing_that_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_makers", [])
    for ask in (lambda: make("noise").sparsity(exact=True), lambda: make().equal(make("noise"))):
        with pytest.raises(BlockMaskError, match=r"(?s)why.*fix"):
            ask()


# Equality ---------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(several(2), PIECES)
def test_equal_is_of_pairs(drawn, piece: int) -> None:  # type: ignore[no-untyped-def]
    _, (one, other) = drawn
    wanted = one.shape == other.shape and torch.equal(dense(one), dense(other))
    assert one.equal(other) == wanted
    if one.shape == other.shape:
        assert pairs.same_pairs(one, other, piece) == wanted


@settings(max_examples=60, deadline=None)
@given(several(1))
def test_other_lists_and_mods_of_the_same_pairs(drawn) -> None:  # type: ignore[no-untyped-def]
    _, (mask,) = drawn
    for same in (~~mask, mask & mask, mask | mask, BlockMask.cat([mask])):
        assert mask.equal(same) and same.equal(mask)
    kept = dense(mask)
    if kept.any():
        assert not mask.equal(~mask)


def test_one_pair_is_enough_to_differ() -> None:
    mask = make("all", (1, 1, 40, 48))
    for q, kv in ((0, 0), (39, 47), (17, 30)):
        other = create_block_mask(
            lambda b, h, i, j, q=q, kv=kv: (i != q) | (j != kv), 1, 1, 40, 48, BLOCK_SIZE=8
        )
        assert not mask.equal(other) and not other.equal(mask)


def test_equal_is_not_identity() -> None:
    one, other = make(), make()
    assert one.equal(other) and one != other and len({one, other}) == 2
    assert not one.equal(make(block=4))
    assert not one.equal(make(shape=(1, 1, 40, 48)))
    assert one.equal(make(separate_full_blocks=False))
    with pytest.raises(BlockMaskError, match=r"(?s)meta.*why.*fix"):
        one.equal(one.to("meta"))


def test_equal_mods_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(mod, shape, device):  # type: ignore[no-untyped-def]
        def evaluate(*index):  # type: ignore[no-untyped-def]
            raise AssertionError

        return evaluate

    monkeypatch.setattr(pairs, "_makers", [refuse])
    assert make().equal(make())
    assert not make().equal(~make())


# Cost -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data(), st.booleans())
def test_cost_is_of_the_visited_blocks(data, backward: bool) -> None:  # type: ignore[no-untyped-def]
    lengths = (16, 12)  # whole blocks of 8 x 4
    mask = data.draw(masks(lengths, (2, 3)))
    found = mask.cost(5, 7, B=2, Hq=3, Hkv=1, dtype=torch.float16, backward=backward)
    visited = spread(mask, (2, 3)).to_dense().sum().item() * 32
    shape = Shape(2, 3, 1, *lengths, 5, 7, 2)
    assert found == (backward_cost if backward else forward_cost)(shape, visited)


def test_defaults_of_cost() -> None:
    mask = make(shape=(2, 3, 64, 64))
    assert mask.cost(16) == mask.cost(16, 16, B=2, Hq=3, Hkv=3)
    assert mask.cost(16).flops == 2 * (2 * 3 * 36 * 64) * 32
    assert make("all", (1, 1, 9, 9)).cost(1).flops == 4 * 81  # no more than without a mask


@pytest.mark.parametrize(
    "arguments",
    [{"D": 0}, {"D": 8, "Dv": 0}, {"D": 8, "B": 3}, {"D": 8, "Hq": 1}, {"D": 8, "Hkv": 0}],
)
def test_sizes_that_do_not_fit(arguments: dict[str, int]) -> None:
    with pytest.raises(BlockMaskError, match=r"(?s)why.*fix"):
        make(shape=(2, 3, 16, 16)).cost(**arguments)
