"""tiles.cpp against the mask written out."""

from __future__ import annotations

import pytest
import torch
from mods_text import CAUSAL, FAULTY, HOLES
from template_kernels import BEST, build, call, isa_levels
from torch import Tensor

PER_HEAD = """
static VM mask_mod(const Site& s, i64 i, i64 j) {
  return to_mask(s.q_idx<VI>(i) + int(s.b) * 10 + int(s.h) * 40 >= splat<VI>(s.kv_idx<int>(j)));
}
"""


def classes(
    mods: str,
    isa: int,
    shape: tuple[int, int, int, int],
    block: tuple[int, int],
    *,
    at: tuple[int, int, int] = (0, 0, 0),
    rows: int | None = None,
    threads: int = 1,
    fault: Tensor | None = None,
    listed: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, int]:
    b, h, m, n = shape
    rows = -(-m // block[0]) - at[2] if rows is None else rows
    cols = -(-n // block[1])
    sizes = (b - at[0], h - at[1], rows, cols)
    out = torch.full(sizes if listed is None else listed.shape, 9, dtype=torch.uint8)
    status = call(
        build("tiles", mods, dtype=dtype, isa=isa),
        "tiles",
        {
            **dict(zip(("b0", "h0", "row0"), at, strict=True)),
            **dict(zip(("B", "H", "rows", "cols"), sizes, strict=True)),
            **dict(zip(("M", "N", "q_block", "kv_block"), (m, n, *block), strict=True)),
            "classes": out,
            "listed": listed,
            "count": 0 if listed is None else len(listed),
            "threads": threads,
            "fault": fault,
        },
    )
    return out, status


def brute_force(mask: Tensor, block: tuple[int, int]) -> Tensor:
    """mask [B, H, M, N]"""
    *_, m, n = mask.shape
    rows = [mask[:, :, r : r + block[0]] for r in range(0, m, block[0])]
    cells = [[row[..., c : c + block[1]] for c in range(0, n, block[1])] for row in rows]
    return torch.stack(
        [
            torch.stack([c.flatten(2).any(2) * 1 + c.flatten(2).all(2) * 1 for c in row], -1)
            for row in cells
        ],
        -2,
    ).to(torch.uint8)


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("block", [(128, 128), (1, 1), (48, 20), (7, 300), (200, 1000)])
def test_classes(isa: int, block: tuple[int, int]) -> None:
    m, n = 150, 301
    q, kv = torch.arange(m)[:, None], torch.arange(n)
    offset = torch.arange(2)[:, None, None, None] * 10 + torch.arange(3)[:, None, None] * 40
    for mods, mask in (
        (CAUSAL, (q >= kv)[None, None]),
        (HOLES, ((q % 2 == 0) & ((q + kv) % 3 == 0))[None, None]),
        (PER_HEAD, q + offset >= kv),
        ("", torch.ones(1, 1, m, n, dtype=torch.bool)),
    ):
        b, h = mask.shape[:2]
        got, status = classes(mods, isa, (b, h, m, n), block, threads=2)
        assert status == 0
        assert torch.equal(got, brute_force(mask, block))


def test_a_part_of_the_mask() -> None:
    whole, _ = classes(PER_HEAD, BEST, (2, 3, 150, 301), (16, 32))
    part, _ = classes(PER_HEAD, BEST, (2, 3, 150, 301), (16, 32), at=(1, 1, 4), rows=3)
    assert torch.equal(part, whole[1:, 1:, 4:7])


def test_listed_blocks() -> None:
    whole, _ = classes(PER_HEAD, BEST, (2, 3, 150, 301), (16, 32))
    listed = torch.tensor([0, 599, 17, 17, 333, 100])
    assert whole.numel() == 600
    for threads in (1, 2):
        got, _ = classes(PER_HEAD, BEST, (2, 3, 150, 301), (16, 32), threads=threads, listed=listed)
        assert torch.equal(got, whole.flatten()[listed])


def test_float64_and_length_zero() -> None:
    double, _ = classes(CAUSAL, BEST, (1, 1, 99, 99), (10, 10), dtype=torch.float64)
    assert torch.equal(double, classes(CAUSAL, BEST, (1, 1, 99, 99), (10, 10))[0])
    for m, n in ((0, 5), (5, 0)):
        got, status = classes(CAUSAL, BEST, (1, 1, m, n), (8, 8))
        assert status == 0
        assert got.numel() == 0


def test_the_first_fault_is_reported() -> None:
    fault = torch.full((4,), -1)
    _, status = classes(FAULTY, BEST, (2, 2, 150, 301), (64, 64), fault=fault, threads=2)
    assert status == 1
    assert fault.tolist() == [0, 0, 3, 2]
