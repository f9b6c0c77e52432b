"""The environment variables that change how flexattn behaves, in one table."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Knob:
    """One environment variable: what it is for, and what holds when it is unset."""

    name: str
    meaning: str
    default: str


KNOBS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob(
            "FLEXATTN_CACHE_DIR",
            "folder for compiled kernels",
            "flexattn under $XDG_CACHE_HOME or ~/.cache",
        ),
        Knob(
            "FLEXATTN_DUMP",
            "folder that receives ir.txt, analysis.txt, kernel.cpp and meta.json of kernels used",
            "nothing is dumped",
        ),
        Knob(
            "FLEXATTN_BACKEND", "backend of calls that name none: triton, cpp or eager", "by device"
        ),
        Knob(
            "FLEXATTN_ISA",
            "instruction set of C++ kernels: portable, avx2, avx512, avx512bf16 or amx",
            "the best one this CPU has",
        ),
        Knob(
            "FLEXATTN_AUTOTUNE",
            "1 measures tiles of Triton kernels on the GPU at hand, and keeps the fastest",
            "tiles are chosen unmeasured",
        ),
        Knob("FLEXATTN_CXX", "C++ compiler, with options if need be", "$CXX, g++, clang++, c++"),
    )
}


def get(name: str) -> str | None:
    """Value of a variable of the table, read now; None when unset or empty."""
    return os.environ.get(KNOBS[name].name) or None
