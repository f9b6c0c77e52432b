"""Write and read checkpoints so that a kill at any moment leaves the last whole one."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from attention_gym.errors import CheckpointError

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in ``folder`` in one step: it is the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{NAME}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / NAME)
    finally:
        part.unlink(missing_ok=True)


def load(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The state in ``folder``.

    Args:
        folder: Where `save` wrote.
        expected: What ``state["config"]`` must hold for the run to be the same one.

    Raises:
        CheckpointError: It is damaged, or was written with other settings.
    """
    path = folder / NAME
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        config = state["config"]
    except (
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as e:
        raise CheckpointError(
            f"cannot read the checkpoint {path}.",
            why=str(e).splitlines()[0] if str(e) else type(e).__name__,
            fix="start over with --restart, or give another --out.",
        ) from e
    other = [f"{k} {config.get(k)!r}, now {v!r}" for k, v in expected.items() if config.get(k) != v]
    if other:
        raise CheckpointError(
            f"the checkpoint {path} belongs to another run.",
            why="it was written with " + "; ".join(other) + ".",
            fix="give the same settings, start over with --restart, or give another --out.",
        )
    return state
