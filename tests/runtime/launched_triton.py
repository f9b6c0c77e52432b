"""Launches kernels through Triton's own launcher into a driver that keeps what it was given.

Run as a program by `test_triton_driver.py`, with a folder for the driver as argument.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver

from flexattn.ir.nodes import F32, I64, Apply, Input, Load
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel.targets import target
from flexattn.kernel.triton_source import Choices, TritonSource, triton_source
from flexattn.kernel.triton_tiles import Tile
from flexattn.runtime import triton_launch

SIZES = {"i32": 4, "i64": 8, "fp32": 4}


class Driver(CudaDriver):
    """Triton's driver for a GPU that torch knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.get_current_device = lambda: 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def flat(values: Any) -> list[Any]:
    if isinstance(values, list | tuple):
        return [each for value in values for each in flat(value)]
    return [values]


def program() -> Program:
    """score + table[h, kv_idx] * n0 + n1, where n1 is a whole number."""
    table = Load(0, (Input("h", I64), Input("kv_idx", I64)), F32)
    scaled = Apply("mul", (table, Input("n0", F32)), F32)
    whole = Apply("to_float", (Input("n1", I64),), F32)
    score = Apply("add", (Apply("add", (Input("score", F32), scaled), F32), whole), F32)
    return Program(score, None, (CaptureType("f32", 2),), (F32, I64))


def source(kernel: str, **choices: Any) -> TritonSource:
    chosen = Choices(tile=Tile(64, 32, 4, 2), dense_captures=(True,), **choices)
    return triton_source(
        program(), kernel, dtype="bf16", D=32, DV=32, target=target("sm_90"), choices=chosen
    )


def made_up(kind: Any, count: int) -> Any:
    """A value for an argument of Triton's type ``kind``, unlike the others."""
    if isinstance(kind, tuple):
        return tuple(made_up(each, count + 20 * i) for i, each in enumerate(kind))
    if kind == "constexpr":
        return 1
    if kind.startswith("*"):
        return torch.zeros(4) if count % 2 else 1 << 40 | count
    return count + 0.5 if kind.startswith("fp") else -count


def bits(kind: str, value: Any) -> int:
    """``value`` as the driver finds it in memory."""
    if kind.startswith("*"):
        return int(value if isinstance(value, int) else value.data_ptr())
    if kind == "fp32":
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value) & ((1 << 8 * SIZES[kind]) - 1)


def main() -> None:
    stub = ctypes.CDLL(f"{sys.argv[1]}/libcuda.so.1")
    triton.runtime.driver.set_active(Driver())
    scratch: list[torch.Tensor] = []
    triton_launch._current_device = lambda: 0  # type: ignore[assignment]
    triton_launch._current_stream = lambda index: 77  # type: ignore[assignment]
    triton_launch._device = lambda index: torch.device("cpu")  # type: ignore[assignment]
    former = torch.empty

    def remember(*args: Any, **kwargs: Any) -> torch.Tensor:
        scratch.append(former(*args, **kwargs))
        return scratch[-1]

    told = []
    for made in (
        source("forward", aligned=True, descriptors=True, tables=4),
        source("forward", far=True),
    ):
        kernel = triton_launch.load_triton(made)
        types = [made.signature[name] for name in made.arguments]
        values = [made_up(kind, 100 + i) for i, kind in enumerate(types)]
        kinds, given = flat(types), flat(values)
        wanted = [bits(k, v) for k, v in zip(kinds, given, strict=True) if k != "constexpr"]
        sizes = [SIZES.get(kind, 8) for kind in kinds if kind != "constexpr"]
        array = (ctypes.c_int * 256).in_dll(stub, "argument_bytes")
        array[: len(sizes) + 3] = [*sizes, 8, 8, 0]  # scratch for descriptors and for profilers
        torch.empty = remember
        kernel.launch((3, 2), values, 0)
        torch.empty = former
        found = list((ctypes.c_uint64 * 256).in_dll(stub, "arguments"))
        told.append(
            {
                "launched": list((ctypes.c_uint64 * 8).in_dll(stub, "launched")),
                "shared": kernel.compiled.metadata.shared,
                "function": kernel.compiled.function,
                "arguments": found[: len(wanted)] == wanted,
                "count": len(wanted),
                "scratch": found[len(wanted)],
                "allocated": [[each.data_ptr(), each.numel()] for each in scratch],
                "scratch_size": kernel.compiled.metadata.global_scratch_size,
            }
        )
        scratch.clear()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
