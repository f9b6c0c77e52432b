"""Checkpoints: whole or absent, and only continued by the run that wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attention_gym.errors import CheckpointError, GymInputError
from attention_gym.training import checkpoint
from attention_gym.training.loop import Settings
from attention_gym.training.model import ModelSize

pytestmark = pytest.mark.null


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new", {"config": {"seed": 1}, "weights": torch.arange(3.0)})
    state = checkpoint.load(tmp_path / "new", {"seed": 1})
    assert torch.equal(state["weights"], torch.arange(3.0))


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, {"config": {}, "step": 1})

    def torn(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, {"config": {}, "step": 2})
    assert checkpoint.load(tmp_path, {})["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes | None) -> None:
    checkpoint.save(tmp_path, {"config": {}, "weights": torch.zeros(1000)})
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(CheckpointError, match="--restart"):
        checkpoint.load(tmp_path, {})


def test_another_run_is_told(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"config": {"seed": 1, "cap": 30.0}})
    with pytest.raises(CheckpointError, match="seed 1, now 2"):
        checkpoint.load(tmp_path, {"seed": 2, "cap": 30.0})


def test_more_steps_continue_the_same_run() -> None:
    assert Settings(steps=5).identity() == Settings(steps=9, minutes=1.0).identity()
    assert Settings(seed=1).identity() != Settings(seed=2).identity()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"steps": 0}, "--steps"), ({"batch": -1}, "--batch"), ({"cap": 0.0}, "--cap"),
     ({"model": ModelSize(heads=3)}, "--heads"), ({"model": ModelSize(dim=0)}, "--dim")],
)  # fmt: skip
def test_settings_that_cannot_be(settings: dict[str, object], flag: str) -> None:
    with pytest.raises(GymInputError, match=flag):
        Settings(**settings)  # type: ignore[arg-type]
