"""lower and compile_only: text and kernels without a call, for this machine and for others."""

import os

import pytest
import torch

import flexattn
from flexattn.errors import ArgumentError, BackendError, TargetError
from flexattn.reports.compile_only import kind_of


def alibi(score, b, h, q_idx, kv_idx):
    return score + (kv_idx - q_idx) * 0.5


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def test_kind_is_told_by_the_arguments():
    assert kind_of(alibi) == "score"
    assert kind_of(causal) == "mask"
    assert kind_of(lambda b, h, q_idx, kv_idx, window=3: q_idx >= kv_idx) == "mask"


@pytest.mark.parametrize(
    ("mod", "direction", "symbol"),
    [
        (alibi, "forward", "flexattn_forward"),
        (causal, "backward", "flexattn_backward"),
        (causal, "tiles", "flexattn_tiles"),
        (causal, "decode", "flexattn_decode"),
    ],
)
def test_lower_gives_a_self_contained_file(mod, direction, symbol):
    text = flexattn.lower(mod, direction=direction)
    assert symbol in text
    assert not any(line.startswith("#include") for line in text.splitlines())
    assert flexattn.lower(mod, direction=direction) == text


def test_compile_only_builds_and_then_finds_the_kernel():
    first = flexattn.compile_only(alibi)
    assert os.path.getsize(first["library"]) > 0
    again = flexattn.compile_only(alibi)
    assert again["key"] == first["key"]
    assert again["seconds"] < max(first["seconds"], 0.05)


def test_another_target():
    facts = flexattn.compile_only(causal, target="portable", dtype=torch.float64)
    assert (facts["target"], facts["dtype"]) == ("portable", "f64")


def test_bad_names():
    with pytest.raises(BackendError, match="no target 'sse'"):
        flexattn.lower(causal, target="sse")
    with pytest.raises(TargetError, match="no target 'sm_00'") as caught:
        flexattn.lower(causal, target="sm_00")
    assert "gfx950" in str(caught.value) and "interpreter" not in str(caught.value)
    with pytest.raises(TargetError, match="interpreter"):
        flexattn.compile_only(causal, target="interpreter")
    with pytest.raises(ArgumentError, match="head_dim is 0"):
        flexattn.lower(causal, target="sm_90", head_dim=0)
    with pytest.raises(ArgumentError, match="direction 'sideways'"):
        flexattn.lower(causal, direction="sideways")


def test_a_gpu_that_is_not_there():
    facts = flexattn.compile_only(alibi, target="sm_80", head_dim=(32, 16), direction="fwd")
    assert (facts["target"], facts["direction"], facts["dtype"]) == ("sm_80", "forward", "bf16")
    assert facts["head_dim"] == [32, 16]
    assert 16 < facts["registers"] <= 255 and facts["mma"]["mma.sync"] > 0
    assert facts["spilled_words"] == facts["stack"] == 0
    assert facts["shared_bytes"] <= 163 * 1024
    assert facts["kernels"]["forward"]["registers"] == facts["registers"]
    again = flexattn.compile_only(alibi, target="sm_80", head_dim=(32, 16))
    assert again["kernels"]["forward"]["key"] == facts["kernels"]["forward"]["key"]
    assert again["seconds"] < facts["seconds"]


def test_both_mods_and_all_kernels_of_the_backward():
    text = flexattn.lower(score_mod=alibi, mask_mod=causal, target="gfx942", direction="backward")
    for kernel in ("delta", "dq", "dkdv"):
        assert f"flexattn {kernel} kernel, bf16 inputs" in text
    assert "HAS_SCORE_MOD: tl.constexpr = tl.constexpr(True)" in text
    assert "HAS_MASK_MOD: tl.constexpr = tl.constexpr(True)" in text
    assert "codegen_templates.triton" not in text
