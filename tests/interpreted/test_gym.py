"""Recipes by the command line on the Triton backend, interpreted."""

from __future__ import annotations

import json

import pytest

from attention_gym.__main__ import main

SMALL = "--batch 1 --heads 2 --q-len 20 --kv-len 23 --head-dim 16"


def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"run causal --backend triton --backward --repeat 1 --json {SMALL}"
    assert main(command.split()) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["query"] == [1, 2, 20, 16] and row["mean_magnitude"] > 0


def test_verify_covers_the_backends_that_run_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"verify alibi --dtype float32 --json {SMALL}".split()) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["backend"] for row in rows} == {"cpp", "eager", "reference", "triton"}
    assert all(row["passed"] for row in rows)
