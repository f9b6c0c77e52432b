"""What a launch of Triton kernels needs that follows from shapes, strides, dtypes and flags.

B, Hq, M and N are arguments of every kernel: none of them decides which kernel runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import KernelOptionError
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof
from flexattn.kernel.targets import Target
from flexattn.kernel.triton_source import Choices, TritonSource, triton_source
from flexattn.kernel.triton_spec import TRITON_SPECS
from flexattn.kernel.triton_tiles import SIZES, Tile, cost_of, is_legal, takes_descriptors
from flexattn.masks.tables import cdiv
from flexattn.op.decoding import may_pack
from flexattn.op.kernels import Facts, dtype_name, facts_of
from flexattn.op.options import option
from flexattn.op.programs import Variant
from flexattn.op.request import COMPUTE, Call, KernelOptions
from flexattn.op.triton_captures import choices_of_captures
from flexattn.op.triton_device import Machine, machine_of
from flexattn.op.triton_tables import block_of, no_arguments, range_arguments, row_arguments
from flexattn.runtime import counters
from flexattn.runtime.triton_autotune import tuned_tile
from flexattn.runtime.triton_launch import TritonKernel, load_triton

Strides: TypeAlias = tuple[int, ...]

CACHE_BYTES = 32 << 20  # keys and values of the heads that run at once stay in the L2 cache
PLAN_LIMIT = 1024  # prepared launches kept per program
ALIGNMENT = 16  # bytes that the widest load and a descriptor want
PACKED = 64  # queries, and heads of a group times queries, that decoding takes at most

# (BLOCK_M, BLOCK_N) of PyTorch's options, and their prefix, per kernel.
_TILE_OPTIONS = {
    "forward": ("fwd", "BLOCK_M", "BLOCK_N"),
    "decode": ("fwd", "BLOCK_M", "BLOCK_N"),
    "dq": ("bwd", "BLOCK_M2", "BLOCK_N2"),
    "dkdv": ("bwd", "BLOCK_M1", "BLOCK_N1"),
}

_lock = threading.Lock()


@dataclass(frozen=True)
class Frame:
    """What all kernels of a call share.

    Attributes:
        machine: Where they run.
        dtype: Name of the dtype of query, key and value.
        stats: Compute dtype, that of lse.
        D: Head dim of queries and keys.
        DV: Head dim of values.
        lengths: (B, Hq, M, N).
        group: Query heads per key head.
        block: Queries and keys of a block of the mask; (1, 1) without one.
        tables: Number of block tables: 0, 2 or 4; 4 with ranges, which stand for all of them.
        facts: What is proved for the lengths.
        base: Choices that do not differ from kernel to kernel, with a tile that does.
        options: What the user set.
        cost: What the mods cost a tile (`kernel/triton_tiles.py`).
    """

    machine: Machine
    dtype: str
    stats: torch.dtype
    D: int
    DV: int
    lengths: tuple[int, int, int, int]
    group: int
    block: tuple[int, int]
    tables: int
    facts: Facts
    base: Choices
    options: KernelOptions
    cost: str = "plain"

    @property
    def rows(self) -> int:
        """Rows of blocks."""
        return cdiv(self.lengths[2], self.block[0])

    @property
    def cols(self) -> int:
        """Columns of blocks."""
        return cdiv(self.lengths[3], self.block[1])

    def tile(self, kernel: str, measure: Callable[[Tile], float] | None = None) -> Tile:
        """The tile of ``kernel``: one that fits the machine, with what the user set of it."""
        target = self.machine.target
        tile = tuned_tile(
            *(kernel, target, self.dtype, self.D, self.DV),
            block=self.block if self.tables else None,
            cost=self.cost,
            device=self.machine.name,
            measure=None if self.options else measure,
        )
        if not self.options:
            return tile
        own = _with_options(tile, kernel, self.options)
        if own != tile and not is_legal(kernel, own, target, self.dtype, self.D, self.DV):
            raise KernelOptionError(
                f"kernel_options ask for {own} in the {kernel} kernel.",
                why=f"{target.name} has {target.shared_limit} bytes of shared memory for a "
                "program, and this takes more.",
                fix="make the tile or num_stages smaller, or leave them out.",
            )
        return own

    def choices(self, kernel: str, tile: Tile | None = None) -> Choices:
        """The choices of ``kernel``, with its own tile or another."""
        tile = tile or self.tile(kernel)
        walked = self.block[0] % tile.bm if kernel == "dkdv" else self.block[1] % tile.bn
        return replace(self.base, tile=tile, even=walked == 0)

    def query_tiles(self, bm: int) -> tuple[int, int]:
        """(tiles of queries in a block, in all)."""
        return _tiles(self.lengths[2], self.block[0], bm, self.tables)

    def key_tiles(self, bn: int) -> tuple[int, int]:
        """(tiles of keys in a block, in all)."""
        return _tiles(self.lengths[3], self.block[1], bn, self.tables)

    @property
    def heads_at_once(self) -> int:
        """Query heads whose keys and values fit the cache together."""
        batch, heads, _, keys = self.lengths
        size = keys * (self.D + self.DV) * SIZES[self.dtype]
        fits = max(1, CACHE_BYTES // max(1, size)) * self.group
        return max(1, min(batch * heads, fits))


def frame_of(call: Call, captures: Sequence[Tensor], others: Sequence[Tensor] = ()) -> Frame:
    """The frame of a call whose captures are on its device.

    Args:
        others: Of a backward, tensors of rows beside query, key and value that are read.
    """
    q, k, v, bound = call.query, call.key, call.value, call.bound
    batch, heads, rows, dim = q.shape
    _, kv_heads, keys, value_dim = v.shape
    lengths = (batch, heads, rows, keys)
    machine = machine_of(q.device)
    aligned = all(is_aligned(tensor) for tensor in (q, k, v, *others)) and (
        value_dim * v.itemsize % ALIGNMENT == 0 and dim * q.itemsize % ALIGNMENT == 0
    )
    options = call.kernel
    direction = "bwd" if others else "fwd"
    lists = len(call.tables) if bound.variant.program.ranges is None else 4
    tanh = option(options, direction, "fast_tanh") if options else None
    dense, far = choices_of_captures(captures)
    base = Choices(
        tile=Tile(16, 16, 4, 1),
        tables=lists,
        descriptors=aligned
        and _has_descriptors(machine.target, dtype_name(q), dim, value_dim)
        # What descriptors make of rows that overlap, as expanded ones do, is not defined.
        and all(row_strides(tensor)[2] >= tensor.shape[3] for tensor in (q, k, v, *others))
        and not (options and option(options, direction, "USE_TMA") is False),
        positive_scale=call.scale > 0,
        ordered=bool(call.tables),
        aligned=aligned,
        dense_captures=dense,
        far=far,
        fast_tanh=machine.target.backend == "cuda"
        and (q.dtype == torch.bfloat16 if tanh is None else tanh),
    )
    block = block_of(call.block, (rows, keys)) if lists else (1, 1)
    return Frame(
        *(machine, dtype_name(q), COMPUTE[bound.variant.program.compute], dim, value_dim),
        *(lengths, heads // max(1, kv_heads), block, lists),
        *(facts_of(bound, lengths), base, options, cost_of(bound.variant.program)),
    )


def agreed_proofs(
    variant: Variant, direction: str, facts: Facts, grads: frozenset[int] = frozenset()
) -> frozenset[Proof]:
    """The proofs that kernels of one direction rely on: those that all calls so far had.

    Proofs vary with the lengths, and must not multiply kernels (see `op/kernels.py`).
    """
    slot = ("triton proofs", direction, facts.wide, grads)
    found: frozenset[Proof] | None = variant.kernels.get(slot)
    if found is not None and found <= facts.proved:
        return found
    with _lock:
        found = variant.kernels.get(slot)
        proved = facts.proved if found is None else facts.proved & found
        variant.kernels[slot] = proved
    return proved


def source_of(
    variant: Variant,
    name: str,
    frame: Frame,
    choices: Choices,
    grads: frozenset[int] = frozenset(),
) -> TritonSource:
    """A kernel that is right for the frame's facts, to be loaded."""
    direction = TRITON_SPECS[name].direction
    return triton_source(
        variant.program,
        name,
        dtype=frame.dtype,
        D=frame.D,
        DV=frame.DV,
        target=frame.machine.target,
        choices=choices,
        grads=grads,
        proved=agreed_proofs(variant, direction, frame.facts, grads),
        wide=frame.facts.wide,
    )


def kernel_of(
    variant: Variant,
    name: str,
    frame: Frame,
    choices: Choices,
    grads: frozenset[int] = frozenset(),
) -> TritonKernel:
    """``source_of``, loaded; one that is loaded already where possible."""
    direction = TRITON_SPECS[name].direction
    proved = agreed_proofs(variant, direction, frame.facts, grads)
    slot: Hashable = (
        *("triton", name, frame.dtype, frame.D, frame.DV, frame.machine.target, choices),
        *(proved, frame.facts.wide, grads),
    )
    kernel: TritonKernel | None = variant.kernels.get(slot)
    if kernel is None:
        source = source_of(variant, name, frame, choices, grads)
        kernel = variant.kernels[slot] = load_triton(source)
    return kernel


def plain_kernel(name: str, frame: Frame, choices: Choices) -> TritonKernel:
    """A kernel without mods: ``delta`` or ``combine``."""
    return _plain_kernel(name, frame.dtype, frame.DV, frame.machine, choices)


@lru_cache(maxsize=1024)
def _plain_kernel(
    name: str, dtype: str, value_dim: int, machine: Machine, choices: Choices
) -> TritonKernel:
    source = triton_source(
        Program(None, None),
        name,
        dtype=dtype,
        D=value_dim,
        DV=value_dim,
        target=machine.target,
        choices=choices,
    )
    return load_triton(source)


@counters.on_clear
def _forget() -> None:
    _plain_kernel.cache_clear()


def plan_key(call: Call, captures: Sequence[Tensor], *tensors: Tensor) -> tuple[Any, ...]:
    """What two calls of a program must have in common to share a plan."""
    key: list[Any] = [call.scale, call.block, call.kernel, call.deterministic, *call.bound.ints]
    at = 0
    for tensor in tensors:
        key += (tensor.shape, tensor.stride())
        at |= tensor.data_ptr()
    first = tensors[0]
    key += (at % ALIGNMENT, first.dtype, first.device, len(call.tables))
    if call.tables and first.shape[2] <= PACKED:
        key.append(may_pack(call))
    for tensor in captures:
        key += (tensor.shape, tensor.stride())
    return tuple(key)


def row_strides(tensor: Tensor) -> Strides:
    """Strides of a [B, H, length, dim] tensor for the kernels; 0 along a shared batch.

    A dimension of one element may have any stride, which is replaced by one that is aligned.
    """
    shape, strides = tensor.shape, tensor.stride()
    return (
        0 if shape[0] == 1 else strides[0],
        0 if shape[1] == 1 else strides[1],
        shape[3] if shape[2] == 1 else strides[2],
        1 if shape[3] == 1 else strides[3],
    )


def is_aligned(tensor: Tensor) -> bool:
    """Whether rows of a [B, H, length, dim] tensor are contiguous and begin at multiples of 16."""
    *outer, inner = row_strides(tensor)
    return (
        inner == 1
        and tensor.data_ptr() % ALIGNMENT == 0
        and all(stride * tensor.itemsize % ALIGNMENT == 0 for stride in outer)
    )


def rows_of_lists(
    call: Call, frame: Frame, tiles: tuple[int, int] | None, nothing: Tensor
) -> tuple[Any, Tensor]:
    """The arguments ``tables`` and ``order`` of kernels that go by rows."""
    if call.bound.variant.program.ranges is not None:
        return range_arguments(call.block, frame.lengths[2:], frame.block), nothing
    if not call.tables:
        return no_arguments(nothing, frame.block)
    return row_arguments(call.tables, frame.lengths[3], frame.block, tiles)


def stored(tensor: Tensor) -> Tensor:
    """``tensor`` with its own values in memory; a view may be marked as negated instead."""
    return tensor.resolve_neg()


def _has_descriptors(target: Target, dtype: str, D: int, DV: int) -> bool:
    """Whether descriptors load faster than pointers, or can be tried out."""
    return target.backend == "interpreter" or takes_descriptors(target, dtype, D, DV)


def _tiles(length: int, block: int, tile: int, tables: int) -> tuple[int, int]:
    if not tables:
        return 1, cdiv(length, tile)
    each, blocks = cdiv(block, tile), cdiv(length, block)
    return each, (blocks - 1) * each + cdiv(length - (blocks - 1) * block, tile)


def _with_options(tile: Tile, kernel: str, options: KernelOptions) -> Tile:
    prefix, m, n = _TILE_OPTIONS[kernel]
    names = {"bm": m, "bn": n, "num_warps": "num_warps", "num_stages": "num_stages"}
    own = {
        field: value
        for field, name in names.items()
        if (value := option(options, prefix, name)) is not None
    }
    own = replace(tile, **own)
    if min(own.bm, own.bn) < 16 or own.num_warps not in (1, 2, 4, 8, 16) or not own.num_stages:
        raise KernelOptionError(
            f"kernel_options ask for {own} in the {kernel} kernel.",
            why="tiles are 16 or more, warps 1, 2, 4, 8 or 16, and stages 1 or more.",
            fix="correct these options, or leave them out.",
        )
    return own
