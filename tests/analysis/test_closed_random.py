"""Random masks: a closed form keeps what the mask keeps, and its runs are the true classes."""

from __future__ import annotations

import pytest
from closed_masks import drawn
from closed_truth import fault_of

EACH = 1500


@pytest.mark.parametrize("part", range(8))
def test_random_masks(part: int) -> None:
    solved = 0
    for seed in range(part * EACH, (part + 1) * EACH):
        fault = fault_of(**vars(drawn(seed)))
        solved += fault != "none"
        assert fault in (None, "none"), seed
    assert solved > EACH // 4
