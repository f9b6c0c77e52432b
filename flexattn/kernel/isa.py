"""Finds the best instruction set of this CPU that kernels are written for."""

from __future__ import annotations

import ctypes
import functools
import platform
from dataclasses import dataclass

from flexattn import knobs
from flexattn.errors import ArgumentError

_X86 = frozenset({"x86_64", "amd64", "i686"})


@dataclass(frozen=True)
class Isa:
    """One level; a CPU that has a level has every lower one of its family.

    Attributes:
        level: The value of ``FLEX_ISA`` in the templates.
        name: How ``FLEXATTN_ISA`` calls it.
        vector_bytes: Bytes of one vector register.
        flags: Compiler options that switch it on.
        cpu_flags: What ``/proc/cpuinfo`` must list.
    """

    level: int
    name: str
    vector_bytes: int
    flags: tuple[str, ...]
    cpu_flags: frozenset[str]


def _isa(level: int, name: str, vector_bytes: int, cpu_flags: str, flags: str = "") -> Isa:
    wanted = frozenset(cpu_flags.split())
    options = flags.split() or [f"-m{flag}" for flag in sorted(wanted)]
    return Isa(level, name, vector_bytes, tuple(options), wanted)


_AVX512 = "avx2 fma f16c avx512f avx512bw avx512dq avx512vl"

PORTABLE = Isa(0, "portable", 16, (), frozenset())
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        PORTABLE,
        _isa(1, "avx2", 32, "avx2 fma f16c"),
        _isa(2, "avx512", 64, _AVX512),
        _isa(
            3,
            "avx512bf16",
            64,
            f"{_AVX512} avx512_bf16",
            "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16",
        ),
        _isa(
            4,
            "amx",
            64,
            f"{_AVX512} avx512_bf16 amx_tile amx_bf16",
            "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16"
            " -mamx-tile -mamx-bf16",
        ),
    )
}


# CPUs with these take a vector of bf16 pairs every other cycle, but two of float32 in each:
# where the tiles that they have for it cannot be used, bf16 is faster widened (1.4 times, forward).
SLOW_PAIRS = frozenset({"amx_bf16"})


def host(*, pairs: bool = False) -> Isa:
    """The level kernels are built for: ``FLEXATTN_ISA`` when set, else the fastest of this CPU.

    Args:
        pairs: Whether products of bf16 pairs are wanted even where they are slow, for kernels
            that would spend as much on widening.

    Raises:
        ArgumentError: ``FLEXATTN_ISA`` names no level, or one that this CPU lacks.
    """
    wanted = knobs.get("FLEXATTN_ISA")
    flags = _cpu_flags()
    best = detect(platform.machine(), flags)
    if best.name == "amx" and not _tiles_permitted():
        best = ISAS["avx512bf16"]
    if wanted is None:
        slow = best.name == "avx512bf16" and bool(SLOW_PAIRS & flags)
        return ISAS["avx512"] if slow and not pairs else best
    isa = ISAS.get(wanted)
    if isa is None or isa.level > best.level:
        here = [known.name for known in ISAS.values() if known.level <= best.level]
        raise ArgumentError(
            f"FLEXATTN_ISA={wanted} cannot be used on this machine.",
            why="it is no instruction set flexattn knows."
            if isa is None
            else "this CPU lacks it, so its kernels would die of an illegal instruction.",
            fix=f"unset FLEXATTN_ISA, or choose one of: {', '.join(here)}.",
        )
    return isa


def detect(machine: str, cpu_flags: frozenset[str]) -> Isa:
    """The best level of a CPU of architecture ``machine`` that lists ``cpu_flags``."""
    if machine.lower() not in _X86:
        return PORTABLE
    return max(
        (isa for isa in ISAS.values() if isa.cpu_flags <= cpu_flags), key=lambda isa: isa.level
    )


@functools.cache
def _tiles_permitted() -> bool:
    """Asks Linux for AMX's tile registers, which a process has to before it may use them."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # asm/unistd_64.h, asm/prctl.h
    try:
        return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)
    except (OSError, TypeError, AttributeError):  # no C library to ask with
        return False


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as lines:  # one entry a core: stop at the first
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
