"""Blocks found by proof: the same tables as by evaluation, and the same errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask as peer

from flexattn.analysis.tiles import singly
from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError
from flexattn.op import settle
from flexattn.op.create import create_block_mask

G = torch.Generator().manual_seed(0)
DOC = (torch.rand(2, 200, generator=G) < 0.05).cumsum(-1)
LOOSE = torch.randint(0, 9, (200,), generator=G)
WINDOW = torch.tensor([3, 40, 90])
VALID = torch.rand(2, 3, 200, generator=G) < 0.9
BIAS = torch.randn(200, generator=G)
PAIRS = torch.rand(200, 200, generator=G) < 0.3

MODS: dict[str, Any] = {
    "documents": lambda b, h, q, k: (DOC[b, q] == DOC[b, k]) & (q >= k),
    "windows": lambda b, h, q, k: abs(q - k) <= WINDOW[h],
    "padding": lambda b, h, q, k: VALID[b, h, k] & (q >= k),
    "float": lambda b, h, q, k: BIAS[q] > BIAS[k] + 1.0,
    "float sum": lambda b, h, q, k: BIAS[q] + BIAS[k] > 2.5,
    "transcendental": lambda b, h, q, k: torch.exp(BIAS[q]) > 0.2 + (q - k),
    "hash": lambda b, h, q, k: (q * 7919 + k * 104729) % 97 < 40,
    "product": lambda b, h, q, k: q * k < 900,
    "loose": lambda b, h, q, k: (LOOSE[q] == LOOSE[k]) | (q == 3),
    "bitmap": lambda b, h, q, k: PAIRS[q, k],
    "clamped": lambda b, h, q, k: LOOSE[torch.clamp(q - k, 0, 199)] < 5,
    "wraps": lambda b, h, q, k: LOOSE[q - k] < 5,
    "guarded": lambda b, h, q, k: (k + q < 200) & (LOOSE[torch.where(k + q < 200, k + q, 0)] < 4),
}
TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


@pytest.mark.parametrize("block", [(16, 16), (8, 24), 128])
@pytest.mark.parametrize("name", MODS)
def test_tables_are_pytorchs_and_those_of_evaluation(name: str, block: Any) -> None:
    sizes = (2, 3, 181, 200)
    found = create_block_mask(MODS[name], *sizes, device="cpu", BLOCK_SIZE=block)
    evaluated = create_block_mask(
        MODS[name], *sizes, device="cpu", BLOCK_SIZE=block, backend="eager"
    )
    theirs = peer(MODS[name], *sizes, device="cpu", BLOCK_SIZE=block)
    for table in TABLES:
        for other in (evaluated, theirs):
            want = getattr(other, table)
            assert torch.equal(getattr(found, table), want.expand_as(getattr(found, table))), table


def test_faults_are_those_of_evaluation() -> None:
    """What is said is that of the first pair in error, queries in order."""

    def outside(b: Any, h: Any, q: Any, k: Any) -> Any:
        return LOOSE[q + k] < 5

    def zero(b: Any, h: Any, q: Any, k: Any) -> Any:
        return 100 // (q - k) > 3

    first = {
        outside: (IndexOutOfRangeError, "q_idx=71, kv_idx=129"),
        zero: (DivisionByZeroError, "q_idx=0, kv_idx=0"),
    }
    for mod, (error, place) in first.items():
        for backend in (None, "eager"):
            with pytest.raises(error, match=None if backend else place):
                create_block_mask(
                    mod, None, None, 150, 130, device="cpu", BLOCK_SIZE=16, backend=backend
                )


def test_a_fault_that_decides_nothing_is_none() -> None:
    def guarded(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q + k < 200) & (LOOSE[q + k] < 5)

    found = create_block_mask(guarded, None, None, 150, 130, device="cpu", BLOCK_SIZE=16)
    want = create_block_mask(
        guarded, None, None, 150, 130, device="cpu", BLOCK_SIZE=16, backend="eager"
    )
    assert torch.equal(found.kv_indices, want.kv_indices)
    assert torch.equal(found.full_kv_num_blocks, want.full_kv_num_blocks)


def test_masks_that_are_proved_evaluate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a tile was evaluated")

    monkeypatch.setattr(singly._Work, "_by_evaluation", never)
    monkeypatch.setattr(settle.Settler, "__call__", never)
    for name in ("documents", "windows", "padding"):
        create_block_mask(MODS[name], 2, 3, 192, 192, device="cpu", BLOCK_SIZE=16)
    length = 32768
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device="cpu")
    assert mask.kv_num_blocks.sum() == 256
