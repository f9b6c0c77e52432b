"""Lists and orders that Triton kernels read beside a mask's tables."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from flexattn import clear_cache, create_block_mask
from flexattn.op import triton_tables
from flexattn.op.mask_reuse import tables_of
from flexattn.op.triton_tables import (
    block_of,
    column_arguments,
    column_tables,
    heaviest_first,
    key_order,
    moved_to,
    no_arguments,
    row_arguments,
    row_order,
    row_tables,
    with_edge_last,
)

pytestmark = pytest.mark.null


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def tables(rows: int = 70, keys: int = 50) -> tuple[torch.Tensor, ...]:
    return tables_of(create_block_mask(causal, 1, 1, rows, keys, BLOCK_SIZE=16))


def listed(counts: torch.Tensor, indices: torch.Tensor) -> list[list[int]]:
    return [
        sorted(row[:count].tolist())
        for count, row in zip(counts.flatten(), indices.flatten(0, -2), strict=True)
    ]


def test_lists_by_column() -> None:
    made = tables()
    by_column = column_tables(made, 4)
    for at in (0, 2):
        rows = listed(made[at], made[at + 1])
        wanted = [[r for r, row in enumerate(rows) if column in row] for column in range(4)]
        assert listed(by_column[at], by_column[at + 1]) == wanted
    assert column_tables(made, 4) is by_column


def test_heaviest_tiles_come_first() -> None:
    counts = [torch.tensor([[[2, 9, 4]], [[1, 0, 4]]]), torch.tensor([[[0, 0, 2]]])]
    assert heaviest_first(counts, 2, 5).tolist() == [4, 2, 3, 0, 1]
    order = row_order(tables(), 1, 5)
    assert order.dtype == torch.int32 and order[-1] == 0
    assert sorted(key_order(tables(), 4, 2, 7).tolist()) == list(range(7))


def test_the_block_at_the_edge_is_last() -> None:
    counts = torch.tensor([[[3, 2, 0, 1]]])
    indices = torch.tensor([[[[5, 1, 2], [1, 5, 5], [5, 5, 5], [5, 0, 0]]]])
    moved = with_edge_last(counts, indices, 5)
    assert [row[: int(n)] for row, n in zip(moved[0, 0].tolist(), counts[0, 0])] == [
        [2, 1, 5], [1, 5], [], [5],
    ]  # fmt: skip
    assert with_edge_last(counts, indices[..., :0], 5).shape == (1, 1, 4, 0)


def test_lists_as_kernels_want_them() -> None:
    made = tables()
    assert row_tables(made, 48, 16) is made  # no block reaches beyond 48 keys
    strided = [table.mT.contiguous().mT if table.ndim == 4 else table for table in made]
    again = row_tables(strided, 48, 16)
    assert all(table.stride(-1) == 1 for table in again)
    assert all(torch.equal(a, b) for a, b in zip(again, made, strict=True))
    wide = [table.expand(3, 2, *table.shape[2:]) for table in made]
    edged = row_tables(wide, 50, 16)
    assert edged[3].shape[:2] == (1, 1)  # heads that repeat themselves are not written out


def test_shared_heads_have_no_stride() -> None:
    made = tables()
    for number in (2, 4):
        found, order = row_arguments(made[:number], 48, (16, 16), (1, 5))
        assert len(found) == 16 and found[14:] == (16, 16) and len(order) == 5
        assert found[0] is made[0] and found[3] is made[1]
        assert found[1:3] == (0, 0) and found[4:7] == (0, 0, made[1].stride(2))
    assert len(column_arguments(made, 4, (16, 16), (1, 4))[0]) == 16
    nothing = torch.empty(0)
    assert len(no_arguments(nothing, (1, 1))[0]) == 16


def test_blocks_beyond_the_sequence() -> None:
    assert block_of((1 << 30, 1 << 30), (130, 5)) == (256, 128)
    assert block_of((16, 48), (1000, 1000)) == (16, 48)


def test_what_is_derived_lives_as_long_as_the_tables() -> None:
    made = tables()
    before = len(triton_tables._kept)
    first = column_tables(made, 4)
    assert len(triton_tables._kept) == before + 1
    made[0].add_(0)  # written to: counted as a change
    assert column_tables(made, 4) is not first
    assert len(triton_tables._kept) == before + 1
    del made
    gc.collect()
    assert len(triton_tables._kept) == before


def test_tables_that_share_one_tensor_are_kept_apart() -> None:
    made = tables()
    other = (made[0], made[1].flip(-1), *made[2:])
    first = column_tables(made, 4)
    assert not torch.equal(column_tables(other, 4)[1], first[1])
    assert all(map(torch.equal, column_tables(made, 4), first))


def test_inference_tables_are_never_kept() -> None:
    with torch.inference_mode():
        made = tables()
        first = column_tables(made, 4)
        edged = row_arguments(made, 50, (16, 16), (1, 5))
        order = row_arguments(made, 48, (16, 16), (1, 5))[1]
        assert row_arguments(made, 48, (16, 16), (1, 5))[1] is order  # but for an order
        made[0].zero_()
        assert not column_tables(made, 4)[0].any() and first[0].any()
        assert row_arguments(made, 50, (16, 16), (1, 5))[0][10] is not edged[0][10]


def test_a_number_is_moved_once() -> None:
    number = torch.tensor(3.0)
    moved = moved_to(number, torch.device("meta"))
    assert moved.device.type == "meta" and moved_to(number, torch.device("meta")) is moved
    number.add_(1)
    assert moved_to(number, torch.device("meta")) is not moved


def test_streams_do_not_share_what_is_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tables()
    first = column_tables(made, 4)
    monkeypatch.setattr(triton_tables, "stream_on", lambda device: 7)
    other = column_tables(made, 4)
    assert other is not first and column_tables(made, 4) is other
    monkeypatch.undo()
    assert column_tables(made, 4) is first


def test_a_graph_follows_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are made inside it; an order, and a number of the CPU, may be from before."""
    made = tables()
    edged = row_arguments(made, 50, (16, 16), (1, 5))
    columns = column_tables(made, 4)
    number = torch.tensor(3.0)
    moved = moved_to(number, torch.device("meta"))
    monkeypatch.setattr(triton_tables, "is_capturing_on", lambda device: True)
    monkeypatch.setattr(triton_tables, "stream_on", lambda device: 7)
    again = row_arguments(made, 50, (16, 16), (1, 5))
    assert again[0][10] is not edged[0][10] and torch.equal(again[0][10], edged[0][10])
    assert again[1] is edged[1]
    assert column_tables(made, 4) is not columns
    assert moved_to(number, torch.device("meta")) is moved
    monkeypatch.undo()
    assert column_tables(made, 4) is columns  # nothing of a graph is kept for other calls


def test_a_graph_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tables()
    order = weakref.ref(row_order(made, 1, 5))
    with monkeypatch.context() as patch:
        patch.setattr(triton_tables, "is_capturing_on", lambda device: True)
        row_order(made, 1, 5)
    made[0].add_(0)
    row_order(made, 1, 5)
    clear_cache()
    gc.collect()
    assert order() is not None
    del made
    gc.collect()
    assert order() is None
