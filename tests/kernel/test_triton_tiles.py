"""Every head dim has a tile that fits every GPU, and estimates are not below what Triton takes."""

from __future__ import annotations

import itertools

import pytest
import torch

import flexattn
from flexattn.errors import TargetError
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Input, Load
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel.targets import TARGETS, cuda_target, hip_target, target
from flexattn.kernel.triton_tiles import (
    SIZES,
    Tile,
    candidates,
    choose_tile,
    chunks,
    cost_of,
    is_legal,
    shared_bytes,
)

WALKED = {"forward": ("bn", 1), "decode": ("bn", 1), "dq": ("bn", 1), "dkdv": ("bm", 0)}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", WALKED)
def test_every_head_dim_has_a_tile(name: str, kernel: str) -> None:
    widest = 576 if kernel in ("forward", "decode") else 256
    dims = [(d, d) for d in range(1, widest + 1)] + [(192, 128), (576, 512)]
    for dtype, (D, DV) in itertools.product(SIZES, dims):
        tile = choose_tile(kernel, target(name), dtype, D, DV)
        assert is_legal(kernel, tile, target(name), dtype, D, DV)
        assert shared_bytes(kernel, tile, target(name), dtype, D, DV) <= target(name).shared_limit
        assert getattr(tile, WALKED[kernel][0]) >= 16 and tile.num_stages >= 1


def test_what_fits_no_gpu_is_told() -> None:
    with pytest.raises(TargetError, match="no tile of the dkdv kernel fits sm_89"):
        choose_tile("dkdv", target("sm_89"), "f64", 2048, 2048)


@pytest.mark.parametrize("kernel", WALKED)
@pytest.mark.parametrize("block", [(128, 128), (64, 32), (48, 96), (16, 16), (1 << 20, 1 << 20)])
def test_tiles_divide_the_blocks_of_the_mask(kernel: str, block: tuple[int, int]) -> None:
    side, place = WALKED[kernel]
    for name in TARGETS:
        tile = choose_tile(kernel, target(name), "bf16", 64, 64, block=block)
        assert block[place] % getattr(tile, side) == 0


def test_odd_blocks_leave_the_tile() -> None:
    plain = choose_tile("forward", target("sm_90"), "bf16", 64, 64, block=(128, 128))
    assert choose_tile("forward", target("sm_90"), "bf16", 64, 64, block=(128, 100)) == plain


def test_candidates_fit_and_begin_with_the_choice() -> None:
    for kernel in WALKED:
        found = candidates(kernel, target("sm_89"), "f32", 128, 128, block=(128, 128))
        assert found[0] == choose_tile(kernel, target("sm_89"), "f32", 128, 128, block=(128, 128))
        assert len(found) == len(set(found)) > 2
        assert all(is_legal(kernel, tile, target("sm_89"), "f32", 128, 128) for tile in found)


def test_chunks() -> None:
    wanted = {1: (16, 0), 16: (16, 0), 40: (32, 16), 72: (64, 16), 80: (64, 16), 96: (64, 32)}
    wanted |= {100: (128, 0), 112: (128, 0), 192: (128, 64), 240: (256, 0), 576: (512, 64)}
    assert {D: chunks(D) for D in wanted} == wanted
    for D in range(1, 577):
        first, second = chunks(D)
        assert first + second >= D and all(n & (n - 1) == 0 for n in (first, second))
        assert second == 0 or 16 <= second < first < D


def test_gathers_are_dear() -> None:
    h, q_idx, kv_idx = (Input(name, I64) for name in ("h", "q_idx", "kv_idx"))
    table = (CaptureType("i64", 1),)
    per_head = Apply("add", (Input("score", F32), Load(0, (h,), F32)), F32)
    document = Apply("eq", (Load(0, (q_idx,), I64), Load(0, (kv_idx,), I64)), BOOL)
    assert cost_of(Program(per_head, None, (CaptureType("f32", 1),))) == "plain"
    assert cost_of(Program(None, document, table)) == "heavy"
    assert cost_of(Program(None, Apply("ge", (q_idx, kv_idx), BOOL))) == "plain"


@pytest.mark.parametrize(
    ("name", "direction", "dtype", "head_dim"),
    [
        ("sm_80", "bwd", "float32", 48),
        ("sm_89", "fwd", "float64", 72),
        ("sm_90", "fwd", "float32", (40, 64)),
        ("sm_100", "bwd", "float16", 32),
        ("sm_80", "bwd", "float64", (576, 512)),
        ("sm_89", "bwd", "float64", (576, 512)),
        ("gfx942", "fwd", "bfloat16", (192, 128)),
    ],
)
def test_the_estimate_is_not_below_what_triton_takes(
    name: str, direction: str, dtype: str, head_dim: int
) -> None:
    causal = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx  # noqa: E731
    facts = flexattn.compile_only(
        causal, name, direction=direction, dtype=getattr(torch, dtype), head_dim=head_dim
    )
    D, DV = facts["head_dim"]
    for kernel, part in facts["kernels"].items():
        each = part["tile"]
        tile = Tile(each["bm"], each["bn"], each["warps"], each["stages"])
        estimate = shared_bytes(kernel, tile, target(name), facts["dtype"], D, DV)
        assert part["shared_bytes"] <= estimate <= target(name).shared_limit


def test_the_gpu_at_hand() -> None:
    assert cuda_target((9, 0)) is target("sm_90")
    assert cuda_target((12, 9)).shared_limit == 99 * 1024  # one that came later
    assert hip_target("gfx942:sramecc+:xnack-") is target("gfx942")
    with pytest.raises(TargetError, match=r"7\.5, which is too old"):
        cuda_target((7, 5))
    with pytest.raises(TargetError, match="no target 'gfx1030'"):
        hip_target("gfx1030")
