"""A sample of what `make gpu` runs, on interpreted kernels: checks on a device, and rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROWS = ("backward relative bias", "decode causal tail", "launches", "mask scattered", "new mods")


def _run(*command: str) -> None:
    environment = os.environ | {"FLEXATTN_GPU_REHEARSAL": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("part", ["5/41", "31/83"])
def test_sample_of_the_checks(part: str, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    _run("pytest", "-q", "-c", "tests/gpu/pytest.ini", "tests/gpu",
         "--part", part, "--report", str(report))  # fmt: skip
    first, *rest = (json.loads(line) for line in report.read_text().splitlines())
    rows = [row for row in rest if "outcome" in row]
    assert sorted(first["collected"]) == sorted(row["test"] for row in rows)
    assert any(row["outcome"] == "passed" for row in rows)


@pytest.mark.parametrize("row", ROWS)
def test_rows(row: str, tmp_path: Path) -> None:
    _run("flexattn", "bench", "gpu", "--rehearse", "--no-checks", "--only", row,
         "--out", str(tmp_path))  # fmt: skip
    found = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert found and all("ours" not in r.get("failed", {}) for r in found)
    assert all("wrong" not in r and "skipped" not in r for r in found)
    if row == "launches":
        assert found[0]["launch_us"] > 0
