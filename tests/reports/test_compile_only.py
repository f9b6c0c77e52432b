"""lower and compile_only: text and libraries without a call, for this machine and lesser ones."""

import os

import pytest
import torch

import flexattn
from flexattn.errors import ArgumentError, BackendError
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
    with pytest.raises(BackendError, match="no target 'sm_00'"):
        flexattn.lower(causal, target="sm_00")
    with pytest.raises(ArgumentError, match="direction 'sideways'"):
        flexattn.lower(causal, direction="sideways")
