"""The study's masks: every claim is true, and what has to be proved is."""

from __future__ import annotations

import pytest
import study_vision  # noqa: F401  (registers its masks)
from study_masks import MASKS, build
from tile_truth import assert_sound, evaluate, prove, true_classes

BLOCKS = [(16, 16), (24, 8), (128, 64)]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("n", [211, 512])
def test_every_decided_tile_is_right(name: str, n: int) -> None:
    for seed, block in enumerate(BLOCKS):
        mod, q_len, kv_len = build(name, n, seed)
        shape = (1, 1, q_len, kv_len)
        assert_sound(prove(mod, shape, block), evaluate(mod, shape), block)


def test_little_is_left() -> None:
    """At 1,024 tokens; what is left is partial in truth but for a few tiles."""
    table = {}
    for name in MASKS:
        mod, q_len, kv_len = build(name, 1024)
        found = prove(mod, (1, 1, q_len, kv_len), (32, 32))
        truth = true_classes(evaluate(mod, (1, 1, q_len, kv_len)), (32, 32))
        left = found.classes == 3
        table[name] = int(left.sum()), int((left & (truth != 1)).sum())
    for name, (left, sure) in table.items():
        if left:
            print(f"{name:24s} left {left:5d}, of them empty or full {sure}")
    assert sum(sure for _, sure in table.values()) == 0
