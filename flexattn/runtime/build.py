"""Writes one cache entry: source text, program text, compiled library and the facts about them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexattn import knobs
from flexattn.errors import CacheDirectoryError
from flexattn.kernel.source import KernelSource
from flexattn.runtime import cache, compiler, counters

if TYPE_CHECKING:  # it brings the whole lowering for GPUs along
    from flexattn.kernel.triton_source import TritonSource

ANALYSIS = "analysis.txt"  # beside the files of a cache entry, where a kernel is dumped


def build(source: KernelSource, folder: Path) -> dict[str, Any]:
    """Generate ``source`` into ``folder`` and compile it; the facts for ``meta.json``."""
    chosen = compiler.find()
    (folder / cache.SOURCE).write_text(source.text)
    (folder / cache.PROGRAM).write_text(source.program_text)
    begin = time.perf_counter()
    counters.add("compiler_runs")
    compiler.compile_library(
        chosen,
        folder / cache.SOURCE,
        folder / cache.LIBRARY,
        source.flags,
        keep=cache.failed_source(source.key),
        parts=source.parts if (os.cpu_count() or 1) > 1 else 1,
    )
    return {
        **source.meta,
        "key": source.key,
        "compiler": [chosen.path, *chosen.options],
        "flags": list(source.flags),
        "compile_seconds": round(time.perf_counter() - begin, 3),
    }


def dump(source: KernelSource | TritonSource, entry: cache.Entry, name: str = cache.SOURCE) -> None:
    """Write what a reader wants to know of a kernel to ``FLEXATTN_DUMP``, when set.

    Args:
        source: The kernel.
        entry: Where it lies.
        name: File for its text.

    Raises:
        CacheDirectoryError: That folder cannot be written.
    """
    chosen = knobs.get("FLEXATTN_DUMP")
    if not chosen:
        return
    files = {
        cache.PROGRAM: source.program_text,
        ANALYSIS: source.analysis_text,
        name: source.text,
        cache.META: json.dumps(entry.meta, indent=1, sort_keys=True) + "\n",
    }
    try:
        folder = Path(chosen).expanduser() / f"{source.spec.name}-{source.key[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            (folder / path).write_text(text)
    except (OSError, RuntimeError) as error:
        raise CacheDirectoryError(
            f"FLEXATTN_DUMP={chosen} cannot be written.",
            why=f"{error}.",
            fix="set it to a folder that can be written, or unset it.",
        ) from error
