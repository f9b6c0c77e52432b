"""What the GPU suite writes: targets, tables, and a line for everything that is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flexattn.bench import gpu_report
from flexattn.bench.gpu_cases import cases
from flexattn.bench.gpu_contest import Contest, figures, short
from flexattn.bench.gpu_timing import Measured
from flexattn.bench.gpu_variants import VARIANTS, Shape, document_lengths

pytestmark = pytest.mark.null

CHECKS: dict[str, Any] = {
    "passed": 3, "failed": [{"test": "t.py::a", "why": "assert\n  1 == 2"}],
    "skipped": [{"test": "t.py::b", "why": "needs 60 GB"}], "not_run": ["t.py::c"],
    "seconds": 12.0, "notes": ["half a note"],
}  # fmt: skip


def _result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    facts = gpu_report.device_facts(torch.device("cpu"))
    return {"suite": "gpu", "rehearsal": False, "device": facts, "seconds": 5.0, "checks": CHECKS,
            "compiled": [], "rows": rows}  # fmt: skip


def _causal(group: str, length: int, ratio: float) -> dict[str, Any]:
    shape = Shape(1, 16, 16, length, length, 128).facts()
    return {"group": group, "variant": "causal", **shape, "over_torch_flex": ratio}


def test_targets_are_read_off_the_rows() -> None:
    rows = [
        _causal("forward", 8192, 1.0),
        _causal("forward", 16384, 1.2),
        {"group": "ceiling", "what": "copy", "tb_s": 4.0},
        {"group": "decode", "variant": "full", "B": 8, "M": 1, "N": 32768, "ours_tb_s": 3.4},
        {"group": "decode", "variant": "full", "B": 8, "M": 8, "N": 32768, "ours_ms": 1.3,
         "ours_one_token_ms": 1.0},
    ]  # fmt: skip
    found = {row["target"]: row for row in gpu_report.targets(rows)}
    met = {name: row["met"] for name, row in found.items() if row["met"] is not None}
    assert list(met.values()) == [False, True, True, False]
    share = next(row for name, row in found.items() if "B 8, 32768 keys, share" in name)
    assert share["measured"] == pytest.approx(0.85) and share["wanted"] == "≥ 0.8"


def test_every_target_has_a_row_of_the_first_rank() -> None:
    """A target that no case of rank 0 can fill would never be judged."""
    rows: list[dict[str, Any]] = [{"group": "ceiling", "what": "copy", "tb_s": 1.0}]
    for case in cases():
        if case.contest is not None and case.rank == 0:
            keys = ("ours", *case.contest.extra, *case.contest.peers)
            times = {name: Measured(1e-3, 0.0, 1, "events") for name in keys}
            row = {"group": case.contest.group, "variant": case.contest.variant}
            rows.append(row | case.contest.shape.facts() | figures(case.contest, times))
    rows += [{"group": "new mod", "what": w, "next_ms": 1.0} for w in ("cold", "from disk")]
    rows.append({"group": "launch", "launch_us": 9.0})
    missing = [row["target"] for row in gpu_report.targets(rows) if row["measured"] is None]
    assert missing == ["decoding one token, B 32, 32768 keys, share of copy bandwidth"]


def test_page_says_what_is_missing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {**_causal("forward", 8192, 1.5), "ours_ms": 1.25, "ours_tflops": 400.0, "case": "c1",
         "absent": {"flash_attn": "not installed"}, "failed": {"sdpa_cudnn": "RuntimeError: no"}},
        {"group": "decode", "case": "c2", "skipped": "the time was over"},
        {"group": "backward", "case": "c3", "variant": "alibi", "wrong": "differs"},
        {"group": "ceiling", "what": "bf16 matrix product", "tflops": 800.0},
    ]  # fmt: skip
    gpu_report.write(tmp_path, _result(rows))
    page = (tmp_path / "gpu.md").read_text()
    for text in (
        "| causal | 1 | 16 | 128 | 8192 | 1.25 | 400 | 50% | 1.50× |",
        "c2: left out, the time was over",
        "c3: **wrong**, differs",
        "c1: sdpa_cudnn failed: RuntimeError: no",
        "c1: flash_attn absent: not installed",
        "failed: `t.py::a`: assert 1 == 2",
        "skipped: `t.py::b`: needs 60 GB",
        "not run: `t.py::c`",
        "half a note",
        "| forward causal 8192, torch flex_attention's time over ours | ≥ 1.1 | 1.5 | yes |",
    ):
        assert text in page, text
    read = json.loads((tmp_path / "gpu.json").read_text())
    assert read["targets"][0]["met"] is True and read["rows"] == rows
    assert not list(tmp_path.glob(".*"))


def test_flops_count_the_pairs_kept() -> None:
    """Against the masks themselves."""
    shape = Shape(1, 2, 2, 48, 48, 16)
    grid = [
        torch.arange(n).view(v) for n, v in ((1, (1, 1)), (1, (1, 1)), (48, (-1, 1)), (48, (1, -1)))
    ]
    for name, variant in VARIANTS.items():
        if name == "causal tail":
            continue
        mask_mod = variant.make(shape, torch.device("cpu")).mask_mod
        kept = 48 * 48 if mask_mod is None else int(mask_mod(*grid).expand(48, 48).sum())
        assert variant.pairs(shape) == kept, name
    tail = Shape(1, 2, 1, 5, 48, 16)
    mask_mod = VARIANTS["causal tail"].make(tail, torch.device("cpu")).mask_mod
    assert mask_mod is not None
    assert VARIANTS["causal tail"].pairs(tail) == int(
        mask_mod(*grid[:2], grid[2][:5], grid[3]).sum()
    )


def test_documents_fill_the_sequence() -> None:
    for total in (1, 5, 48, 16384):
        lengths = document_lengths(total)
        assert sum(lengths) == total and min(lengths) > 0


def test_figures() -> None:
    contest = Contest("decode", "full", Shape(8, 64, 8, 1, 32768, 128))
    times = {"ours": Measured(2e-4, 0.1, 7, "graph"), "torch_flex": Measured(3e-4, 0.1, 7, "graph")}
    row = figures(contest, times)
    assert row["over_torch_flex"] == pytest.approx(1.5)
    assert row["ours_tb_s"] == pytest.approx(2 * 8 * 8 * 32768 * 128 * 2 / 2e-4 / 1e12)


def test_names_of_cases_are_their_own() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names)) and [c.rank for c in cases()] == sorted(
        c.rank for c in cases()
    )
    groups = {case.contest.group for case in cases() if case.contest}
    assert groups < set(gpu_report.COLUMNS)


def test_errors_are_cut_short() -> None:
    assert short(ValueError("x" * 5000)) == "ValueError: " + "x" * 600
    assert short(KeyError()) == "KeyError: (no message)"
