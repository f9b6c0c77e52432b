"""Preferred tiles of Triton kernels per GPU, dtype and head dim: what compiles without spilling.

A row is (widest head dim it is for, (BM, BN, warps, stages)); BM counts queries, BN keys. Hopper's
for 16-bit inputs were the fastest of four to eight on an H200 with a causal mask, at head dims 64,
128 and 256, and of 18 when decoding, at 128 (docs/gpu.md): up to 128, programs of four warps, two
or more on a processor, beat one of eight warps with larger tiles even where some registers are
spilled. The others are chosen from compiled code: no registers spilled in inner loops, and as
large as that allows.
"""

from __future__ import annotations

from typing import TypeAlias

from flexattn.kernel.targets import Target

Row: TypeAlias = tuple[int, tuple[int, int, int, int]]

_WIDEST = 1 << 30

# Kernels for 16-bit inputs, by family of GPUs.
_HALF: dict[tuple[str, str], tuple[Row, ...]] = {
    ("forward", "ampere"): (
        (64, (128, 64, 8, 3)), (128, (128, 64, 8, 3)), (192, (128, 32, 8, 2)),
        (256, (64, 32, 8, 2)), (_WIDEST, (32, 16, 4, 1)),
    ),
    ("forward", "hopper"): (
        (128, (64, 64, 4, 3)), (256, (128, 64, 8, 2)), (_WIDEST, (64, 16, 8, 2)),
    ),
    ("forward", "blackwell"): (
        (64, (128, 64, 8, 3)), (192, (128, 64, 8, 2)), (256, (128, 32, 8, 2)),
        (_WIDEST, (64, 16, 8, 2)),
    ),
    ("forward", "amd"): (
        (64, (128, 64, 4, 1)), (128, (128, 32, 4, 1)), (256, (64, 32, 4, 1)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
    ("decode", "ampere"): (
        (64, (16, 128, 4, 3)), (128, (16, 64, 4, 3)), (_WIDEST, (16, 32, 4, 2)),
    ),
    ("decode", "hopper"): (
        (128, (16, 32, 4, 3)), (256, (16, 64, 4, 3)), (_WIDEST, (16, 32, 4, 2)),
    ),
    ("decode", "blackwell"): (
        (128, (16, 128, 4, 3)), (256, (16, 64, 4, 3)), (_WIDEST, (16, 32, 4, 2)),
    ),
    ("decode", "amd"): ((64, (16, 64, 4, 1)), (128, (16, 32, 4, 1)), (_WIDEST, (16, 16, 4, 1))),
    ("dq", "ampere"): (
        (64, (128, 64, 8, 3)), (128, (128, 64, 8, 2)), (192, (128, 32, 8, 2)),
        (256, (64, 64, 8, 2)), (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dq", "hopper"): (
        (64, (64, 64, 4, 3)), (128, (64, 64, 4, 2)), (192, (128, 64, 8, 2)), (256, (64, 16, 4, 3)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dq", "blackwell"): (
        (64, (128, 64, 4, 2)), (128, (128, 64, 8, 2)), (192, (128, 64, 8, 2)),
        (256, (64, 32, 8, 2)), (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dq", "amd"): (
        (64, (128, 64, 4, 1)), (128, (128, 32, 4, 1)), (256, (64, 32, 4, 1)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dkdv", "ampere"): (
        (64, (64, 64, 4, 3)), (128, (64, 64, 8, 2)), (192, (64, 32, 4, 2)), (256, (32, 64, 8, 2)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dkdv", "hopper"): (
        (64, (64, 64, 4, 3)), (128, (64, 64, 4, 2)), (192, (64, 64, 8, 2)), (256, (64, 64, 8, 1)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dkdv", "blackwell"): (
        (64, (64, 128, 8, 2)), (128, (64, 64, 8, 2)), (192, (64, 64, 8, 1)),
        (256, (32, 64, 8, 1)), (_WIDEST, (16, 16, 4, 1)),
    ),
    ("dkdv", "amd"): (
        (64, (32, 64, 4, 1)), (192, (32, 64, 4, 1)), (256, (16, 64, 4, 1)),
        (_WIDEST, (16, 16, 4, 1)),
    ),
}  # fmt: skip
# Where the mods load captured values in the inner loop, whose addresses need registers.
_HEAVY: dict[tuple[str, str], tuple[Row, ...]] = {
    ("forward", "ampere"): ((64, (128, 64, 8, 3)), (128, (128, 32, 8, 3))),
    ("forward", "hopper"): (
        (128, (128, 64, 8, 3)), (192, (128, 64, 8, 2)), (256, (128, 32, 8, 2)),
    ),
}  # fmt: skip
# Without a block mask there is one loop less, and code for wider tiles.
_UNMASKED: dict[tuple[str, str], tuple[Row, ...]] = {
    ("forward", "blackwell"): ((64, (128, 64, 8, 3)), (128, (128, 128, 8, 2))),
}
# float32 takes three products for one, and float64 has few tensor cores or none.
_SINGLE: dict[str, tuple[Row, ...]] = {
    "forward": ((64, (64, 32, 4, 2)), (128, (64, 32, 8, 2)), (256, (32, 32, 8, 1)),
                (_WIDEST, (16, 16, 4, 1))),
    "decode": ((128, (16, 64, 4, 2)), (256, (16, 32, 4, 2)), (_WIDEST, (16, 16, 4, 1))),
    "dq": ((128, (32, 32, 4, 1)), (_WIDEST, (16, 16, 4, 1))),
    "dkdv": ((64, (32, 32, 4, 1)), (128, (32, 32, 8, 1)), (_WIDEST, (16, 16, 4, 1))),
}  # fmt: skip
_DOUBLE: dict[str, tuple[Row, ...]] = {
    "forward": ((64, (32, 16, 4, 1)), (_WIDEST, (16, 16, 4, 1))),
    "decode": ((_WIDEST, (16, 16, 4, 1)),),
    "dq": ((_WIDEST, (16, 16, 4, 1)),),
    "dkdv": ((_WIDEST, (16, 16, 4, 1)),),
}
_INTERPRETED = {"decode": (16, 32, 4, 1), "classes": (64, 64, 4, 1)}


def preferred_tile(
    kernel: str, target: Target, dtype: str, D: int, DV: int, *, heavy: bool, masked: bool
) -> tuple[int, int, int, int]:
    """(BM, BN, warps, stages) for a kernel, where shared memory is no matter."""
    widest = max(D, DV)
    if target.backend == "interpreter":
        return _INTERPRETED.get(kernel, (32, 32, 4, 1))
    if kernel == "classes":
        return 32, 64, 4, 1
    if kernel in ("combine", "delta"):
        # Few rows are to be combined: all processors are to have some.
        return (16 if kernel == "delta" and widest <= 256 else 4), 16, 4, 1
    family = _family(target)
    if dtype == "f64":
        rows = _DOUBLE[kernel]
    elif dtype == "f32":
        rows = _SINGLE[kernel]
    else:
        rows = _HALF[kernel, family]
        if heavy:
            rows = _HEAVY.get((kernel, family), ()) + rows
        elif not masked:
            rows = _UNMASKED.get((kernel, family), ()) + rows
    return next(tile for limit, tile in rows if widest <= limit)


def _family(target: Target) -> str:
    if target.backend == "hip":
        return "amd"
    generation = int(target.arch) // 10
    if generation in (10, 11):
        return "blackwell"
    return "hopper" if generation == 9 else "ampere"
