"""Which GPU a tensor lies on, as the Triton backend sees it; for the CPU, the interpreter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from flexattn.errors import BackendError, DeviceTooOldError
from flexattn.kernel.targets import INTERPRETER, Target, cuda_target, hip_target
from flexattn.runtime import counters

OLDEST = (8, 0)  # compute capability of the A100


@dataclass(frozen=True)
class Machine:
    """A device that Triton kernels run on.

    Attributes:
        target: What they are compiled for.
        processors: Programs that run at once, one per multiprocessor.
        index: Number of the device, None for the CPU.
        name: What torch calls it; empty for the CPU.
    """

    target: Target
    processors: int
    index: int | None
    name: str = ""


# Few enough that small tests need several splits of their keys.
_STAND_IN = Machine(INTERPRETER, 8, None)


def is_interpreted() -> bool:
    """Whether Triton kernels are interpreted: it decides so when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def check_device(device: torch.device) -> None:
    """Raise the fitting error unless Triton kernels can read tensors of ``device``."""
    if device.type == "cuda" or (device.type in ("cpu", "meta") and is_interpreted()):
        return
    raise BackendError(
        f"backend 'triton' cannot compute on {device}.",
        why="its kernels run on GPUs; on the CPU they are interpreted, if TRITON_INTERPRET=1 was "
        "set when the process began.",
        fix='move the tensors to a GPU, or pass backend="cpp" with CPU tensors.',
    )


def machine_of(device: torch.device) -> Machine:
    """What ``device`` is.

    Raises:
        DeviceTooOldError: An NVIDIA GPU before compute capability 8.0.
        TargetError: An AMD GPU for which there are no kernels.
    """
    if device.type != "cuda":
        return _STAND_IN
    index = torch.cuda.current_device() if device.index is None else device.index
    return _machine(index)


@counters.on_clear
def _forget() -> None:
    _machine.cache_clear()


@lru_cache(maxsize=64)
def _machine(index: int) -> Machine:
    properties: Any = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        target = hip_target(properties.gcnArchName)
        return Machine(target, properties.multi_processor_count, index, properties.name)
    capability = (properties.major, properties.minor)
    if capability < OLDEST:
        raise DeviceTooOldError(
            f"{properties.name} has compute capability {capability[0]}.{capability[1]}.",
            why="the kernels need the tensor cores of 8.0 (A100, RTX 30) or newer.",
            fix='use a newer GPU, move the tensors to the CPU, or pass backend="eager".',
        )
    target = cuda_target(capability)
    return Machine(target, properties.multi_processor_count, index, properties.name)
