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
        "closed form",
        "decided",
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


def test_the_closed_form_is_told():
    document = torch.arange(600) // 250

    def packed(b, h, q_idx, kv_idx):
        return (document[q_idx] == document[kv_idx]) & (q_idx >= kv_idx)

    told = flexattn.explain(mask_mod=packed, Q_LEN=600)
    assert "start_0[document[q]] ≤ k < min(" in told.sections["closed form"]
    assert "document ascends" in told.sections["closed form"]
    assert r"\mathrm{document}[q]" in told.structure["latex"]
    assert told.structure["kernels"]
    assert told.structure["tiles"] == [{"stage": "form", "side": 1, "tiles": 25}]
    told = flexattn.explain(mask_mod=causal, Q_LEN=512)
    assert "N·(N + 1)/2" in told.sections["closed form"]
    assert told.structure["flops"] == "2·D·N·(N + 1)"


def test_what_decided_the_tiles_is_told():
    def near(b, h, q_idx, kv_idx):
        row, column = q_idx // 30 - kv_idx // 30, q_idx % 30 - kv_idx % 30
        return (abs(row) <= 2) & (abs(column) <= 2)

    told = flexattn.explain(mask_mod=near, Q_LEN=900, BLOCK_SIZE=32)
    tiles = told.structure["tiles"]
    assert sum(row["tiles"] for row in tiles) == 29 * 29
    assert {row["stage"] for row in tiles} >= {"proof", "witness"}
    assert told.structure["rules"]["order"] > 0
    assert "by proof" in told.sections["decided"]
    json.loads(told.to_json())


def test_where_a_gather_leaves_is_named():
    bias = torch.zeros(4, 127)

    def relative(score, b, h, q_idx, kv_idx):
        return score + bias[h, q_idx - kv_idx + 64]

    def near(b, h, q_idx, kv_idx):
        return q_idx - kv_idx < 63

    told = flexattn.explain(relative, H=4, Q_LEN=64).sections["proofs"]
    assert "leaves at b=0, h=0, q_idx=63, kv_idx=0: index 127 of 127" in told
    told = flexattn.explain(relative, near, H=4, Q_LEN=64).sections["proofs"]
    assert "leaves" not in told
    ids = torch.arange(64) // 9
    start = torch.zeros(8, dtype=torch.int64)

    def nested(b, h, q_idx, kv_idx):
        return kv_idx >= start[ids[q_idx]]

    told = flexattn.explain(mask_mod=nested, H=4, Q_LEN=64).sections["proofs"]
    assert "never leaves where it counts" in told
    ids[40] = 9
    told = flexattn.explain(score_mod=lambda s, b, h, q, k: s * start[ids[q]], H=4, Q_LEN=64)
    assert "q_idx=40, kv_idx=0: index 9 of 8" in told.sections["proofs"]


def test_batches_that_are_alike_are_all_counted() -> None:
    document = torch.stack([torch.arange(200) // 60] * 8)
    told = flexattn.explain(
        mask_mod=lambda b, h, q, k: document[b, q] == document[b, k], B=8, Q_LEN=200, BLOCK_SIZE=32
    )
    assert (
        "start_0[b, document[b, q]] ≤ k < start_0[b, document[b, q] + 1]"
        in (told.sections["closed form"])
    )
    assert "start_0[b, v] is the first k with document[b, k] ≥ v" in told.sections["closed form"]
    assert told.sections["decided"].split()[0] == str(8 * 7 * 7)
