"""The backends that run generated kernels, in one table; ``eager`` needs none and lives in `op`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flexattn.errors import CompilerNotFoundError
from flexattn.kernel.source import KernelSource
from flexattn.runtime import compiler, launch


@dataclass(frozen=True)
class Backend:
    """One backend.

    Attributes:
        name: What ``backend=`` and ``FLEXATTN_BACKEND`` call it.
        devices: Device types whose tensors it takes; it is the default for them.
        load: Makes a kernel ready to launch.
        missing: Why it cannot build kernels on this machine, or None.
    """

    name: str
    devices: frozenset[str]
    load: Callable[[KernelSource], launch.Kernel]
    missing: Callable[[], str | None]


def _no_compiler() -> str | None:
    try:
        compiler.find()
    except CompilerNotFoundError as error:
        return error.summary
    return None


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (Backend("cpp", frozenset({"cpu"}), launch.load, _no_compiler),)
}


def for_device(device_type: str) -> Backend | None:
    """The backend that is the default for tensors on that type of device."""
    return next((b for b in BACKENDS.values() if device_type in b.devices), None)
