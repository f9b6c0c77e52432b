"""What a compiled Triton kernel takes of its GPU: registers, memory, tensor-core instructions."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Tensor-core instructions in SASS by how they are started: HGMMA by a group of four warps, UTCHMMA
# by one thread into tensor memory, HMMA and the rest by one warp.
_SASS = {
    "wgmma": re.compile(r"\b[HIQB]GMMA\."),
    "tcgen05": re.compile(r"\bUTC[A-Z]*MMA\b"),
    "mma.sync": re.compile(r"\b[HIDQO]MMA\."),
}
_LOCAL = re.compile(r"\b(LDL|STL)((?:\.[A-Z0-9]+)*) ")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_AMD = re.compile(r"^\s*\.(\w+):\s+(\d+)\s*$", re.M)


def resources(kernel: Mapping[str, Path], shared: int) -> dict[str, Any]:
    """What a kernel takes.

    Args:
        kernel: Ending → path of its files, with a ``cubin`` or ``amdgcn`` among them.
        shared: Bytes of shared memory, as Triton tells.

    Returns:
        ``registers`` per thread, ``spilled_words`` of 4 bytes written to memory for want of
        registers, ``stack`` in bytes per thread, ``shared_bytes`` and ``mma``: kind of
        tensor-core instruction (wgmma, mma.sync, tcgen05, mfma) → how many are in the code.
    """
    found = _nvidia(kernel["cubin"]) if "cubin" in kernel else _amd(kernel["amdgcn"].read_text())
    return {**found, "shared_bytes": shared} | {"mma": found["mma"]}


def _nvidia(cubin: Path) -> dict[str, Any]:
    tool = importlib.import_module("triton.knobs").nvidia.cuobjdump.path
    usage = _USAGE.search(_output(tool, "-res-usage", str(cubin)))
    registers, stack = map(int, usage.groups()) if usage else (0, 0)
    sass = _output(tool, "-sass", str(cubin))
    local: Counter[str] = Counter()
    for name, width in _LOCAL.findall(sass):
        local[name] += 4 if "128" in width else 2 if "64" in width else 1
    counts = {kind: len(pattern.findall(sass)) for kind, pattern in _SASS.items()}
    return {
        "registers": registers,
        "spilled_words": max(local.values(), default=0),
        "stack": stack,
        "mma": {kind: count for kind, count in counts.items() if count},
    }


def _amd(text: str) -> dict[str, Any]:
    facts = {name: int(number) for name, number in _AMD.findall(text)}
    matrix = len(re.findall(r"\bv_mfma_", text))
    return {
        "registers": facts.get("vgpr_count", 0),
        # Scalar registers are spilled into lanes of vector registers, not into memory.
        "spilled_words": facts.get("vgpr_spill_count", 0),
        "stack": facts.get("private_segment_fixed_size", 0),
        "mma": {"mfma": matrix} if matrix else {},
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout
