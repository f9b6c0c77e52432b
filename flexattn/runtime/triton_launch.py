"""Loads Triton kernels, from memory, from disk or from the compiler, and launches them.

How a caller runs a kernel::

    kernel = load_triton(triton_source(program, "forward", ...))
    kernel.launch((programs,), arguments, device)

``arguments`` holds one value per name of ``source.arguments``: tensors or their addresses (the
interpreter needs tensors), numbers, and tuples for ``tables``, ``captures`` and ``grads``. The
constants of the kernel are added here. Nothing waits for the GPU, and memory comes from torch's
allocator alone, so launches can be captured in a CUDA graph once the kernel is loaded.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flexattn.errors import CompilerFailedError
from flexattn.kernel.triton_source import TritonSource, triton_version
from flexattn.runtime import build, cache, counters, triton_build


class TritonKernel:
    """A Triton kernel in this process.

    Attributes:
        source: What it was made from.
        meta: Facts written when it was compiled.
        compiled: Triton's compiled kernel, or the jit function where kernels are interpreted.
    """

    __slots__ = ("_constants", "_entry", "_loaded", "_lock", "compiled", "meta", "source")

    def __init__(self, source: TritonSource, entry: cache.Entry) -> None:
        """Raises OSError when the entry is not for the Triton at hand."""
        self.source = source
        self.meta = entry.meta
        self._entry = entry
        self._constants = tuple(source.constants.values())
        self._loaded: dict[int, Callable[..., None]] = {}
        self._lock = threading.Lock()
        if source.target.backend == "interpreter":
            self.compiled = triton_build.entry_point(source, entry.folder / cache.MODULE)
        else:
            self.compiled = triton_build.restore(source, entry)

    def launch(
        self, grid: Sequence[int], args: Sequence[Any], device: torch.device | int | None
    ) -> None:
        """Run the kernel on the current stream of ``device``.

        Args:
            grid: Number of programs, in up to three dimensions; nothing happens when it is 0.
            args: One value per name of ``source.arguments``.
            device: A GPU; of no meaning where kernels are interpreted.
        """
        if 0 in grid:
            return
        if self.source.target.backend == "interpreter":
            self.compiled[tuple(grid)](*args, **self.source.constants)
            return
        index = device if isinstance(device, int) else device.index if device is not None else None
        current = _current_device()
        if index is None or index == current:
            self._start(current, grid, args)
        else:
            with torch.cuda.device(index):
                self._start(index, grid, args)

    def _start(self, index: int, grid: Sequence[int], args: Sequence[Any]) -> None:
        start = self._loaded.get(index)
        if start is None:
            start = self._load(index)
        x, y, z = (*grid, 1, 1)[:3]
        start(x, y, z, _current_stream(index), args)

    def _load(self, index: int) -> Callable[..., None]:
        """Bring the kernel onto the current device, which is ``index``."""
        with self._lock:
            if index in self._loaded:
                return self._loaded[index]
            # A function's handle belongs to one device, and the compiled kernel holds one handle.
            used = bool(self._loaded)
            compiled = triton_build.restore(self.source, self._entry) if used else self.compiled
            with triton_build.redirected(cache.directory() / "launchers"):
                run = compiled.run
            start = _starter(compiled, run, self._constants, _device(index))
            self._loaded[index] = start
            _on_devices.append(compiled)
            return start


def _starter(
    compiled: Any, run: Callable[..., Any], constants: tuple[Any, ...], device: torch.device
) -> Callable[..., None]:
    """A function of (x, y, z, stream, arguments) that starts ``compiled``."""
    hooks = importlib.import_module("triton.knobs").runtime
    function, packed = compiled.function, compiled.packed_metadata

    def start(x: int, y: int, z: int, stream: int, args: Sequence[Any]) -> None:
        enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
        if _is_empty(enter) and _is_empty(leave):  # no profiler watches
            run(x, y, z, stream, function, packed, None, None, None, *args, *constants)
            return
        told = compiled.launch_metadata((x, y, z), stream, *args, *constants)
        run(x, y, z, stream, function, packed, told, enter, leave, *args, *constants)

    if not getattr(compiled.metadata, "global_scratch_size", 0):
        return start
    return _with_scratch(start, device)


def _with_scratch(start: Callable[..., None], device: torch.device) -> Callable[..., None]:
    """``start`` for a kernel that keeps descriptors in memory, which torch's allocator gives."""
    allocation = importlib.import_module("triton.runtime._allocation")

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int8, device=device)

    def start_with_scratch(*args: Any) -> None:
        # What the user gave to triton.set_allocator is back in force afterwards.
        former = allocation._allocator.set(allocate)
        try:
            start(*args)
        finally:
            allocation._allocator.reset(former)

    return start_with_scratch


def _is_empty(hook: Any) -> bool:
    return hook is None or getattr(hook, "calls", hook) == []


def _device(index: int) -> torch.device:
    return torch.device("cuda", index)


def _current_device() -> int:
    return torch._C._cuda_getDevice()


def _current_stream(index: int) -> int:
    return torch._C._cuda_getCurrentRawStream(index)


_kernels: dict[str, TritonKernel] = {}
_building: dict[str, threading.Lock] = {}
# Triton 3.9 unloads the code of a compiled kernel that is forgotten, and CUDA graphs may still
# hold it: what was loaded stays, also when caches are cleared.
_on_devices: list[Any] = []


def load_triton(source: TritonSource) -> TritonKernel:
    """The kernel of ``source``: one already loaded, else from disk, else compiled now.

    Raises:
        TritonNotFoundError: Triton cannot be imported.
        CompilerFailedError: Triton refused the kernel.
        CacheDirectoryError: It must be compiled, and the cache cannot be written.
    """
    kernel = _kernels.get(source.key)
    if kernel is None:
        with _building.setdefault(source.key, threading.Lock()):
            kernel = _kernels.get(source.key)
            if kernel is None:
                triton_build.import_triton(source)
                kernel = _from_disk(source) or _compile(source)
                _kernels[source.key] = kernel
                return kernel
    counters.add("memory_hits")
    return kernel


def _from_disk(source: TritonSource) -> TritonKernel | None:
    entry = cache.lookup(source.key)
    if entry is None:
        return None
    try:
        kernel = TritonKernel(source, entry)
    except OSError:  # whole, but written by a Triton that keeps its files in another way
        return None
    counters.add("disk_hits")
    build.dump(source, entry, cache.MODULE)
    return kernel


def _compile(source: TritonSource) -> TritonKernel:
    with cache.locked(source.key):
        kernel = _from_disk(source)  # another process may have built it while we waited
        if kernel is None:
            cache.discard(source.key)  # what may lie there is of no use
            entry = cache.store(source.key, functools.partial(triton_build.build, source))
            kernel = _checked(source, entry)
            counters.add("kernels_built")
            build.dump(source, entry, cache.MODULE)
    return kernel


def _checked(source: TritonSource, entry: cache.Entry) -> TritonKernel:
    try:
        return TritonKernel(source, entry)
    except OSError as error:
        cache.discard(source.key)
        raise CompilerFailedError(
            f"Triton {triton_version()} made a kernel that cannot be loaded.",
            why=f"{error}.",
            fix="install a Triton that flexattn knows: 3.6 to 3.9.",
        ) from error


def files(kernel: TritonKernel) -> dict[str, Path]:
    """Ending → path of each file of the kernel: ``py``, ``cubin``, ``ptx``, ``ttgir`` and more."""
    found = kernel._entry.folder.glob("kernel.*")
    return {path.suffix[1:]: path for path in found}


counters.on_clear(_kernels.clear)
os.register_at_fork(after_in_child=_building.clear)
