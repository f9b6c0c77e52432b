"""Writes one cache entry: source text, program text, compiled library and the facts about them."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from flexattn import knobs
from flexattn.errors import CacheDirectoryError
from flexattn.kernel.source import KernelSource
from flexattn.runtime import cache, compiler, counters


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
    )
    return {
        **source.meta,
        "key": source.key,
        "compiler": [chosen.path, *chosen.options],
        "flags": list(source.flags),
        "compile_seconds": round(time.perf_counter() - begin, 3),
    }


def dump(entry: cache.Entry) -> None:
    """Copy the readable parts of ``entry`` to ``FLEXATTN_DUMP``, when set.

    Raises:
        CacheDirectoryError: That folder cannot be written.
    """
    chosen = knobs.get("FLEXATTN_DUMP")
    if not chosen:
        return
    direction = entry.meta.get("direction", "kernel")
    folder = Path(chosen).expanduser() / f"{direction}-{entry.folder.name[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (cache.PROGRAM, cache.SOURCE, cache.META):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(entry.folder / name, folder / name)
    except OSError as error:
        raise CacheDirectoryError(
            f"FLEXATTN_DUMP={chosen} cannot be written.",
            why=str(error),
            fix="set it to a folder that can be written, or unset it.",
        ) from error
