"""verify: right mods pass on every backend, and a wrong kernel is found out."""

import json

import pytest
import torch

import flexattn
from flexattn.op.call import BACKENDS
from flexattn.reports import verify as verify_module


def biased(bias):
    return lambda score, b, h, q_idx, kv_idx: torch.tanh(score) + bias[h, q_idx - kv_idx + 40]


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 17)


def strictly_causal(b, h, q_idx, kv_idx):
    return q_idx > kv_idx  # row 0 is empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_right_mods_pass(dtype):
    bias = torch.randn(4, 81, requires_grad=True)
    found = flexattn.verify(biased(bias), window, Q_LEN=41, KV_LEN=33, D=24, Hkv=2, dtype=dtype)
    assert found.ok, f"\n{found}"
    assert {check.backend for check in found.checks} == set(BACKENDS) - {"triton"}
    names = ["out", "lse", "grad q", "grad k", "grad v", "grad capture 0"]
    assert [check.tensor for check in found.checks if check.backend == "cpp"] == names


def test_empty_rows_pass():
    found = flexattn.verify(mask_mod=strictly_causal, Q_LEN=19)
    assert found, f"\n{found}"


def test_a_wrong_kernel_is_found_out(monkeypatch):
    right, backward = BACKENDS["cpp"]

    def wrong(call):
        out, *rest = right(call)
        out[..., -1, 0] += 1e-3
        return (out, *rest)

    monkeypatch.setitem(BACKENDS, "cpp", (wrong, backward))
    found = flexattn.verify(mask_mod=window, Q_LEN=21, backends=["cpp"])
    assert not found
    wrong_ones = [check.tensor for check in found.checks if not check.ok]
    assert wrong_ones[0] == "out"
    assert "grad v" not in wrong_ones  # needs no output
    assert "WRONG" in str(found)
    assert [row["ok"] for row in json.loads(found.to_json())].count(False) == len(wrong_ones)


def test_nan_is_an_error():
    nan, one = torch.tensor([float("nan")]), torch.ones(1)
    _, relative = verify_module._difference(nan, one)
    assert not relative <= 1.0
    assert verify_module._difference(nan, nan) == (0.0, 0.0)
    infinite = torch.tensor([-torch.inf, 2.0])
    assert verify_module._difference(infinite, infinite + 1e-3)[1] == pytest.approx(5e-4, rel=1e-2)
