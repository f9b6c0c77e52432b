"""Tiles of Triton kernels: a preferred one per case, shrunk until its estimates fit the target."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flexattn.errors import TargetError
from flexattn.ir.nodes import Input, Load, walk
from flexattn.ir.program import Program
from flexattn.kernel.targets import Target
from flexattn.kernel.triton_preferred import preferred_tile

SIZES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_LEAST = 16  # of what tl.dot sums over; its other sides may be smaller on NVIDIA's GPUs


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
        cost: What ``cost_of`` tells of the mods.

    Raises:
        TargetError: Not even the smallest tile fits.
    """
    first = _first(kernel, target, dtype, D, DV, block, cost)
    return _fitted(kernel, first, target, dtype, D, DV, block)


def candidates(
    kernel: str,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    *,
    block: tuple[int, int] | None = None,
    cost: str = "plain",
) -> tuple[Tile, ...]:
    """Tiles worth measuring, all of which fit; the one that is chosen unmeasured first."""
    first = _first(kernel, target, dtype, D, DV, block, cost)
    variants = [
        first,
        replace(first, num_stages=first.num_stages + 1),
        replace(first, num_stages=max(1, first.num_stages - 1)),
        replace(first, num_warps=12 - first.num_warps),  # 4 and 8
        replace(first, bn=2 * first.bn),
        replace(first, bn=max(_LEAST, first.bn // 2)),
        replace(first, bm=2 * first.bm),
        replace(first, bm=max(_LEAST, first.bm // 2)),
    ]
    fitted = [_fitted(kernel, tile, target, dtype, D, DV, block) for tile in variants]
    return tuple(dict.fromkeys(fitted))


@functools.cache
def _fitted(
    kernel: str,
    tile: Tile,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    block: tuple[int, int] | None,
) -> Tile:
    for smaller in _shrunk(kernel, _for_blocks(kernel, tile, block), target):
        if is_legal(kernel, smaller, target, dtype, D, DV):
            return smaller
    raise TargetError(
        f"no tile of the {kernel} kernel fits {target.name}.",
        why=f"head dims {D} and {DV} of {dtype} take more than its {target.shared_limit} bytes of "
        "shared memory.",
        fix="use a narrower dtype, smaller heads, or another GPU.",
    )


def _first(
    kernel: str,
    target: Target,
    dtype: str,
    D: int,
    DV: int,
    block: tuple[int, int] | None,
    cost: str,
) -> Tile:
    heavy, masked = cost == "heavy", block is not None
    return Tile(*preferred_tile(kernel, target, dtype, D, DV, heavy=heavy, masked=masked))


@functools.lru_cache(maxsize=1024)
def cost_of(program: Program) -> str:
    """What the mods cost a tile: ``heavy`` if they load captured values for each key or query."""
    loads = (node for node in walk(program.score, program.mask) if isinstance(node, Load))
    varying = (node for load in loads for node in walk(*load.indices) if isinstance(node, Input))
    return "heavy" if any(node.name in ("q_idx", "kv_idx") for node in varying) else "plain"


def takes_descriptors(target: Target, dtype: str, D: int, DV: int) -> bool:
    """Whether descriptors (TMA) load tiles well; wider ones go through registers, and spill."""
    wide = SIZES[dtype] > 2 or max(D, DV) > 256
    return target.backend == "cuda" and int(target.arch) >= 90 and not wide


def is_legal(kernel: str, tile: Tile, target: Target, dtype: str, D: int, DV: int) -> bool:
    """Whether a kernel with this tile fits the shared memory and the registers of ``target``."""
    if shared_bytes(kernel, tile, target, dtype, D, DV) > target.shared_limit:
        return False
    least = min(tile.bm, tile.bn) <= _LEAST  # what then does not fit is spilled: slow, and right
    return least or registers(kernel, tile, target, dtype, D, DV) <= _register_limit(target)


def shared_bytes(kernel: str, tile: Tile, target: Target, dtype: str, D: int, DV: int) -> int:
    """Bytes of shared memory that a program takes, estimated from above."""
    size, stages = SIZES[dtype], tile.num_stages
    if target.backend == "interpreter" or kernel == "classes":
        return 4096
    if kernel in ("combine", "delta"):  # sums between warps
        return max(4096, 2 * tile.bm * sum(chunks(DV)) * max(4, size))
    owned, walked = _sides(kernel, tile)
    own_columns, columns, results = _columns(kernel, D, DV)
    own, loop = owned * own_columns * size, walked * columns * size
    scores = tile.bm * tile.bn * size * (2 if kernel == "dkdv" else 1)
    if kernel == "dq":  # sums of captured gradients along diagonals skew a tile of scores
        scores = max(scores, tile.bm * tile.bn * max(4, size) * 9 // 8)
    if target.backend == "hip":
        if stages == 1:  # one operand at a time changes its layout there
            widest = max(chunks(D)[0], chunks(DV)[0])
            return max(max(tile.bm, tile.bn) * widest * size, scores)
        return max(own, (stages - 1) * loop + 2 * scores)
    rest = scores + 8 * walked * stages + 1024  # row values, sums between warps, barriers
    tensor_cores = int(target.arch) in (80, 90)  # those for float64
    if dtype == "f64" and owned == 2 and not tensor_cores:  # keys are done with before values
        loop = walked * max(sum(chunks(D)), sum(chunks(DV))) * size
    elif dtype == "f64" and kernel == "dkdv":
        twice = walked * max(chunks(D)[0], chunks(DV)[0]) * size if tensor_cores else 0
        rest += 2 * scores + twice if tile.num_warps > 1 else twice // 8
    elif dtype == "f64" and kernel != "dq" and stages == 1:  # keys are done with before values
        loop = walked * max(own_columns, columns - own_columns) * size
    if int(target.arch) // 10 in (10, 11):
        rest = max(rest, owned * results * size + 1024)
    if dtype == "f32" and int(target.arch) >= 90 and stages > 1:
        stages += 1  # the halves that a product in three parts is made of
    if size == 2 and int(target.arch) < 90:
        stages = max(1, stages - 1)
    return own + stages * loop + rest


def registers(kernel: str, tile: Tile, target: Target, dtype: str, D: int, DV: int) -> int:
    """Registers per thread that accumulators and scores of a tile take at least."""
    threads = tile.num_warps * target.warp
    owned, _ = _sides(kernel, tile)
    results = _columns(kernel, D, DV)[2]
    if target.backend == "cuda" and int(target.arch) // 10 in (10, 11) and dtype != "f64":
        results = 0  # kept in tensor memory
    scores = tile.bm * tile.bn * (1 if kernel in ("forward", "decode") else 2)
    return (owned * results + scores) * (2 if dtype == "f64" else 1) // threads


def _register_limit(target: Target) -> int:
    # Of 255, and of 512 with AMD's accumulation registers; operands and mods need some too.
    return 400 if target.backend == "hip" else 208


def _sides(kernel: str, tile: Tile) -> tuple[int, int]:
    """(rows that a program owns, rows of a tile that it walks over)."""
    return (tile.bn, tile.bm) if kernel == "dkdv" else (tile.bm, tile.bn)


def _columns(kernel: str, D: int, DV: int) -> tuple[int, int, int]:
    """Columns of what a program owns, of what it walks over, and of its results."""
    d, dv = sum(chunks(D)), sum(chunks(DV))
    if kernel in ("forward", "decode"):
        return d, d + dv, dv
    return d + dv, d + dv, (d if kernel == "dq" else d + dv)


def _for_blocks(kernel: str, tile: Tile, block: tuple[int, int] | None) -> Tile:
    """The tile cut to the mask's blocks: what is walked over divides them, where that can be."""
    if block is None or kernel in ("combine", "delta", "classes"):
        return tile
    owned, walked = _sides(kernel, tile)
    own_block, block_walked = (block[1], block[0]) if kernel == "dkdv" else block
    while kernel != "decode" and owned > _LEAST and owned > own_block:
        owned //= 2
    while walked > _LEAST and block_walked % _LEAST == 0 and block_walked % walked:
        walked //= 2
    bm, bn = (walked, owned) if kernel == "dkdv" else (owned, walked)
    return replace(tile, bm=bm, bn=bn)


def _shrunk(kernel: str, tile: Tile, target: Target) -> Iterator[Tile]:
    """The tile, then smaller ones: fewer stages, then fewer walked rows, then fewer owned ones."""
    owned, walked = _sides(kernel, tile)
    least = 2 if target.backend == "cuda" else _LEAST
    while True:
        bm, bn = (walked, owned) if kernel == "dkdv" else (owned, walked)
        for stages in range(tile.num_stages, 0, -1):
            yield replace(tile, bm=bm, bn=bn, num_stages=stages)
        if walked > _LEAST and (walked > 32 or owned <= 32):
            walked //= 2
        elif owned > least:
            owned //= 2
        else:
            yield replace(tile, bm=bm, bn=bn, num_warps=1, num_stages=1)
            return
