"""explain: every stage is there, says what the mods say, and counts what they keep."""

import json

import torch

import flexattn


def capped(score, b, h, q_idx, kv_idx):
    return 20.0 * torch.tanh(score / 20.0)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def test_every_stage_is_told():
    told = flexattn.explain(capped, causal, Q_LEN=512)
    assert list(told.sections) == [
        "graph",
        "derivative",
        "hoisted",
        "proofs",
        "tiles",
        "blocks",
        "cost",
    ]
    assert "return 20.0 * torch.tanh(score / 20.0)" in told.sections["graph"]
    assert "test_explain.py" in told.sections["graph"]
    assert "tanh" in told.sections["derivative"]
    assert "6 full, 4 partial, 6 empty" in told.sections["blocks"]
    assert "flexattn_forward" in told.forward
    assert "flexattn_backward" in told.backward
    assert told.sections["graph"] in str(told)


def test_cost_counts_visited_blocks():
    told = flexattn.explain(mask_mod=causal, B=2, H=4, Q_LEN=512, D=64)
    pairs = 2 * 4 * 10 * 128 * 128
    assert told.cost["pairs"] == pairs
    assert told.cost["dense_pairs"] == 2 * 4 * 512 * 512
    assert told.cost["flops"] == 4 * pairs * 64
    assert told.cost["backward_flops"] == 10 * pairs * 64


def test_captures_proofs_and_hoisting():
    bias = torch.zeros(4, 63, requires_grad=True)
    short = torch.zeros(4, 40)

    def relative(score, b, h, q_idx, kv_idx):
        return score + bias[h, q_idx - kv_idx + 31] + short[h, q_idx]

    told = flexattn.explain(relative, H=4, Q_LEN=32)
    assert "capture0: float32[4, 63], wants a gradient" in told.sections["graph"]
    assert "capture0, index 1: proved inside" in told.sections["proofs"]
    assert "once per query" in told.sections["hoisted"]
    assert "capture0, index varies with q_idx and kv_idx" in told.sections["derivative"]
    told = flexattn.explain(relative, H=4, Q_LEN=64)
    assert "capture0, index 1: guarded at run time" in told.sections["proofs"]


def test_json_round_trip():
    facts = json.loads(flexattn.explain(capped).to_json())
    assert facts["name"] == "capped"
    assert facts["cost"]["pairs"] == 8 * 1024 * 1024
    assert "no mask_mod" in facts["sections"]["blocks"]


def test_no_mods_is_plain_attention():
    told = flexattn.explain(Q_LEN=64)
    assert told.name == "noop"
    assert "plain attention" in told.sections["graph"]
