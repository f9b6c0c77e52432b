"""Costs against counting every multiply-add and every element by hand."""

from __future__ import annotations

import pytest

from flexattn.analysis.cost import (
    Cost,
    Shape,
    backward_cost,
    computed_pairs,
    forward_cost,
    unfused_cost,
)

SMALL = Shape(B=2, Hq=4, Hkv=2, M=3, N=5, D=7, Dv=6, itemsize=2)


def test_forward_by_counting() -> None:
    flops = sum(2 * 7 + 2 * 6 for _ in range(2 * 4) for _ in range(3) for _ in range(5))
    elements = 2 * 4 * 3 * 7 + 2 * 2 * 5 * 7 + 2 * 2 * 5 * 6 + 2 * 4 * 3 * 6
    assert forward_cost(SMALL) == Cost(flops, 2 * elements + 4 * 2 * 4 * 3)


def test_backward_is_two_and_a_half_forwards_for_equal_dims() -> None:
    shape = Shape(1, 1, 1, 64, 64, 32, 32)
    assert backward_cost(shape).flops * 2 == forward_cost(shape).flops * 5


def test_sparsity_lowers_operations_and_not_bytes() -> None:
    half = forward_cost(SMALL, SMALL.pairs // 2)
    assert half.flops * 2 == forward_cost(SMALL).flops
    assert half.bytes == forward_cost(SMALL).bytes


@pytest.mark.parametrize("backward", [False, True])
def test_unfused_moves_the_square(backward: bool) -> None:
    long = Shape(1, 1, 1, 4096, 4096, 64, 64)
    fused = backward_cost(long) if backward else forward_cost(long)
    unfused = unfused_cost(long, backward=backward)
    assert unfused.bytes > 10 * fused.bytes
    assert unfused.flops <= fused.flops


def test_pairs_of_a_block_list() -> None:
    shape = Shape(2, 4, 4, 256, 256, 64, 64)
    assert computed_pairs(3, (128, 128), shape, batch_heads=1) == 3 * 128 * 128 * 8
    assert computed_pairs(24, (128, 128), shape, batch_heads=8) == 24 * 128 * 128
    assert computed_pairs(4, (256, 256), shape, batch_heads=1) == shape.pairs


def test_roofline() -> None:
    cost = Cost(flops=1000, bytes=100)
    assert cost.intensity == 10
    assert cost.seconds(500, 1) == 100 and cost.seconds(1, 1000) == 1000
