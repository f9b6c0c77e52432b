"""Kernels compiled for GPUs that are not here: they compile, fit, and keep to registers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import flexattn
from attention_gym.gallery import load
from flexattn.kernel.targets import target

TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
MMA = {80: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}
# For each target a recipe per direction, so that every recipe and every kernel meets many targets.
COMPILED = [
    ("sm_80", "fwd", "t5_bias"),
    ("sm_80", "bwd", "relative_bias"),
    ("sm_80", "decode", "causal"),
    ("sm_89", "fwd", "key_padding"),
    ("sm_89", "bwd", "alibi"),
    ("sm_89", "decode", "tanh_softcap"),
    ("sm_90", "fwd", "prefix_lm"),
    ("sm_90", "bwd", "tanh_softcap"),
    ("sm_90", "decode", "alibi"),
    ("sm_100", "fwd", "causal_window_document"),
    ("sm_100", "bwd", "causal"),
    ("sm_100", "decode", "sliding_window"),
    ("sm_120", "fwd", "sliding_window"),
    ("sm_120", "bwd", "t5_bias"),
    ("sm_120", "decode", "key_padding"),
    ("gfx942", "fwd", "alibi"),
    ("gfx942", "bwd", "document"),
    ("gfx942", "decode", "causal"),
    ("gfx950", "fwd", "document"),
    ("gfx950", "bwd", "causal"),
    ("gfx950", "decode", "relative_bias"),
]
WITHOUT_SPILLS = (None, "causal", "tanh_softcap", "alibi", "document")


def compiled(
    recipe: str | None, name: str, direction: str, head_dim: int, dtype: torch.dtype
) -> dict[str, Any]:
    """What `compile_only` tells of a recipe at its own size; None is plain attention."""
    if recipe is None:
        return flexattn.compile_only(
            target=name, direction=direction, head_dim=head_dim, dtype=dtype
        )
    found = load(recipe)
    captures = found.make_captures(found.sizes, {})
    for learned in found.learned:
        captures[learned].requires_grad_()
    score_mod, mask_mod = found.mods(captures)
    sizes = found.sizes
    return flexattn.compile_only(
        score_mod=score_mod,
        mask_mod=mask_mod,
        target=name,
        direction=direction,
        head_dim=head_dim,
        dtype=dtype,
        B=sizes.batch,
        H=sizes.heads,
        Q_LEN=sizes.q_len,
    )


def test_every_target_meets_every_direction() -> None:
    wanted = {(name, direction) for name in TARGETS for direction in ("fwd", "bwd", "decode")}
    assert {(name, direction) for name, direction, _ in COMPILED} == wanted


@pytest.mark.parametrize(("name", "direction", "recipe"), COMPILED)
def test_it_compiles_and_fits(name: str, direction: str, recipe: str) -> None:
    facts = compiled(recipe, name, direction, 64, torch.bfloat16)
    gpu = target(name)
    for kernel, part in facts["kernels"].items():
        assert part["shared_bytes"] <= gpu.shared_limit
        assert 0 < part["registers"] <= (512 if gpu.backend == "hip" else 255)
        assert bool(part["mma"]) == (kernel not in ("delta", "combine"))
    kinds = {"mfma"} if gpu.backend == "hip" else {MMA[int(gpu.arch)], "mma.sync"}
    assert facts["mma"].keys() <= kinds


@pytest.mark.parametrize("recipe", WITHOUT_SPILLS)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_100"])
def test_the_forward_does_not_spill(name: str, head_dim: int, recipe: str | None) -> None:
    facts = compiled(recipe, name, "fwd", head_dim, torch.bfloat16)
    assert facts["spilled_words"] == 0 and facts["stack"] == 0
    assert facts["shared_bytes"] <= target(name).shared_limit
    assert facts["mma"].keys() == {MMA[int(name[3:])]} and min(facts["mma"].values()) > 0


def loops(ttgir: str) -> list[str]:
    """Bodies of the innermost loops, in the order of the text."""
    found, open_loops = [], []
    for line in ttgir.splitlines():
        if re.search(r"= scf\.for |^\s*scf\.for |scf\.while", line):
            open_loops.append([len(line) - len(line.lstrip()), [], False])
        elif open_loops and re.match(r"\s*}", line):
            depth, body, outer = open_loops[-1]
            if len(line) - len(line.lstrip()) == depth:
                open_loops.pop()
                if not outer:
                    found.append("\n".join(body))
                if open_loops:
                    open_loops[-1][2] = True
                continue
        if open_loops:
            open_loops[-1][1].append(line)
    return found


@pytest.mark.parametrize("name", ["sm_90", "gfx942"])
def test_no_mask_in_the_loop_over_full_blocks(name: str) -> None:
    # the mask of documents compares captured numbers and chooses scores: nothing else does
    facts = compiled("document", name, "fwd", 64, torch.bfloat16)
    ttgir = Path(facts["kernels"]["forward"]["source"]).with_name("kernel.ttgir").read_text()
    full, partial = (body for body in loops(ttgir) if re.search(r"tt\.dot |warp_group_dot ", body))
    compares = re.compile(r"arith\.cmpi .*tensor<")
    chooses = re.compile(r"arith\.select .*tensor<\d+x\d+xi1")
    captured = re.compile(r"!tt\.ptr<i64>")
    assert not any(code.search(full) for code in (compares, chooses, captured))
    assert all(code.search(partial) for code in (compares, chooses))
