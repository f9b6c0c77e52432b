"""Loads kernels, from memory, from disk or from the compiler, and runs them.

How a caller runs a kernel::

    kernel = load(kernel_source(program, "forward", dtype="bf16"))
    fault = kernel.launch(head, captures, ints, floats)

``head`` holds one Python number per name of ``kernel.fields`` (`kernel/spec.py`), in that order:
``tensor.data_ptr()`` or 0 for pointers, ints for sizes and strides, floats for ``scale``. The
rest of the argument struct is filled in here: addresses, sizes and strides of ``captures``, the
lifted numbers (in the program's order, integers and floats apart), the buffers of captured
gradients and the number of threads. ``Kernel.__call__`` does the same from keyword arguments
and checks the names; it is for tests and tools.

``launch`` packs everything by one ``struct`` call into one reused block of memory, whose tail
holds the arrays that the struct points to, and releases the GIL while the kernel runs; any
number of threads may launch one kernel.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from flexattn.errors import CompilerFailedError, LayoutError
from flexattn.kernel.source import KernelSource
from flexattn.kernel.spec import DOUBLES
from flexattn.runtime import build, cache, counters, libraries


class Fault(NamedTuple):
    """The first position where a mod read outside a capture or divided by zero."""

    b: int
    h: int
    q_idx: int
    kv_idx: int


class Kernel:
    """A compiled kernel in this process.

    Attributes:
        source: What it was made from.
        fields: Names of the numbers that ``launch`` takes first.
        meta: Facts written when the kernel was generated (`kernel/source.py`).
    """

    __slots__ = (
        "_arrays",
        "_call",
        "_free",
        "_pack",
        "_size",
        "_unpack",
        "fields",
        "meta",
        "source",
    )

    def __init__(self, source: KernelSource, entry: cache.Entry) -> None:
        """Raises OSError when the library cannot be loaded or lacks the entry point."""
        self.source = source
        self.fields = source.spec.fields
        self.meta = entry.meta
        try:
            call = getattr(libraries.load(entry), source.spec.symbol)
        except AttributeError as error:
            raise OSError(str(error)) from error
        call.argtypes, call.restype = [ctypes.c_void_p], ctypes.c_int
        self._call = call
        self._layout()

    def _layout(self) -> None:
        # struct | pointers sizes strides ints floats | fault | grads group strides
        program = self.source.program
        dims = sum(capture.ndim for capture in program.captures)
        ints = sum(dtype == "i64" for dtype in program.numbers)
        grads = len(self.meta.get("capture_grads", ()))
        counts = (
            len(program.captures),
            dims,
            dims,
            ints,
            len(program.numbers) - ints,
            4,
            grads,
            grads,
        )
        head = "".join("d" if field in DOUBLES else "q" for field in self.fields)
        arrays = "".join(("d" if place == 4 else "q") * count for place, count in enumerate(counts))
        packer = struct.Struct(f"={head}{'q' * (len(counts) + 1)}{arrays}")
        start = 8 * (len(self.fields) + len(counts) + 1)
        offsets = [start + 8 * sum(counts[:place]) for place in range(len(counts))]
        self._pack, self._size, self._arrays = packer.pack_into, packer.size, tuple(offsets)
        self._unpack = struct.Struct("=4q").unpack_from
        self._free: list[tuple[Any, int, tuple[int, ...]]] = []

    def _block(self) -> tuple[Any, int, tuple[int, ...]]:
        block = ctypes.create_string_buffer(self._size)
        address = ctypes.addressof(block)
        return block, address, tuple(address + offset for offset in self._arrays)

    def launch(
        self,
        head: Sequence[int | float],
        captures: Sequence[torch.Tensor] = (),
        ints: Sequence[int] = (),
        floats: Sequence[float] = (),
        grads: Sequence[int] = (),
        grad_group_strides: Sequence[int] = (),
    ) -> Fault | None:
        """Run the kernel.

        Args:
            head: One number per name of ``fields``.
            captures: The captured tensors, in the program's order.
            ints: The lifted integers.
            floats: The lifted floats.
            grads: Address of one buffer per entry of ``meta["capture_grads"]``.
            grad_group_strides: Elements between the groups' parts of each buffer, or 0.

        Returns:
            None, or where a mod faulted first (in the order b, h, q_idx, kv_idx).

        Raises:
            MemoryError: The kernel found no memory for its tiles.
        """
        try:
            item = self._free.pop()
        except IndexError:
            item = self._block()
        block, address, arrays = item
        for tensor in captures:
            if tensor.is_neg():  # its memory holds the values with the other sign
                captures = [each.resolve_neg() for each in captures]
                break
        values: list[int] = [tensor.data_ptr() for tensor in captures]
        readable = captures if 0 not in values else _stand_ins(captures, values)
        for tensor in captures:
            values += tensor.shape
        for tensor in readable:
            values += tensor.stride()
        if 0 in grads:
            spare = _zeros_like_largest(captures)  # an empty capture is only given zeros
            grads = [address or spare.data_ptr() for address in grads]
        threads = 1 if _forked else torch.get_num_threads()
        self._pack(
            block, 0, *head, *arrays, threads, *values, *ints, *floats, 0, 0, 0, 0, *grads,
            *grad_group_strides,
        )  # fmt: skip
        status = self._call(address)
        fault = None
        if status == 1:
            fault = Fault(*self._unpack(block, self._arrays[5]))
        elif status:
            raise MemoryError(f"the {self.source.spec.name} kernel found no memory for its tiles")
        self._free.append(item)
        return fault

    def __call__(
        self,
        *,
        captures: Sequence[torch.Tensor] = (),
        ints: Sequence[int] = (),
        floats: Sequence[float] = (),
        grads: Sequence[int] = (),
        grad_group_strides: Sequence[int] = (),
        **fields: int | float,
    ) -> Fault | None:
        """``launch`` with the fields by name; those not named are 0."""
        unknown = fields.keys() - set(self.fields)
        if unknown:
            raise TypeError(f"no such fields of {self.source.spec.arguments}: {sorted(unknown)}")
        head = [fields.get(name, 0) for name in self.fields]
        return self.launch(head, captures, ints, floats, grads, grad_group_strides)


def check_memory(**tensors: torch.Tensor) -> None:
    """Raise ``LayoutError`` for a tensor that has elements and no memory for them."""
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.data_ptr():
            raise LayoutError(
                f"{name} of shape {tuple(tensor.shape)} has no memory.",
                why="its storage was freed, as sharded training does with parameters, or it is "
                "one of autograd's zeros that are never stored.",
                fix="gather the tensor before the call, or pass a copy of it.",
            )


def _zeros_like_largest(captures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Zeros for every index that has one value where its dimension is empty."""
    sizes = (math.prod(max(1, size) for size in tensor.shape) for tensor in captures)
    return torch.zeros(max(sizes), dtype=torch.float64)


def _stand_ins(captures: Sequence[torch.Tensor], addresses: list[int]) -> list[torch.Tensor]:
    """What is read for captures: for an empty one, which has no address, a zero at index 0.

    No kept value comes from there, but where a mod does not reach its result it reads index 0.

    Raises:
        LayoutError: One that is not empty has no address.
    """
    readable = list(captures)
    for place, tensor in enumerate(captures):
        if not addresses[place]:
            check_memory(**{f"captured tensor {place}": tensor})
            readable[place] = torch.zeros(
                [max(1, size) for size in tensor.shape], dtype=tensor.dtype
            )
            addresses[place] = readable[place].data_ptr()
    return readable


_forked = False
_kernels: dict[str, Kernel] = {}
_building: dict[str, threading.Lock] = {}


def load(source: KernelSource) -> Kernel:
    """The kernel of ``source``: one already loaded, else from disk, else compiled now.

    Threads that want different kernels compile at the same time; those that want the same one
    wait for the first, as other processes do.

    Raises:
        CompilerNotFoundError: It must be compiled, and there is no compiler.
        CompilerFailedError: The compiler refused it.
        CacheDirectoryError: It must be compiled, and the cache cannot be written.
    """
    kernel = _kernels.get(source.key)
    if kernel is None:
        with _building.setdefault(source.key, threading.Lock()):
            kernel = _kernels.get(source.key)
            if kernel is None:
                kernel = _from_disk(source) or _compile(source)
                _kernels[source.key] = kernel
                return kernel
    counters.add("memory_hits")
    return kernel


def _from_disk(source: KernelSource) -> Kernel | None:
    entry = cache.lookup(source.key)
    if entry is None:
        return None
    try:
        kernel = Kernel(source, entry)
    except OSError:  # whole, but not for this system: built against another C library, say
        return None
    counters.add("disk_hits")
    build.dump(source, entry)
    return kernel


def _compile(source: KernelSource) -> Kernel:
    with cache.locked(source.key):
        kernel = _from_disk(source)  # another process may have built it while we waited
        if kernel is None:
            cache.discard(source.key)  # what may lie there is of no use
            entry = cache.store(source.key, functools.partial(build.build, source))
            kernel = _checked(source, entry)
            counters.add("kernels_built")
            build.dump(source, entry)
    return kernel


def _checked(source: KernelSource, entry: cache.Entry) -> Kernel:
    """The kernel just built; what the compiler called a success may be no library at all."""
    try:
        return Kernel(source, entry)
    except OSError as error:
        cache.discard(source.key)
        raise CompilerFailedError(
            f"The C++ compiler {entry.meta['compiler'][0]} made a library that cannot be loaded.",
            why=f"{error}.",
            fix="unset CXX and FLEXATTN_CXX, or take out options that change the kind of output.",
        ) from error


def _in_child() -> None:
    # A forked child has none of the parent's OpenMP threads, and would wait for them forever;
    # nor may it wait for locks that the parent's other threads held.
    global _forked
    _forked = True
    _building.clear()
    if _kernels:  # then torch has used its own threads too, and its operators would wait as well
        torch.set_num_threads(1)


counters.on_clear(_kernels.clear)
os.register_at_fork(after_in_child=_in_child)
