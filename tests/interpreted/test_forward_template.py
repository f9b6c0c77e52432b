"""The forward template, interpreted: against dense float64, with hand-written hooks."""

from __future__ import annotations

import pytest
import torch
from template_calls import (
    Blocks,
    capture_arguments,
    mods_text,
    row_tiles,
    run_forward,
)
from template_oracle import UNIT, check, dense, inputs, random_blocks

CAUSAL = mods_text(mask_mod="q_idx >= kv_idx")
SOFT_CAP = "captures[0] * 1.4426950408889634 * (1 - 2 / (tl.exp(score * (2 / captures[0])) + 1))"


@pytest.mark.parametrize("descriptors", [True, False])
@pytest.mark.parametrize("dtype", list(UNIT))
def test_grouped_heads_and_one_batch_of_keys(dtype: torch.dtype, descriptors: bool) -> None:
    q, k, v = inputs((2, 1, 4, 2, 19, 37, 24, 16), dtype)
    got = run_forward(q, k, v, descriptors=descriptors)
    check(got, dense(q, k, v))


@pytest.mark.parametrize("descriptors", [True, False])
@pytest.mark.parametrize(
    "dims", [(1, 1), (16, 3), (40, 40), (80, 16), (17, 48), (100, 96), (33, 100)]
)
def test_head_dims_in_chunks(dims: tuple[int, int], descriptors: bool) -> None:
    q, k, v = inputs((1, 1, 1, 1, 5, 21, *dims))
    check(run_forward(q, k, v, descriptors=descriptors), dense(q, k, v))


@pytest.mark.parametrize("m", [1, 16, 33])
@pytest.mark.parametrize("n", [0, 1, 32, 33])
def test_lengths(m: int, n: int) -> None:
    q, k, v = inputs((1, 1, 1, 1, m, n, 16, 16))
    check(run_forward(q, k, v, tile=(32, 16)), dense(q, k, v))
    keep = torch.arange(m)[:, None] >= torch.arange(n)
    check(run_forward(q, k, v, tile=(16, 32), mods=CAUSAL), dense(q, k, v, keep))


def test_pointers_take_any_stride() -> None:
    q, k, v = (x.mT.contiguous().mT for x in inputs((1, 1, 2, 1, 18, 35, 40, 24)))
    assert q.stride(-1) != 1 and v.stride(-1) != 1
    check(run_forward(q, k, v, descriptors=False), dense(q, k, v))


@pytest.mark.parametrize("scale", [0.0, -0.7, 3.0])
def test_scales(scale: float) -> None:
    q, k, v = inputs((1, 1, 1, 1, 17, 35, 16, 16))
    check(run_forward(q, k, v, scale=scale), dense(q, k, v, scale=scale))


def test_soft_cap_reads_the_natural_score() -> None:
    q, k, v = inputs((1, 1, 2, 1, 17, 35, 16, 16))
    got = run_forward(q, k, v, mods=mods_text(score_mod=SOFT_CAP), captures=(0.5,))
    check(got, dense(q, k, v, mod=lambda s, *_: 0.5 * torch.tanh(s / 0.5)))


def test_score_that_is_one_number_fills_the_tile() -> None:
    q, k, v = inputs((1, 1, 1, 1, 17, 35, 16, 16))
    got = run_forward(q, k, v, mods=mods_text(score_mod="(h + 2) * 1.4426950408889634"))
    check(got, dense(q, k, v, mod=lambda s, *_: torch.full_like(s, 2.0)))


def test_hoisted_values_reach_the_hooks() -> None:
    """Slopes per head, and documents: values of (b, h), of queries and of keys."""
    q, k, v = inputs((2, 2, 2, 1, 21, 21, 16, 16), torch.float64)
    slope = torch.rand(2, dtype=torch.float64)
    ids = torch.arange(21).expand(2, 21) // torch.tensor([[6], [9]])
    mods = mods_text(
        hoist_uniform="(tl.load(captures[0] + h * captures[2]) * 1.4426950408889634,)",
        hoist_q="(tl.load(captures[3] + b * captures[6] + q_idx * captures[7]),)",
        hoist_kv="(tl.load(captures[3] + b * captures[6] + kv_idx * captures[7]),)",
        mask_mod="(qv[0] == kvv[0]) & (q_idx >= kv_idx)",
        score_mod="score_log2 + u[0] * (kv_idx - q_idx)",
    )
    got = run_forward(q, k, v, mods=mods, captures=capture_arguments((slope, ids)))
    place = torch.arange(21)
    keep = (ids[:, None, :, None] == ids[:, None, None, :]) & (place[:, None] >= place)
    want = dense(q, k, v, keep, lambda s, b, h, i, j: s + slope[h] * (j - i))
    check(got, want)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    ("block", "tile"),
    [
        ((16, 32), (16, 16)),  # several tiles of keys a block
        ((32, 16), (16, 16)),  # several tiles of queries a block
        ((20, 24), (16, 16)),  # blocks that tiles do not divide
        ((7, 5), (16, 16)),  # blocks smaller than tiles
        ((1, 1), (16, 16)),
        ((128, 128), (16, 32)),  # one block, beyond both lengths
    ],
)
def test_block_lists(block: tuple[int, int], tile: tuple[int, int], full: bool) -> None:
    m, n = (5, 6) if block == (1, 1) else (37, 53)
    q, k, v = inputs((2, 2, 2, 1, m, n, 16, 16))
    blocks, partial, whole = random_blocks(m, n, block, full=full, shape=(1, 2))
    mods = mods_text(mask_mod="(q_idx + kv_idx) % 3 != 1")
    mask = (torch.arange(m)[:, None] + torch.arange(n)) % 3 != 1
    got = run_forward(q, k, v, tile=tile, blocks=blocks, mods=mods)
    check(got, dense(q, k, v, whole | (partial & mask)))


def test_block_lists_without_a_mask() -> None:
    q, k, v = inputs((1, 1, 1, 1, 37, 53, 16, 16))
    blocks, partial, whole = random_blocks(37, 53, (16, 32))
    check(run_forward(q, k, v, blocks=blocks), dense(q, k, v, whole | partial))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, at inf * 0
def test_rows_without_keys_ignore_values_that_are_not_numbers() -> None:
    q, k, v = inputs((1, 1, 1, 1, 20, 20, 16, 16))
    v[:] = torch.inf
    out, lse, peak, _ = run_forward(q, k, v, mods=mods_text(mask_mod="(q_idx + kv_idx) < 0"))
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all()) and bool((peak == -torch.inf).all())


@pytest.mark.parametrize("heads_at_once", [1, 2, 4, 100])
def test_any_order_of_tiles_gives_the_same(heads_at_once: int) -> None:
    q, k, v = inputs((1, 1, 3, 1, 37, 20, 16, 16))
    blocks, partial, whole = random_blocks(37, 20, (20, 16))
    tiles = row_tiles(37, blocks, 16)
    assert tiles == 4
    order = torch.randperm(tiles).int()
    got = run_forward(q, k, v, blocks=blocks, order=order, heads_at_once=heads_at_once)
    check(got, dense(q, k, v, whole | partial))


def test_tiles_are_those_of_the_order() -> None:
    """An order that names one tile four times leaves the others alone."""
    q, k, v = inputs((1, 1, 1, 1, 50, 20, 16, 16))
    out, *_ = run_forward(q, k, v, order=torch.full((4,), 1, dtype=torch.int32))
    assert bool(out[:, :, 16:32].isfinite().all())
    assert bool(out[:, :, :16].isnan().all()) and bool(out[:, :, 32:].isnan().all())


def test_first_fault_among_kept_pairs() -> None:
    """The mask drops the earliest; of the full block the hook is asked too."""
    q, k, v = inputs((1, 1, 2, 1, 20, 37, 16, 16))
    mods = mods_text(
        mask_mod="q_idx + 5 >= kv_idx",
        fault="(kv_idx >= 12) & (q_idx != 0) & (h == 1) & (score == score)",
    )
    keep = torch.arange(20)[:, None] + 5 >= torch.arange(37)
    want = dense(q, k, v, keep)
    check(run_forward(q, k, v, mods=mods), want, fault=(1 * 20 + 7) * 37 + 12)
    kind = torch.tensor([[[[0, 2, 1], [1, 0, 0]]]])
    one = torch.tensor([[[1, 1]]], dtype=torch.int32)
    blocks = Blocks(
        one, torch.tensor([[[[2], [0]]]]).int(), torch.tensor([[[1, 0]]]).int(),
        torch.tensor([[[[1], [-9]]]]).int(), 16, 16,
    )  # fmt: skip
    expand = kind[..., torch.arange(20) // 16, :][..., torch.arange(37) // 16]
    want = dense(q, k, v, (expand == 2) | ((expand == 1) & keep))
    check(run_forward(q, k, v, mods=mods, blocks=blocks), want, fault=(1 * 20 + 1) * 37 + 16)


def test_hooks_see_indices_inside_the_lengths() -> None:
    """A hook that notes the largest index of each kind, in memory of its own."""
    q, k, v = inputs((1, 1, 1, 1, 19, 37, 16, 16))
    noting = (
        "tl.atomic_max(captures[0] + 0 * {0}, {0})\ntl.atomic_max(captures[0] + 1 + 0 * {1}, {1})\n"
    )
    body = noting.format("q_idx", "kv_idx")
    mods = mods_text(mask_mod=body + "return q_idx >= 0", score_mod=body + "return score_log2")
    for blocks in (None, random_blocks(19, 37, (16, 16))[0]):
        seen = torch.zeros(2, dtype=torch.int32)
        run_forward(q, k, v, mods=mods, captures=(seen,), blocks=blocks)
        assert seen[0] <= 18 and seen[1] <= 36
        if blocks is None:
            assert seen.tolist() == [18, 36]


def test_faults_of_rows_that_another_tile_has() -> None:
    """Queries 7..9 alone have a key: the tile that ends at 7 sees them, and has no say there."""
    q, k, v = inputs((1, 1, 1, 1, 20, 16, 16, 16))
    one = torch.tensor([[[1, 0, 0]]], dtype=torch.int32)
    blocks = Blocks(one, torch.zeros(1, 1, 3, 1).int(), None, None, 7, 16)
    got = run_forward(q, k, v, blocks=blocks, mods=mods_text(fault="q_idx >= 7"))
    check(got, dense(q, k, v, (torch.arange(20) < 7)[:, None].expand(20, 16)))
