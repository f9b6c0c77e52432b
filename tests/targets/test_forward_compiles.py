"""Forward and decode kernels compile for GPUs that are not here, within what the GPUs have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import flexattn
from flexattn.kernel.targets import target

IDS = torch.arange(1024, dtype=torch.int32) // 300
SLOPES = torch.rand(8)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def document(b, h, q_idx, kv_idx):
    return (IDS[q_idx] == IDS[kv_idx]) & (q_idx >= kv_idx)


def soft_cap(score, b, h, q_idx, kv_idx):
    return 30 * torch.tanh(score / 30)


def alibi(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


MODS: dict[str, dict[str, Any]] = {
    "causal": {"mask_mod": causal},
    "document": {"mask_mod": document},
    "soft_cap": {"score_mod": soft_cap},
    "alibi": {"score_mod": alibi, "mask_mod": causal},
}
MMA = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}


def compiled(name: str, mods: str, head_dim: int | tuple[int, int], **options: Any) -> dict:
    """What compile_only says of bf16, after checks that hold for every kernel."""
    found = flexattn.compile_only(
        **MODS[mods], target=name, head_dim=head_dim, **{"dtype": torch.bfloat16} | options
    )
    assert found["shared_bytes"] <= target(name).shared_limit
    return found


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("mods", ["causal", "document", "soft_cap", "alibi"])
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100"])
def test_nothing_spills(name: str, mods: str, head_dim: int) -> None:
    found = compiled(name, mods, head_dim)
    assert found["spilled_words"] == 0
    assert MMA[name] in found["mma"]


@pytest.mark.parametrize("name", ["sm_80", "sm_89", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("head_dim", [96, (192, 128), (576, 512)])
def test_wide_heads_fit(head_dim: int | tuple[int, int], name: str) -> None:
    compiled(name, "causal", head_dim)


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_decode(name: str) -> None:
    found = compiled(name, "causal", 128, direction="decode")
    assert set(found["kernels"]) == {"decode", "combine"}
    assert found["kernels"]["decode"]["spilled_words"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_types(dtype: torch.dtype) -> None:
    for name in ("sm_80", "gfx942"):
        compiled(name, "causal", 64, dtype=dtype)


def loops(ttgir: str) -> list[str]:
    """Bodies of the loops that multiply matrices, in order."""
    lines = ttgir.splitlines()
    found = []
    for i, line in enumerate(lines):
        if "scf.for" in line:
            indent = re.match(r" *", line)[0]
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith(f"{indent}}}"))
            body = "\n".join(lines[i + 1 : end])
            if re.search(r"(tt\.dot|warp_group_dot|tc_gen5_mma) ", body):
                found.append(body)
    return found


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_full_blocks_meet_no_mask(name: str) -> None:
    """No truth value per pair is in the loop over full blocks; in the other loop there is."""
    source = Path(compiled(name, "document", 64)["kernels"]["forward"]["source"])
    full, partial = loops(source.with_suffix(".ttgir").read_text())
    per_pair = re.compile(r"arith\.(select|cmpi)\b.*tensor<\d+x\d+x")
    assert per_pair.search(partial)
    assert not per_pair.search(full)
