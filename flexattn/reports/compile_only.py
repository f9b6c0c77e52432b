"""Generates kernels without running them: `lower` gives the text, `compile_only` builds it."""

from __future__ import annotations

import functools
import inspect
import time
from typing import Any

import torch

from flexattn.errors import ArgumentError, BackendError
from flexattn.kernel.isa import ISAS, Isa
from flexattn.kernel.source import KernelSource, kernel_source
from flexattn.op.programs import STORAGE
from flexattn.reports.problem import Mod, make_problem, trace
from flexattn.runtime import build, cache

DIRECTIONS = ("forward", "backward", "tiles")


def kind_of(mod: Mod) -> str:
    """``score`` or ``mask``, by the number of arguments a mod must be given."""
    try:
        parameters = inspect.signature(mod).parameters.values()
    except (TypeError, ValueError):
        return "mask"
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in named if p.default is p.empty]
    return "score" if len(needed) == 5 else "mask"


def lower(
    mod: Mod,
    target: str = "cpp",
    *,
    kind: str | None = None,
    direction: str = "forward",
    dtype: torch.dtype = torch.float32,
    Q_LEN: int = 1024,
) -> str:
    """The text of the kernel that ``mod`` becomes.

    Args:
        target: ``cpp`` for this machine, or an instruction set of `kernel/isa.py`.
        kind: ``score`` or ``mask``; found from the number of arguments by default.
        direction: ``forward``, ``backward`` or ``tiles``.
        Q_LEN: Length for which accesses are proved to be inside their captures.

    Raises:
        BackendError: There is no such target.
    """
    return _source(mod, target, kind, direction, dtype, Q_LEN).text


def compile_only(
    mod: Mod,
    target: str = "cpp",
    *,
    kind: str | None = None,
    direction: str = "forward",
    dtype: torch.dtype = torch.float32,
    Q_LEN: int = 1024,
) -> dict[str, Any]:
    """Compile the kernel that ``mod`` becomes, for this machine or another, without running it.

    Returns:
        ``target``, ``direction``, ``dtype``, ``key`` of the cache entry, ``source`` and
        ``library`` (paths), and ``seconds`` it took, near 0 when it was cached.
    """
    source = _source(mod, target, kind, direction, dtype, Q_LEN)
    start = time.perf_counter()
    with cache.locked(source.key):
        entry = cache.lookup(source.key)
        if entry is None:
            entry = cache.store(source.key, functools.partial(build.build, source))
    return {
        "target": source.isa.name,
        "direction": direction,
        "dtype": source.dtype,
        "key": source.key,
        "source": str(entry.folder / cache.SOURCE),
        "library": str(entry.folder / cache.LIBRARY),
        "seconds": round(time.perf_counter() - start, 4),
    }


def _source(
    mod: Mod, target: str, kind: str | None, direction: str, dtype: torch.dtype, length: int
) -> KernelSource:
    if direction not in DIRECTIONS:
        raise ArgumentError(
            f"direction {direction!r} is none of {', '.join(DIRECTIONS)}.",
            why="each direction is a kernel of its own.",
            fix='pass direction="forward", for instance.',
        )
    score = (kind or kind_of(mod)) == "score"
    problem = make_problem(1, 8, length, None, 64, None, None, dtype)
    traced = trace(mod if score else None, None if score else mod, problem)
    grads = {i for i, tensor in enumerate(traced.bound.captures) if tensor.requires_grad}
    return kernel_source(
        traced.program,
        direction,
        dtype=STORAGE[dtype],
        isa=_isa(target),
        grads=grads if direction == "backward" else frozenset(),
        proved=traced.facts.proved,
        wide=traced.facts.wide,
    )


def _isa(target: str) -> Isa | None:
    if target == "cpp":
        return None
    if target in ISAS:
        return ISAS[target]
    raise BackendError(
        f"there is no target {target!r}.",
        why=f"the targets are cpp, {', '.join(ISAS)}.",
        fix="pass one of them; cpp is this machine's best.",
    )
