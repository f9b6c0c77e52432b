"""The decode and combine templates, interpreted: against dense float64."""

from __future__ import annotations

import pytest
import torch
from template_calls import Blocks, capture_arguments, mods_text, run_decode
from template_oracle import UNIT, check, dense, inputs, random_blocks

WINDOW = mods_text(mask_mod="(kv_idx <= q_idx + 30) & (kv_idx > q_idx + 11)")


def window(m: int, n: int) -> torch.Tensor:
    q, kv = torch.arange(m)[:, None], torch.arange(n)
    return (kv <= q + 30) & (kv > q + 11)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("dtype", list(UNIT))
def test_dtypes(dtype: torch.dtype, pack: bool) -> None:
    q, k, v = inputs((2, 1, 6, 2, 1, 53, 24, 40), dtype)
    check(run_decode(q, k, v, 3, pack=pack), dense(q, k, v))


@pytest.mark.parametrize("splits", [1, 2, 3, 8])  # more splits than tiles too
@pytest.mark.parametrize("n", [0, 1, 16, 50])
def test_splits_and_lengths(n: int, splits: int) -> None:
    q, k, v = inputs((1, 1, 3, 1, 2, n, 16, 16))
    check(run_decode(q, k, v, splits, descriptors=True), dense(q, k, v))


def test_parts_are_added_a_few_at_a_time() -> None:
    """16 rows of 128 columns leave room for 2 of the 5 parts."""
    q, k, v = inputs((1, 1, 2, 1, 1, 80, 16, 128))
    check(run_decode(q, k, v, 5, combine_rows=16), dense(q, k, v))


@pytest.mark.parametrize("pack", [True, False])
def test_rows_of_several_tiles(pack: bool) -> None:
    """3 heads times 19 queries are more rows than a tile of 16 or 32 has."""
    q, k, v = inputs((2, 2, 6, 2, 19, 53, 80, 16))
    got = run_decode(q, k, v, 2, mods=WINDOW, pack=pack, tile=(32 if pack else 16, 16))
    check(got, dense(q, k, v, window(19, 53)))


@pytest.mark.parametrize("scale", [-1.5, 0.0])
def test_scales(scale: float) -> None:
    q, k, v = inputs((1, 1, 2, 1, 2, 20, 16, 16))
    check(run_decode(q, k, v, 2, scale=scale), dense(q, k, v, scale=scale))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("block", [(64, 32), (20, 24), (7, 5), (128, 128)])
def test_block_lists(block: tuple[int, int], full: bool) -> None:
    q, k, v = inputs((1, 1, 4, 2, 5, 101, 16, 16))
    blocks, partial, whole = random_blocks(5, 101, block, full=full)
    got = run_decode(q, k, v, 3, blocks=blocks, mods=WINDOW)
    check(got, dense(q, k, v, whole | (partial & window(5, 101))))


def test_block_lists_of_each_head() -> None:
    q, k, v = inputs((2, 1, 4, 2, 5, 67, 16, 16))
    blocks, partial, whole = random_blocks(5, 67, (16, 16), shape=(2, 4))
    got = run_decode(q, k, v, 2, blocks=blocks, mods=WINDOW, pack=False)
    check(got, dense(q, k, v, whole | (partial & window(5, 67))))


def test_a_full_block_beyond_the_end_is_split_too() -> None:
    q, k, v = inputs((1, 1, 1, 1, 2, 41, 16, 16))
    full = torch.tensor([[[[0, 1]]]]).int()
    none, two = torch.tensor([[[0]]]).int(), torch.tensor([[[2]]]).int()
    blocks = Blocks(none, full, two, full, 16, 32)
    for splits in (1, 2, 3, 4):
        check(run_decode(q, k, v, splits, blocks=blocks), dense(q, k, v))


@pytest.mark.parametrize("pack", [True, False])
def test_hooks_see_the_head_of_each_row(pack: bool) -> None:
    q, k, v = inputs((2, 2, 6, 2, 3, 37, 16, 16), torch.float64)
    slope = torch.rand(6, dtype=torch.float64)
    mods = mods_text(
        hoist_uniform="(tl.load(captures[0] + h * captures[2]) * 1.4426950408889634,)",
        hoist_q="(q_idx + 3 * h,)",
        hoist_kv="(kv_idx + b,)",
        mask_mod="(qv[0] + kvv[0]) % 4 != 1",
        score_mod="score_log2 + u[0] * (kv_idx - q_idx)",
    )
    i, j = torch.arange(3)[:, None], torch.arange(37)
    head, batch = torch.arange(6).view(6, 1, 1), torch.arange(2).view(2, 1, 1, 1)
    keep = (i + 3 * head + j + batch) % 4 != 1
    got = run_decode(q, k, v, 2, mods=mods, captures=capture_arguments((slope,)), pack=pack)
    check(got, dense(q, k, v, keep, lambda s, b, h, i, j: s + slope[h] * (j - i)))


@pytest.mark.parametrize("pack", [True, False])
def test_first_fault(pack: bool) -> None:
    q, k, v = inputs((1, 1, 4, 2, 3, 37, 16, 16))
    mods = mods_text(mask_mod="kv_idx % 2 == 1", fault="(kv_idx >= 20) & (h == 3) & (q_idx > 0)")
    keep = torch.arange(37) % 2 == 1
    got = run_decode(q, k, v, 2, mods=mods, pack=pack)
    check(got, dense(q, k, v, keep), fault=(3 * 3 + 1) * 37 + 21)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, at inf * 0
@pytest.mark.parametrize("combine_rows", [1, 8])
def test_splits_without_keys_of_a_row(combine_rows: int) -> None:
    """Values that are inf count only where a key is kept, and rows without one are 0."""
    q, k, v = inputs((1, 1, 2, 1, 40, 37, 16, 24))
    keep = window(40, 37)
    assert bool((~keep.any(-1)).any())
    got = run_decode(q, k, v, 3, mods=WINDOW, combine_rows=combine_rows)
    check(got, dense(q, k, v, keep))
    v[:] = torch.inf
    out = run_decode(q, k, v, 3, mods=mods_text(mask_mod="(q_idx + kv_idx) < 0"))[0]
    assert bool((out == 0).all())
