"""Backward kernels compile for GPUs that are not here, within what the GPUs have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import flexattn
from flexattn.kernel.targets import target

IDS = torch.arange(1024, dtype=torch.int32) // 300
SLOPES = torch.rand(8, requires_grad=True)
TABLE = torch.rand(2048, requires_grad=True)
MMA = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}
# Words: scalars of a head, which lie outside the inner loops, and addresses of gathered values.
FEW = 64


def document(b, h, q_idx, kv_idx):
    return (IDS[q_idx] == IDS[kv_idx]) & (q_idx >= kv_idx)


def soft_cap(score, b, h, q_idx, kv_idx):
    return 30 * torch.tanh(score / 30)


def alibi(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


def relative(score, b, h, q_idx, kv_idx):
    return score + TABLE[kv_idx - q_idx + 1024]


def compiled(name: str, head_dim: int | tuple[int, int], **options: Any) -> dict[str, Any]:
    """What compile_only says of the backward kernels, after checks that hold for all."""
    found = flexattn.compile_only(
        target=name,
        head_dim=head_dim,
        direction="bwd",
        **{"dtype": torch.bfloat16, "mask_mod": document} | options,
    )
    kernels = found["kernels"]
    assert set(kernels) == {"delta", "dq", "dkdv"}
    for kernel in kernels.values():
        assert kernel["shared_bytes"] <= target(name).shared_limit
    return kernels


@pytest.mark.parametrize("head_dim", [64, 128, 256, (192, 128)])
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_hardly_anything_spills(name: str, head_dim: int | tuple[int, int]) -> None:
    kernels = compiled(name, head_dim)
    assert kernels["delta"]["spilled_words"] == 0
    # The tile of sm_90 at 128 was chosen by the clock; Triton 3.9 spills a few words more in it.
    few = 2 * FEW if (name, head_dim) == ("sm_90", 128) else FEW
    for kernel in ("dq", "dkdv"):
        assert kernels[kernel]["spilled_words"] <= few
        assert MMA[name] in kernels[kernel]["mma"]


@pytest.mark.parametrize("mod", [soft_cap, alibi, relative], ids=lambda mod: mod.__name__)
def test_derivatives_and_captured_gradients(mod: Any) -> None:
    """Some are spilled: this tile was faster on an H200 for all three than one that spills less."""
    kernels = compiled("sm_90", 128, score_mod=mod)
    assert kernels["dkdv"]["spilled_words"] <= 2 * FEW


@pytest.mark.parametrize("name", ["sm_80", "sm_89", "sm_90", "gfx942"])
def test_the_widest_heads_fit(name: str) -> None:
    compiled(name, (576, 512))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_types(dtype: torch.dtype) -> None:
    for name in ("sm_80", "gfx942"):
        compiled(name, 64, dtype=dtype)


def products(ttgir: str) -> list[str]:
    """Bodies of the innermost loops that multiply matrices, in order."""
    bodies = re.findall(r"\n( *)(?:%\S+ = )?scf\.for [^\n]*\n(.*?)\n\1}", ttgir, re.S)
    found = []
    for _, body in bodies:
        inner = products("\n" + body)
        if inner:
            found += inner
        elif re.search(r"(tt\.dot|warp_group_dot|tc_gen5_mma) ", body):
            found.append(body)
    return found


def decisions(body: str) -> list[str]:
    """Lines that compare, combine or choose per pair; values of rows or keys are fewer."""
    lines = re.findall(r".*arith\.(?:cmp[if]|select|andi|ori)\b.*tensor<\d+x\d+x.*", body)
    return [
        line for line in lines
        if max(int(x) * int(y) for x, y in re.findall(r"tensor<(\d+)x(\d+)x", line)) > 256
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_full_blocks_meet_no_mask(name: str) -> None:
    """Nothing is decided per pair in the loops over full blocks; in the other loops it is."""
    kernels = compiled(name, 64)
    for kernel in ("dq", "dkdv"):
        text = Path(kernels[kernel]["source"]).with_suffix(".ttgir").read_text()
        full, partial = products(text)
        assert decisions(partial)
        assert not decisions(full), kernel
