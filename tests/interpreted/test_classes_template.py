"""The classes template, interpreted: against counting the pairs of each block."""

from __future__ import annotations

import pytest
import torch
from template_calls import NO_FAULT, capture_arguments, mods_text, run_classes
from torch import Tensor

CAUSAL = mods_text(mask_mod="q_idx >= kv_idx")


def counted(keep: Tensor, block: tuple[int, int]) -> Tensor:
    """0, 1 or 2 for blocks of bool [B, H, M, N]; what lies outside counts for nothing."""
    rows = [x.unbind(2) for x in keep.split(block[0], 2)]
    parts = [torch.stack(r, 2).split(block[1], 3) for r in rows]
    found = [[1 + p.all(-1).all(-1).int() - (~p.any(-1).any(-1)).int() for p in r] for r in parts]
    return torch.stack([torch.stack(r, -1) for r in found], -2).to(torch.uint8)


def triangle(m: int, n: int) -> Tensor:
    return (torch.arange(m)[:, None] >= torch.arange(n))[None, None]


@pytest.mark.parametrize("tile", [(16, 16), (16, 64)])
@pytest.mark.parametrize("block", [(16, 16), (32, 20), (7, 5), (64, 64), (1, 40)])
def test_causal(block: tuple[int, int], tile: tuple[int, int]) -> None:
    m, n = (5, 50) if block[0] == 1 else (41, 50)
    got, fault = run_classes((1, 1, m, n), block, CAUSAL, tile=tile)
    assert fault == NO_FAULT
    assert torch.equal(got, counted(triangle(m, n), block))


def test_all_and_none() -> None:
    for body, wanted in (("q_idx >= 0", 2), ("kv_idx < 0", 0)):
        got, _ = run_classes((2, 2, 20, 20), (16, 16), mods_text(mask_mod=body))
        assert bool((got == wanted).all())


@pytest.mark.parametrize("pair", [(0, 0), (31, 63), (16, 15)])
def test_one_pair_makes_a_block_partial(pair: tuple[int, int]) -> None:
    """A pair in any tile of a block of several, which is kept alone, or dropped alone."""
    at = f"(q_idx == {pair[0]}) & (kv_idx == {pair[1]})"
    for body, other in ((at, 0), (f"({at}) == 0", 2)):
        got, _ = run_classes((1, 1, 64, 64), (32, 64), mods_text(mask_mod=body))
        assert got.flatten().tolist() == [1, other]


def test_captures_batches_heads_and_hoisted_values() -> None:
    ids = torch.randint(0, 3, (2, 40)).sort(-1).values
    mods = mods_text(
        hoist_uniform="(h * 2,)",
        hoist_q="(tl.load(captures[0] + b * captures[3] + q_idx * captures[4]),)",
        hoist_kv="(tl.load(captures[0] + b * captures[3] + kv_idx * captures[4]),)",
        mask_mod="(qv[0] == kvv[0]) & (q_idx + u[0] >= kv_idx)",
    )
    got, _ = run_classes((2, 3, 40, 40), (16, 16), mods, captures=capture_arguments((ids,)))
    i, j, h = torch.arange(40)[:, None], torch.arange(40), torch.arange(3).view(3, 1, 1)
    keep = (ids[:, None, :, None] == ids[:, None, None, :]) & (i + 2 * h >= j)
    assert torch.equal(got, counted(keep, (16, 16)))


def test_listed_blocks() -> None:
    everything = counted(triangle(41, 50).expand(2, 2, -1, -1), (16, 16)).flatten()
    listed = torch.randperm(len(everything))[:11].int()
    got, _ = run_classes((2, 2, 41, 50), (16, 16), CAUSAL, listed=listed)
    assert torch.equal(got, everything[listed.long()])


def test_first_fault_of_kept_pairs() -> None:
    mods = mods_text(mask_mod="q_idx >= kv_idx", fault="(kv_idx >= 17) & (h == 1)")
    _, fault = run_classes((1, 2, 20, 30), (16, 16), mods)
    assert fault == (20 + 17) * 30 + 17
