"""Decides how the backward's work is cut, and gives captured gradients their buffers.

A work item is (batch of keys, key head, chunk of query tiles). Items of one group run one after
the other on one thread and add into the group's own copy of each buffer. Where two groups can
never meet in one element they share a single copy: a gradient indexed plainly by ``b`` is
separate for every batch, by ``h`` for every head, and a dense one (by both q_idx and kv_idx)
for every chunk. Everything follows from shapes and from how many CPUs the machine has, so results
do not depend on the number of threads and repeat bit by bit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
import torch
from torch import Tensor

from flexattn.kernel import config

WORKSPACE_BYTES = 32 << 20  # for all extra copies together
CPUS = os.cpu_count() or 1  # of the machine: neither threads nor affinity, which users change
MAX_GROUPS = 64


@dataclass(frozen=True)
class Place:
    """One place where a captured tensor receives gradient; see ``ir.hooks.CaptureGrad``."""

    capture: int
    dense: bool
    plain: frozenset[str]


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        chunks: Chunks of query tiles per (batch of keys, key head).
        groups: Number of groups; 0 when every item is a group of its own and none share.
        start: ``[groups + 1]`` positions in ``items``.
        items: Item numbers, group by group.
        shared: For each place, whether all groups share one copy of its buffer.
    """

    chunks: int
    groups: int
    start: Tensor | None
    items: Tensor | None
    shared: tuple[bool, ...]


@lru_cache(maxsize=1024)
def cut_work(
    shape: tuple[int, int, int, int, int, int, int],
    places: tuple[Place, ...],
    sizes: tuple[int, ...],
    width: int,
) -> Cut:
    """Cut a backward.

    Args:
        shape: (B, Bkv, Hkv, M, N, D, Dv).
        places: Where captured tensors receive gradient.
        sizes: Elements of each place's buffer.
        width: Bytes per element of the compute dtype.
    """
    _, kv_batch, kv_heads, rows, keys, dim, value_dim = shape
    heads = max(1, kv_batch * kv_heads)
    tiles = -(-rows // config.QUERIES)
    chunks = max(1, min(tiles, _balanced(heads)))
    # Each chunk beyond the first keeps its own dK and dV until they are added up.
    per_chunk = heads * keys * (dim + value_dim) * width
    chunks = max(1, min(chunks, WORKSPACE_BYTES // max(1, per_chunk)))
    if not places:
        return Cut(chunks, 0, None, None, ())
    extents = {"b": kv_batch, "h": kv_heads, "q": chunks}
    best = max((_group_count(axes, extents, places, sizes), -at) for at, axes in enumerate(_AXES))
    axes = _AXES[-best[1]]
    return _grouped(chunks, best[0], axes, extents, places)


def _balanced(heads: int) -> int:
    """The fewest chunks that keep all CPUs busy: every chunk costs memory, and a sum at the end."""
    chunks = 1
    while heads * chunks < 4 * CPUS and (heads * chunks < 2 * CPUS or heads * chunks % CPUS):
        chunks += 1
    return chunks


_AXES = (("b", "h", "q"), ("b", "h"), ("b", "q"), ("h", "q"), ("b",), ("h",), ("q",), ())


def _keys(axes: Sequence[str], extents: dict[str, int]) -> int:
    count = 1
    for axis in axes:
        count *= max(1, extents[axis])
    return count


def _separate(place: Place, axes: Sequence[str], extents: dict[str, int]) -> bool:
    """Whether items that differ along ``axes`` never meet in an element of ``place``."""
    return all(
        extents[axis] <= 1 or (place.dense if axis == "q" else axis in place.plain) for axis in axes
    )


def _group_count(
    axes: Sequence[str],
    extents: dict[str, int],
    places: Sequence[Place],
    sizes: Sequence[int],
) -> int:
    """How many groups items may form when they are told apart along ``axes`` only."""
    copied = sum(
        8 * size
        for place, size in zip(places, sizes, strict=True)
        if not _separate(place, axes, extents)
    )
    count = min(_keys(axes, extents), MAX_GROUPS)
    return count if not copied else max(1, min(count, WORKSPACE_BYTES // copied))


def _grouped(
    chunks: int, groups: int, axes: Sequence[str], extents: dict[str, int], places: Sequence[Place]
) -> Cut:
    keys = _keys(axes, extents)
    members: list[list[int]] = [[] for _ in range(groups)]
    item = 0
    for b in range(max(1, extents["b"])):
        for h in range(max(1, extents["h"])):
            for q in range(chunks):
                at = {"b": b, "h": h, "q": q}
                key = 0
                for axis in axes:
                    key = key * max(1, extents[axis]) + at[axis]
                members[key * groups // keys].append(item)
                item += 1
    start = [0]
    for member in members:
        start.append(start[-1] + len(member))
    return Cut(
        chunks,
        groups,
        torch.tensor(start, dtype=torch.int64),
        torch.tensor([item for member in members for item in member], dtype=torch.int64),
        tuple(groups == 1 or _separate(place, axes, extents) for place in places),
    )


class Buffers:
    """The buffers of one launch, zeroed, and their sum per captured tensor afterwards.

    Attributes:
        pointers: Address of each place's buffer.
        strides: Elements from group to group in it, 0 where all share one copy.
    """

    def __init__(
        self, cut: Cut, places: Sequence[Place], captures: Sequence[Tensor], compute: torch.dtype
    ) -> None:
        self._captures = captures
        self._found: dict[tuple[int, bool, int], Tensor] = {}
        self.pointers: list[int] = []
        self.strides: list[int] = []
        for number, (place, shared) in enumerate(zip(places, cut.shared, strict=True)):
            tensor = captures[place.capture]
            # Groups may share one copy because a place never meets itself; two places of one
            # tensor may well meet.
            alone = number if shared and cut.groups > 1 else -1
            key = (place.capture, place.dense, alone)
            buffer = self._found.get(key)
            if buffer is None:
                copies = 1 if shared else cut.groups
                dtype = compute if place.dense else torch.float64
                buffer = self._found[key] = _zeros((copies, *tensor.shape), dtype)
            self.pointers.append(buffer.data_ptr())
            self.strides.append(0 if shared else tensor.numel())

    def gradient(self, capture: int) -> Tensor:
        """The gradient of captured tensor number ``capture``, zero where nothing arrived."""
        total: Tensor | None = None
        for key, buffer in self._found.items():
            if key[0] == capture:
                part = buffer[0] if buffer.shape[0] == 1 else buffer.sum(0)
                total = part if total is None else total + part
        return torch.zeros_like(self._captures[capture]) if total is None else total


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in numpy's memory, which asks Linux for large pages where torch's does not.

    The gradient of a bias as large as the scores is mostly page faults: a tenth of its backward.
    """
    return torch.from_numpy(numpy.empty(shape, _NUMPY[dtype])).zero_()


_NUMPY = {torch.float32: numpy.float32, torch.float64: numpy.float64}


def places_of(entries: Sequence[Any]) -> tuple[Place, ...]:
    """The places listed in a backward kernel's facts (``meta["capture_grads"]``)."""
    return tuple(
        Place(entry["capture"], entry["dense"], frozenset(entry["plain"])) for entry in entries
    )
