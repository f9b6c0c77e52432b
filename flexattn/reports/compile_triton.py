"""The Triton half of `compile_only` and `lower`: kernels for a GPU that need not be there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from flexattn.errors import ArgumentError, TargetError
from flexattn.kernel.targets import TARGETS, Target, target
from flexattn.kernel.triton_source import Choices, TritonSource, triton_source
from flexattn.kernel.triton_tiles import SIZES, choose_tile, cost_of, takes_descriptors
from flexattn.reports.problem import Traced
from flexattn.runtime import triton_inspect, triton_launch

# The kernels of each direction, in the order they run.
KERNELS = {
    "forward": ("forward",),
    "backward": ("delta", "dq", "dkdv"),
    "decode": ("decode", "combine"),
    "tiles": ("classes",),
}
GPUS = tuple(name for name, each in TARGETS.items() if each.backend != "interpreter")
BLOCK = (128, 128)  # queries and keys of a block of the mask, as create_block_mask makes them
_SPLITS = 8


def is_gpu(name: str) -> bool:
    """Whether a target's name speaks of a GPU."""
    return name in TARGETS or name.startswith(("sm_", "gfx"))


def sources(
    traced: Traced, name: str, direction: str, dtype: str, head_dim: int | tuple[int, int]
) -> list[TritonSource]:
    """The kernels of a direction, as a call with contiguous tensors and a block mask runs them.

    Raises:
        TargetError: There is no such GPU.
        ArgumentError: The head dim is none.
    """
    gpu = target(name)
    if gpu.backend == "interpreter":
        raise TargetError(
            "nothing is compiled for the interpreter.",
            why="it runs the kernels' Python.",
            fix='name a GPU, such as target="sm_90".',
        )
    D, DV = (head_dim, head_dim) if isinstance(head_dim, int) else head_dim
    if min(D, DV) < 1:
        raise ArgumentError(
            f"head_dim is {head_dim}.",
            why="it counts the elements of a query, and of a value where they differ.",
            fix="pass head_dim=128 or head_dim=(192, 128), for instance.",
        )
    grads = {i for i, tensor in enumerate(traced.bound.captures) if tensor.requires_grad}
    return [
        triton_source(
            traced.program,
            kernel,
            dtype=dtype,
            D=D,
            DV=DV,
            target=gpu,
            choices=_choices(traced, kernel, gpu, dtype, D, DV),
            grads=grads if direction == "backward" else (),
            proved=traced.facts.proved,
            wide=traced.facts.wide,
            locations=traced.locations,
        )
        for kernel in KERNELS[direction]
    ]


def compile_sources(kernels: Iterable[TritonSource]) -> dict[str, Any]:
    """Compile; what all of them take together, and each of them in ``kernels``."""
    start = time.perf_counter()
    each = {source.spec.name: _compile(source) for source in kernels}
    parts = list(each.values())
    mma: Counter[str] = Counter()
    for part in parts:
        mma.update(part["mma"])
    return {
        "registers": max(part["registers"] for part in parts),
        "spilled_words": sum(part["spilled_words"] for part in parts),
        "stack": max(part["stack"] for part in parts),
        "shared_bytes": max(part["shared_bytes"] for part in parts),
        "mma": dict(mma),
        "seconds": round(time.perf_counter() - start, 4),
        "kernels": each,
    }


def _compile(source: TritonSource) -> dict[str, Any]:
    start = time.perf_counter()
    kernel = triton_launch.load_triton(source)
    files = triton_launch.files(kernel)
    facts: Mapping[str, Any] = triton_inspect.resources(files, kernel.compiled.metadata.shared)
    tile = source.choices.tile
    return {
        **facts,
        "seconds": round(time.perf_counter() - start, 4),
        "tile": {"bm": tile.bm, "bn": tile.bn, "warps": tile.num_warps, "stages": tile.num_stages},
        "key": source.key,
        "source": str(files["py"]),
    }


def _choices(traced: Traced, kernel: str, gpu: Target, dtype: str, D: int, DV: int) -> Choices:
    if kernel in ("delta", "combine"):
        return Choices(tile=choose_tile(kernel, gpu, dtype, D, DV), splits=_SPLITS)
    masked = traced.program.mask is not None and kernel != "classes"
    block = BLOCK if masked else None
    captures = traced.bound.captures
    cost = cost_of(traced.program)
    tile = choose_tile(kernel, gpu, dtype, D, DV, block=block, cost=cost)
    aligned = D * SIZES[dtype] % 16 == 0 and DV * SIZES[dtype] % 16 == 0
    return Choices(
        tile=tile,
        aligned=aligned,
        tables=4 if masked else 0,
        even=(BLOCK[0] % tile.bm if kernel == "dkdv" else BLOCK[1] % tile.bn) == 0,
        ordered=masked and traced.program.ranges is None and kernel != "decode",
        descriptors=aligned and takes_descriptors(gpu, dtype, D, DV),
        pack=kernel == "decode",
        dense_captures=tuple(tensor.ndim > 0 for tensor in captures),
        fast_tanh=gpu.backend == "cuda" and dtype == "bf16",
    )
