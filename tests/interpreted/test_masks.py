"""create_block_mask on the Triton backend, interpreted: the same mask as every other backend's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_calls import poisoned
from torch import Tensor

from flexattn import create_block_mask
from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError
from flexattn.masks.tables import to_classes
from flexattn.op.blocks import block_classes
from flexattn.op.programs import bind
from flexattn.op.triton_classes import listed_classes, settler
from flexattn.trace import trace_mod

DOCUMENT = torch.tensor([0] * 20 + [1] * 25 + [2] * 60)
KEEP = torch.rand(130) < 0.7


def document(b, h, q_idx, kv_idx):
    return (DOCUMENT[q_idx] == DOCUMENT[kv_idx]) & (q_idx >= kv_idx)


def per_head(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= 5 + 20 * h + b


def flagged(b, h, q_idx, kv_idx):
    return KEEP[kv_idx] | (q_idx == kv_idx)


def nothing(b, h, q_idx, kv_idx):
    return q_idx < 0


MODS = {"document": document, "per head": per_head, "flags": flagged, "nothing": nothing}
SIZES = {
    "even": (96, 96, 32),
    "odd": (100, 70, 16),
    "uneven blocks": (50, 70, (16, 48)),
    "one block": (37, 41, 1 << 30),
}


def tables(mask) -> list[Tensor]:  # type: ignore[no-untyped-def]
    return [entry for entry in mask.as_tuple() if isinstance(entry, Tensor)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODS)
def test_same_tables_as_the_interpreter_of_graphs(name: str, size: str) -> None:
    rows, keys, block = SIZES[size]
    with poisoned():
        found = create_block_mask(MODS[name], 2, 3, rows, keys, BLOCK_SIZE=block, backend="triton")
    wanted = create_block_mask(MODS[name], 2, 3, rows, keys, BLOCK_SIZE=block, backend="eager")
    assert all(map(torch.equal, tables(found), tables(wanted)))


def test_what_is_in_error_is_named() -> None:
    short = torch.arange(30)
    with pytest.raises(IndexOutOfRangeError, match=r"of shape \(30,\) at index 30") as caught:
        create_block_mask(
            lambda b, h, q, kv: short[q] >= kv, 1, 1, 40, 40, BLOCK_SIZE=16, backend="triton"
        )
    assert "b=0, h=0, q_idx=30, kv_idx=0" in str(caught.value)
    with pytest.raises(DivisionByZeroError):
        create_block_mask(lambda b, h, q, kv: q // kv > 3, 1, 1, 40, 40, backend="triton")


def test_listed_blocks_alone() -> None:
    bound = bind(None, trace_mod(per_head, "mask"), "f32")
    shape, block, cpu = (2, 3, 64, 96), (16, 32), torch.device("cpu")
    wanted = block_classes(bound, shape, block, cpu, "eager").reshape(-1)
    listed = torch.tensor([71, 0, 13, 40, 13], dtype=torch.int32)
    with poisoned():
        found = listed_classes(bound, shape, block, listed)
    assert torch.equal(found, wanted[listed.long()])


def test_blocks_left_by_proofs_are_settled() -> None:
    bound = bind(None, trace_mod(per_head, "mask"), "f32")
    shape, block, cpu = (2, 3, 60, 90), (16, 32), torch.device("cpu")
    wanted = block_classes(bound, shape, block, cpu, "eager").reshape(6, 4, 3)
    at = np.array([5, 0, 3, 3]), np.array([1, 2, 0, 1]), np.array([2, 0, 1, 1])
    with poisoned():
        found = settler(bound, shape, block, cpu)(at)
    assert found.tolist() == wanted[at].tolist()


def test_classes_come_from_the_tables_again() -> None:
    mask = create_block_mask(document, 1, 1, 100, 100, BLOCK_SIZE=32, backend="triton")
    classes = to_classes((mask.kv_num_blocks, mask.kv_indices), mask._full, 4)
    grid = torch.arange(100)
    kept = document(0, 0, grid[:, None], grid)
    for r in range(4):
        for c in range(4):
            part = kept[32 * r : 32 * r + 32, 32 * c : 32 * c + 32]
            whole = bool(part.all()) and part.numel() == 32 * 32
            assert classes[0, 0, r, c] == (0 if not part.any() else 2 if whole else 1)
