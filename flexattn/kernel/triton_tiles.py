"""Tiles of Triton kernels: a preferred one per case, shrunk until its estimate fits the target."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from flexattn.kernel.targets import Target

SIZES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}
COSTS = ("plain", "light", "heavy")


@dataclass(frozen=True)
class Tile:
    """Size of the tile that a program works on, and how it is worked on.

    Attributes:
        bm: Queries (decode: rows of queries and heads; combine and delta: rows).
        bn: Keys.
        num_warps: Warps per program.
        num_stages: Tiles in flight, of which one is being computed with.
    """

    bm: int
    bn: int
    num_warps: int
    num_stages: int


def chunks(D: int) -> tuple[int, int]:
    """The two powers of two (the second may be 0) that cover a head dim; 96 → (64, 32)."""
    whole = 1 << max(4, D.bit_length() - 1)
    if whole >= D:
        return whole, 0
    rest = max(16, 1 << (D - whole - 1).bit_length())
    return (2 * whole, 0) if rest == whole else (whole, rest)


def choose_tile(
    kernel: str,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    *,
    block: tuple[int, int] | None = None,
    cost: str = "plain",
) -> Tile:
    """A tile whose estimates fit ``target``.

    Args:
        kernel: Name of a spec (`kernel/triton_spec.py`).
        target: Which GPU.
        dtype: Storage dtype of q, k, v: f32 bf16 f16 f64.
        D: Head dim of queries and keys.
        DV: Head dim of values.
        block: (queries, keys) of the mask's blocks; None without a mask.
        cost: What the mods add to each score: plain, light or heavy (`kernel/triton_cost.py`).
    """
    return _chosen(kernel, target, dtype, D, DV, block, cost)


@functools.cache
def _chosen(
    kernel: str,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    block: tuple[int, int] | None,
    cost: str,
) -> Tile:
    tile = _preferred(kernel, target, dtype, max(D, DV), cost)
    if block is not None and kernel != "decode":
        tile = _for_blocks(tile, block)
    for smaller in _shrunk(tile):
        if is_legal(kernel, smaller, target, dtype, D, DV):
            return smaller
    return Tile(16, 16, 4, 1)


def is_legal(kernel: str, tile: Tile, target: Target, dtype: str, D: int, DV: int) -> bool:
    """Whether the estimates fit."""
    return shared_bytes(kernel, tile, target, dtype, D, DV) <= target.shared_limit


def shared_bytes(kernel: str, tile: Tile, target: Target, dtype: str, D: int, DV: int) -> int:
    """Bytes of shared memory that a program takes, estimated from above."""
    size = SIZES[dtype]
    bm, bn, stages = tile.bm, tile.bn, tile.num_stages
    if target.backend == "interpreter" or kernel in ("combine", "delta", "classes"):
        return 1024
    d, dv = sum(chunks(D)), sum(chunks(DV))
    rows, keys = bm * size, bn * size
    if kernel in ("forward", "decode"):
        return rows * d + stages * keys * (d + dv) + 1024
    if kernel == "dq":
        return rows * (d + dv) + stages * keys * (d + dv) + rows * bn + 1024
    return keys * (d + dv) + stages * rows * (d + dv) + rows * bn + 1024


def _preferred(kernel: str, target: Target, dtype: str, widest: int, cost: str) -> Tile:
    if target.backend == "interpreter":
        return Tile(32, 32, 4, 1) if kernel != "decode" else Tile(16, 32, 4, 1)
    if kernel == "classes":
        return Tile(32, 64, 4, 1)
    if kernel in ("combine", "delta"):
        return Tile(16, 16, 4, 1)
    if dtype == "f64":
        return Tile(32 if widest <= 64 else 16, 16, 4, 1)
    if dtype == "f32":
        return Tile(64 if widest <= 128 else 32, 32, 4, 2)
    if kernel == "decode":
        return Tile(16, 128 if widest <= 128 else 32, 4, 3)
    if kernel == "forward":
        if widest <= 128:
            return Tile(128, 64, 4 if widest <= 64 else 8, 3)
        return Tile(64, 64, 4, 2)
    return Tile(64, 64, 4, 2) if widest <= 128 else Tile(32, 32, 4, 2)


def _for_blocks(tile: Tile, block: tuple[int, int]) -> Tile:
    """The tile cut so that it divides the mask's blocks, where that is possible."""
    bm, bn = tile.bm, tile.bn
    while bm > 16 and bm > block[0]:
        bm //= 2
    if block[1] % 16 == 0:
        while bn > 16 and block[1] % bn:
            bn //= 2
    return Tile(bm, bn, tile.num_warps, tile.num_stages)


def _shrunk(tile: Tile) -> Iterator[Tile]:
    """The tile, then smaller ones: fewer stages first, then fewer keys, then fewer queries."""
    bm, bn = tile.bm, tile.bn
    while True:
        warps = min(tile.num_warps, max(4, bm // 16))
        for stages in range(tile.num_stages, 0, -1):
            yield Tile(bm, bn, warps, stages)
        if bn > 16:
            bn //= 2
        elif bm > 16:
            bm //= 2
        else:
            return
