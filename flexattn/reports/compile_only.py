"""Generates kernels without running them: `lower` gives the text, `compile_only` builds it.

For the CPU here; for GPUs, which need not be there, see `compile_triton.py`.
"""

from __future__ import annotations

import functools
import inspect
import time
from typing import Any, TypeAlias

import torch

from flexattn.errors import ArgumentError, BackendError
from flexattn.kernel.isa import ISAS, Isa
from flexattn.kernel.source import KernelSource, kernel_source
from flexattn.op.programs import STORAGE
from flexattn.reports import compile_triton
from flexattn.reports.problem import Mod, Traced, make_problem, trace
from flexattn.runtime import build, cache

DIRECTIONS = ("forward", "backward", "tiles", "decode")
SHORT = {"fwd": "forward", "bwd": "backward"}
HeadDim: TypeAlias = int | tuple[int, int]


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
    mod: Mod | None = None,
    target: str = "cpp",
    *,
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    kind: str | None = None,
    direction: str = "forward",
    dtype: torch.dtype | None = None,
    head_dim: HeadDim = 64,
    B: int = 1,
    H: int = 8,
    Q_LEN: int = 1024,
    KV_LEN: int | None = None,
) -> str:
    """The text of the kernel that ``mod`` becomes; of all kernels, where a direction takes several.

    Args:
        mod: A score_mod or a mask_mod.
        target: ``cpp`` for this machine, an instruction set of `kernel/isa.py`, or a GPU of
            `kernel/targets.py`, such as ``sm_90``.
        score_mod: Together with ``mask_mod`` in place of ``mod``, for a kernel with both.
        mask_mod: See ``score_mod``.
        kind: ``score`` or ``mask``; found from the number of arguments by default.
        direction: ``forward``, ``backward`` or ``tiles``; for GPUs also ``decode``.
        dtype: Of query, key and value; float32 for CPUs and bfloat16 for GPUs by default.
        head_dim: D, or (D, Dv); kernels for CPUs serve all.
        B: Batches for which accesses are proved to be inside their captures.
        H: Query heads, likewise.
        Q_LEN: Queries, likewise.
        KV_LEN: Keys, likewise; as many as queries by default.

    Raises:
        BackendError: There is no such target.
        TargetError: There is no such GPU.
    """
    direction = SHORT.get(direction, direction)
    traced, dtype = _trace(
        mod, score_mod, mask_mod, kind, direction, target, dtype, (B, H, Q_LEN, KV_LEN)
    )
    if compile_triton.is_gpu(target):
        kernels = compile_triton.sources(traced, target, direction, STORAGE[dtype], head_dim)
        return "\n\n".join(source.text for source in kernels)
    return _source(traced, target, direction, dtype).text


def compile_only(
    mod: Mod | None = None,
    target: str = "cpp",
    *,
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    kind: str | None = None,
    direction: str = "forward",
    dtype: torch.dtype | None = None,
    head_dim: HeadDim = 64,
    B: int = 1,
    H: int = 8,
    Q_LEN: int = 1024,
    KV_LEN: int | None = None,
) -> dict[str, Any]:
    """Compile the kernel that ``mod`` becomes, for this machine or another, without running it.

    The arguments are those of `lower`.

    Returns:
        ``target``, ``direction``, ``dtype`` and ``seconds`` it took, near 0 when it was cached.
        For CPUs also ``key`` of the cache entry, ``source`` and ``library`` (paths). For GPUs
        ``head_dim`` and what the kernels take: ``registers`` per thread and ``stack`` bytes, the
        most of any of them; ``spilled_words``, of all; ``shared_bytes``, the most; ``mma``, kind
        of tensor-core instruction → count; and all of this for each one in ``kernels``.
    """
    direction = SHORT.get(direction, direction)
    traced, dtype = _trace(
        mod, score_mod, mask_mod, kind, direction, target, dtype, (B, H, Q_LEN, KV_LEN)
    )
    facts = {"target": target, "direction": direction, "dtype": STORAGE[dtype]}
    if compile_triton.is_gpu(target):
        kernels = compile_triton.sources(traced, target, direction, STORAGE[dtype], head_dim)
        dims = [kernels[0].D, kernels[0].DV]
        return facts | {"head_dim": dims} | compile_triton.compile_sources(kernels)
    source = _source(traced, target, direction, dtype)
    start = time.perf_counter()
    with cache.locked(source.key):
        entry = cache.lookup(source.key)
        if entry is None:
            entry = cache.store(source.key, functools.partial(build.build, source))
    return facts | {
        "target": source.isa.name,
        "key": source.key,
        "source": str(entry.folder / cache.SOURCE),
        "library": str(entry.folder / cache.LIBRARY),
        "seconds": round(time.perf_counter() - start, 4),
    }


def _trace(
    mod: Mod | None,
    score_mod: Mod | None,
    mask_mod: Mod | None,
    kind: str | None,
    direction: str,
    target: str,
    dtype: torch.dtype | None,
    lengths: tuple[int, int, int, int | None],
) -> tuple[Traced, torch.dtype]:
    if direction not in DIRECTIONS:
        raise ArgumentError(
            f"direction {direction!r} is none of {', '.join(DIRECTIONS)}.",
            why="each direction is a kernel of its own.",
            fix='pass direction="forward", for instance.',
        )
    if mod is not None and (kind or kind_of(mod)) == "score":
        score_mod = mod
    elif mod is not None:
        mask_mod = mod
    gpu = compile_triton.is_gpu(target)
    dtype = dtype or (torch.bfloat16 if gpu else torch.float32)
    batch, heads, rows, keys = lengths
    problem = make_problem(batch, heads, rows, keys, 64, None, None, dtype)
    return trace(score_mod, mask_mod, problem), dtype


def _source(traced: Traced, target: str, direction: str, dtype: torch.dtype) -> KernelSource:
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
        why=f"the targets are cpp, {', '.join(ISAS)}, and GPUs: {', '.join(compile_triton.GPUS)}.",
        fix="pass one of them; cpp is this machine's best.",
    )
