"""Compiler options and template parameters of C++ kernels, per input dtype and instruction set."""

from __future__ import annotations

from flexattn.kernel.isa import Isa

# Name of the storage dtype of q, k, v → FLEX_INPUT of the templates.
INPUTS: dict[str, int] = {"f32": 0, "bf16": 1, "f16": 2, "f64": 3}

# BM queries and BN keys of a tile at most (`codegen_templates/cpp/simd.h`), BM doubled where AMX
# multiplies; blocks of a mask that are smaller, or end earlier, cut it shorter.
QUERIES, KEYS = 64, 128

# -O2: -O1 loses a third of the speed and -O3 gains nothing. -fwrapv: integer arithmetic wraps
# as PyTorch's does. No -ffast-math: NaN, -inf and the order of sums mean something here.
# -nostartfiles: a kernel has nothing to construct, and linking takes half as long.
FLAGS = (
    "-std=gnu++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-pipe",
    "-nostartfiles",
    "-fno-math-errno",
    "-fwrapv",
    "-Wno-psabi",
)


def compute_dtype(dtype: str) -> str:
    """The dtype scores are computed in when q, k and v are stored as ``dtype``."""
    return "f64" if dtype == "f64" else "f32"


def tile(dtype: str, isa: Isa) -> tuple[int, int]:
    """Queries and keys of a tile, at most."""
    return (2 * QUERIES if dtype == "bf16" and isa.level >= 4 else QUERIES), KEYS


def compiler_flags(isa: Isa) -> tuple[str, ...]:
    """Options for a kernel of instruction set ``isa``."""
    return FLAGS + isa.flags


def defines(dtype: str, isa: Isa) -> dict[str, int]:
    """Macros at the head of a kernel's source."""
    return {"FLEX_INPUT": INPUTS[dtype], "FLEX_ISA": isa.level}
