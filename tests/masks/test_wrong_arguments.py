"""What is no argument of a mask's methods is told so, by this package's errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexattn import BlockMask, create_block_mask
from flexattn.errors import FlexAttentionError


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


MASK = create_block_mask(causal, 2, 2, 64, 64, device="cpu", BLOCK_SIZE=16)
META = create_block_mask(causal, 1, 1, 64, 64, device="meta")

CALLS: dict[str, Callable[[], Any]] = {
    "meta, printed": lambda: str(META),
    "meta, sparsity": lambda: META.sparsity(),
    "meta, equal": lambda: META.equal(META),
    "meta, cost": lambda: META.cost(64),
    "a large block": lambda: create_block_mask(causal, 1, 1, 64, 64, BLOCK_SIZE=2**40),
    "a large length": lambda: create_block_mask(causal, 1, 1, 2**40, 64),
    "no device": lambda: create_block_mask(causal, 1, 1, 64, 64, device="nope"),
    "a number as device": lambda: create_block_mask(causal, 1, 1, 64, 64, device=3.5),  # type: ignore[arg-type]
    "to no device": lambda: MASK.to("nope"),
    "a step of 0": lambda: MASK[::0],
    "a text in a slice": lambda: MASK[:"a"],  # type: ignore[misc]
    "cat of a number": lambda: BlockMask.cat([MASK, 5]),  # type: ignore[list-item]
    "cat of a mask": lambda: BlockMask.cat(MASK),  # type: ignore[arg-type]
    "equal to a number": lambda: MASK.equal(5),  # type: ignore[arg-type]
    "cost of a text": lambda: MASK.cost("a"),  # type: ignore[arg-type]
    "cost in a text": lambda: MASK.cost(64, dtype="float32"),  # type: ignore[arg-type]
    "a limit below 0": lambda: MASK.to_string(limit=-1),
    "a grid of nothing": lambda: MASK.to_string(grid_size=(0, 0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_told_why_and_how(name: str) -> None:
    with pytest.raises(FlexAttentionError, match=r"(?s)why.*fix"):
        CALLS[name]()


def test_a_generator_of_masks_is_joined() -> None:
    joined = BlockMask.cat(mask for mask in (MASK, MASK))  # type: ignore[arg-type]
    assert joined.shape[0] == 4


def test_a_grid_is_called_what_it_is() -> None:
    with pytest.raises(FlexAttentionError, match="grid_size is"):
        MASK.to_string(grid_size=(0, 0))
