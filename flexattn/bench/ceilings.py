"""What this machine could do at best: the peak of its multiply-adds, the rate of its reads."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from flexattn import template
from flexattn.kernel import config
from flexattn.kernel.isa import host
from flexattn.op.programs import STORAGE
from flexattn.runtime import compiler

ROUNDS = 1_000_000
READ_BYTES = 1 << 28  # beyond any cache


@functools.cache
def _library(dtype: str) -> ctypes.CDLL:
    isa = host()
    text = template.render("ceilings.cpp", defines=config.defines(dtype, isa))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, library = folder / "ceilings.cpp", folder / "ceilings.so"
        source.write_text(text)
        flags = config.compiler_flags(isa)
        compiler.compile_library(
            compiler.find(), source, library, flags, keep=Path(tempfile.gettempdir())
        )
        found = ctypes.CDLL(str(library))
    number, pointer = ctypes.c_longlong, ctypes.c_void_p
    found.flexattn_multiply_adds.argtypes = [number, number, pointer]
    found.flexattn_multiply_adds.restype = ctypes.c_double
    found.flexattn_read.argtypes = [pointer, number, number, pointer]
    found.flexattn_read.restype = None
    return found


def multiply_adds(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """A call that does nothing but multiply and add in registers, and its operations.

    On the threads torch has now; of the type that products of ``dtype`` take.
    """
    library, threads = _library(STORAGE[dtype]), torch.get_num_threads()
    sink = torch.rand(64)
    operations = library.flexattn_multiply_adds(1, threads, sink.data_ptr()) * ROUNDS
    return lambda: library.flexattn_multiply_adds(ROUNDS, threads, sink.data_ptr()), operations


def read() -> tuple[Callable[[], object], float]:
    """A call that reads memory, and how many bytes."""
    library, threads = _library("f32"), torch.get_num_threads()
    memory, sink = torch.randn(READ_BYTES // 4), torch.zeros(64)
    at = memory.data_ptr(), memory.numel(), threads, sink.data_ptr()

    def call(kept: torch.Tensor = memory) -> None:  # the memory lives as long as the call
        library.flexattn_read(*at)

    return call, float(READ_BYTES)


def gemm(dtype: torch.dtype, size: int = 1024) -> tuple[Callable[[], object], float]:
    """torch's product of two square matrices, and its operations."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return lambda: a @ b, 2.0 * size**3
