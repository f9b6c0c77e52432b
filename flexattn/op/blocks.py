"""The block lists of a mask_mod: by proof, or every pair evaluated by a kernel or interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flexattn import knobs
from flexattn.analysis import runs
from flexattn.analysis.runs import RowSource, Runs
from flexattn.errors import BackendError
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Load, Node, walk
from flexattn.ir.program import Program
from flexattn.ir.sites import find_sites
from flexattn.masks.classify import Evaluate, classify, lower_edges
from flexattn.masks.tables import cdiv, from_classes
from flexattn.op.faults import fault_error
from flexattn.op.kernels import facts_of, kernel_for
from flexattn.op.programs import Bound, variant_of_text
from flexattn.op.request import Call, Position
from flexattn.passes.guard import Guarded, guard

Shape: TypeAlias = tuple[int, int, int, int]
Classes: TypeAlias = Callable[[Bound, Shape, tuple[int, int], torch.device], Tensor]

INTERPRETED = 1 << 24
"""Operations (pairs times nodes) that the interpreter does in less time than a compiler takes."""


def block_runs(
    bound: Bound,
    shape: Shape,
    block: tuple[int, int],
    device: torch.device,
    backend: str | None = None,
    census: Any = None,
) -> Runs | RowSource:
    """The blocks that the mask keeps, for ``shape`` = (B, H, Q_LEN, KV_LEN); runs lie on the CPU.

    By proof, unless a backend is asked for by name. ``slices`` has size 1 along B (H) where the
    mask does not read b (h); batches and heads that are alike share a slice. Where the mask lists
    too many blocks to be kept, the runs are made when rows are asked for.

    Args:
        census: An `analysis.tiles.census.Census` that takes counts of what was decided how.
    """
    small = _told_apart(bound, shape)
    if 0 not in small and proves(device, backend):
        proofs = _proofs()
        if proofs.can_prove(bound):
            asked = proofs.question(bound, small, block)

            def settle(tiles: Any) -> np.ndarray:
                heads = *asked.heads, *small[2:]
                classes: np.ndarray = settler(bound, heads, block, device)(tiles)
                return classes

            found: Runs | RowSource = proofs.proved_runs(asked, settle, census)
            return found
    classes = block_classes(bound, small, block, device, backend)
    slices = np.arange(small[0] * small[1], dtype=np.int32).reshape(small[:2])
    flat = classes.cpu().numpy().reshape(slices.size, *classes.shape[2:])
    return runs.from_classes(flat, slices)


def block_classes(
    bound: Bound,
    shape: Shape,
    block: tuple[int, int],
    device: torch.device,
    backend: str | None = None,
) -> Tensor:
    """EMPTY, PARTIAL or FULL per block of the mask: uint8 [B, H, rows, cols].

    A mask that does not read b (or h) is looked at for one, and the result repeats itself
    without memory. On a GPU every pair is evaluated, and nobody waits, so that a CUDA graph may
    take it along.
    """
    small = _told_apart(bound, shape)
    if 0 in small:
        sizes = (cdiv(shape[2], block[0]), cdiv(shape[3], block[1]))
        classes = torch.zeros((*small[:2], *sizes), dtype=torch.uint8, device=device)
    elif device.type == "cpu" and proves(device, backend) and _proofs().can_prove(bound):
        found = block_runs(bound, small, block, device)
        whole = found.part(0, found.rows)
        dense = runs.to_classes(whole)[whole.slices.ravel()]
        classes = torch.from_numpy(dense.reshape(*small[:2], *dense.shape[1:]))
    else:
        classes = _classifier(bound, small, device, backend)(bound, small, block, device)
    return classes.expand(*shape[:2], -1, -1)


def settler(bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device) -> Any:
    """What evaluates the blocks that no proof decides; see `op.proofs.Settle`."""
    if device.type == "cuda":
        return import_module("flexattn.op.triton_classes").settler(bound, shape, block, device)
    settle = import_module("flexattn.op.settle")

    def by_kernel(listed: np.ndarray) -> np.ndarray:
        classes = np.empty(len(listed), np.uint8)
        _launch_tiles(bound, shape, block, classes.ctypes.data, listed)
        return classes

    nodes = sum(isinstance(n, Load | Apply) for n in walk(bound.variant.program.mask))
    most = settle.INTERPRETED // max(1, nodes)
    return settle.Settler(shape, block, evaluator(bound, shape, device), by_kernel, most)


def _told_apart(bound: Bound, shape: Shape) -> Shape:
    """``shape`` with B (H) of 1 where the mask does not read b (h)."""
    reads = bound.variant.inputs
    batch, heads = (n if name in reads else min(n, 1) for n, name in zip(shape, "bh"))
    return batch, heads, *shape[2:]


def proves(device: torch.device, backend: str | None) -> bool:
    return (
        device.type in ("cpu", "cuda")
        and not backend
        and not knobs.get("FLEXATTN_BACKEND")
        and not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def _proofs() -> Any:
    # A third of the time to import flexattn, for those who make masks.
    return import_module("flexattn.op.proofs")


def _classifier(bound: Bound, shape: Shape, device: torch.device, backend: str | None) -> Classes:
    backend = backend or knobs.get("FLEXATTN_BACKEND")
    if backend is not None:
        if backend == "triton":
            import_module("flexattn.op.triton_device").check_device(device)
        if backend not in CLASSIFIERS or (backend == "cpp" and device.type != "cpu"):
            raise BackendError(
                f"backend {backend!r} cannot make a mask on {device}.",
                why=f"the backends for masks are {', '.join(map(repr, CLASSIFIERS))}; 'cpp' runs "
                "on the CPU alone.",
                fix="leave backend out, or pass 'eager'.",
            )
        return CLASSIFIERS[backend]
    if device.type == "cuda":
        return _triton
    if device.type != "cpu":
        return _eager
    program = bound.variant.program
    cost = math.prod(shape) * sum(isinstance(n, Load | Apply) for n in walk(program.mask))
    return _eager if cost <= INTERPRETED and not bound.variant.kernels else _cpp


def run_blocks(
    captures: list[Tensor],
    program: str,
    ints: list[int],
    floats: list[float],
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    q_block: int,
    kv_block: int,
    separate_full: bool,
    device: torch.device,
) -> list[Tensor]:
    """``kv_num_blocks, kv_indices`` and, with ``separate_full``, ``full_kv_*`` of a program.

    This is the torch operator ``flexattn::blocks``; its arguments are those of
    ``create_block_mask`` with the mask_mod as text, captured tensors and numbers.
    """
    bound = Bound(variant_of_text(program), captures, ints, floats)
    shape, block = (batch, heads, q_len, kv_len), (q_block, kv_block)
    classes = block_classes(bound, shape, block, torch.device(device))
    partial, full = from_classes(classes, separate_full)
    # An operator may not return one tensor's memory under two indices.
    return [table.contiguous() for pair in (partial, full) if pair for table in pair]


def evaluator(bound: Bound, shape: Shape, device: torch.device) -> Evaluate:
    """The mask of ``bound`` by the interpreter; it raises where the user's mask is in error."""
    program = bound.variant.program
    guarded = _guarded(program)
    numbers = _numbers(bound, device)
    captures = [tensor.detach() for tensor in bound.captures]

    def value(node: Node, grid: Sequence[Tensor]) -> Tensor:
        env = dict(zip(("b", "h", "q_idx", "kv_idx"), grid)) | numbers
        with torch.no_grad():
            return evaluate(node, env, captures, program.compute, on_fault="safe")

    def kept(*grid: Tensor) -> Tensor:
        keep = value(guarded.root, grid)
        if guarded.fault is not None and not keep.is_meta:  # there, only shapes exist
            # A mask that cannot be read decides nothing, whatever its safe reading says.
            bad = value(guarded.fault, grid)
            if bool(bad.any()):
                raise fault_error(_as_call(bound, shape), _position(bad, grid))
        return keep

    return kept


def _eager(bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device) -> Tensor:
    return classify(evaluator(bound, shape, device), shape, block, device)


def _cpp(bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device) -> Tensor:
    rows, cols = cdiv(shape[2], block[0]), cdiv(shape[3], block[1])
    classes = torch.empty((*shape[:2], rows, cols), dtype=torch.uint8)
    _launch_tiles(bound, shape, block, classes.data_ptr(), None)
    return lower_edges(classes, shape[2:], block)


def _launch_tiles(
    bound: Bound,
    shape: Shape,
    block: tuple[int, int],
    classes: int,
    listed: np.ndarray | None,
) -> None:
    """Classes of all blocks or of those listed; what sticks out is judged by the part inside.

    Args:
        classes: Address of a byte for each block.
        listed: Numbers ((b * H + h) * rows + row) * cols + col, int64.
    """
    batch, heads, q_len, kv_len = shape
    rows, cols = cdiv(q_len, block[0]), cdiv(kv_len, block[1])
    compute = bound.variant.program.compute
    kernel = kernel_for(bound.variant, "tiles", compute, facts_of(bound, shape))
    chosen = (0, 0) if listed is None else (listed.ctypes.data, len(listed))
    head = (classes, 0, 0, 0, batch, heads, rows, cols, q_len, kv_len, *block, *chosen)
    fault = kernel.launch(head, bound.captures, bound.ints, bound.floats)
    if fault is not None:
        raise fault_error(_as_call(bound, shape), fault)


def _triton(bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device) -> Tensor:
    classes: Tensor = import_module("flexattn.op.triton_classes").classes(
        bound, shape, block, device
    )
    return classes


CLASSIFIERS: dict[str, Classes] = {
    "cpp": _cpp,
    "eager": _eager,
    "triton": _triton,
}


def _as_call(bound: Bound, shape: Shape) -> Call:
    """A call of these lengths on vectors of no elements: what messages about faults start from."""
    batch, heads, q_len, kv_len = shape
    query, key = (torch.empty((batch, heads, length, 0)) for length in (q_len, kv_len))
    return Call(query, key, key, bound, [], (1, 1), 1.0, "eager", False, False)


def _numbers(bound: Bound, device: torch.device) -> dict[str, Tensor]:
    ints, floats = iter(bound.ints), iter(bound.floats)
    dtypes = {I64: torch.int64, "f32": torch.float32, "f64": torch.float64}
    return {
        f"n{i}": torch.tensor(
            next(ints) if kind == I64 else next(floats), dtype=dtypes[kind], device=device
        )
        for i, kind in enumerate(bound.variant.program.numbers)
    }


@lru_cache(maxsize=256)
def _guarded(program: Program) -> Guarded:
    root = program.mask if program.mask is not None else Const(True, BOOL)
    return guard(root, find_sites(program), frozenset())


def _position(bad: Tensor, grid: Sequence[Tensor]) -> Position:
    """The first place of ``bad`` in terms of the indices that ``grid`` holds."""
    full, *indices = torch.broadcast_tensors(bad, *grid)
    at = tuple(full.nonzero()[0].tolist())
    b, h, q, kv = (int(index[at]) for index in indices)
    return b, h, q, kv
