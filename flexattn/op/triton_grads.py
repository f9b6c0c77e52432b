"""Gradients of captured tensors on the Triton backend: buffers for kernels, then the last sums.

How an entry is summed follows from its indices (``way``, see `ir/hooks.py`)::

    head      by b and h alone             a number per tile of queries
    query     by q_idx, b and h            a number per query of a head
    key       by kv_idx, b and h           a number per key of a head
    distance  by kv_idx - q_idx, b and h   a number per distance in a head
    pair      q_idx and kv_idx both        the capture's own shape
    scatter   any other way                the capture's own shape, by atomic addition

The first four are brought to their elements here, by torch operations that repeat bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import DeterminismError
from flexattn.ir.hooks import CaptureGrad
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import I64
from flexattn.op.programs import Bound
from flexattn.op.request import COMPUTE

CHUNK_BYTES = 32 << 20  # for the copies that keep sums by distance in a fixed order


@dataclass(frozen=True)
class Order:
    """How the kernel for dQ adds up gradients that pairs of several programs share.

    Attributes:
        shared: Gradients of pairs of several heads meet in one element.
        serial: Tiles are done one after another.
        chunks: Programs of a serial launch, each with its own sums by distance; else 1.
    """

    shared: bool
    serial: bool
    chunks: int


def order_of(
    entries: Sequence[CaptureGrad],
    lengths: tuple[int, int, int, int],
    *,
    deterministic: bool,
    tiles: int,
    processors: int,
    width: int,
) -> Order:
    """How to add up ``entries``.

    Args:
        lengths: (B, Hq, M, N).
        tiles: Tiles of queries of a head.
        processors: Programs that run at once.
        width: Bytes of a number of the compute dtype.

    Raises:
        DeterminismError: Of an entry that is scattered, sums have no fixed order.
    """
    batch, heads, rows, keys = lengths
    shared = any(
        entry.way == "pair"
        and not (("b" in entry.plain or batch == 1) and ("h" in entry.plain or heads == 1))
        for entry in entries
    )
    distances = [entry for entry in entries if entry.way == "distance"]
    if not deterministic:
        return Order(shared, False, 1)
    for entry in entries:
        if entry.way == "scatter":
            raise DeterminismError(
                f"the gradient of captured tensor {entry.capture} was asked to repeat bit by bit, "
                "and cannot.",
                why="its index is of no simple kind, so that threads add into the same elements "
                "in any order.",
                fix="pass deterministic=False, detach the tensor, or index it by b and h with "
                "q_idx, kv_idx, q_idx - kv_idx, or [q_idx, kv_idx].",
            )
    if not (shared or distances):
        return Order(shared, False, 1)
    chunks = min(tiles, 2 * processors)
    if distances:
        per_chunk = len(distances) * batch * heads * (rows + keys) * width
        chunks = min(chunks, CHUNK_BYTES // per_chunk)
    return Order(shared, True, max(1, chunks))


class CaptureBuffers:
    """The buffers of one backward, zeroed, and the gradient per captured tensor afterwards.

    Attributes:
        buffers: One per entry, for the kernels' argument ``grads``.
    """

    def __init__(
        self,
        entries: Sequence[CaptureGrad],
        bound: Bound,
        lengths: tuple[int, int, int, int],
        tiles: int,
        chunks: int,
        device: torch.device,
    ) -> None:
        """``bound`` has its captures on ``device``; see ``order_of`` for the others."""
        self._entries, self._bound, self._device = entries, bound, device
        self._lengths, self._tiles, self._chunks = lengths, tiles, chunks
        self._dtype = COMPUTE[bound.variant.program.compute]
        self.buffers = [
            torch.zeros(self._shape(entry), dtype=self._dtype, device=device) for entry in entries
        ]

    def _shape(self, entry: CaptureGrad) -> tuple[int, ...]:
        batch, heads, rows, keys = self._lengths
        match entry.way:
            case "head":
                return batch, heads, self._tiles
            case "query":
                return batch, heads, rows
            case "key":
                return batch, heads, keys
            case "distance":
                return self._chunks, batch, heads, rows + keys
        # An empty capture is given zeros only, but is given them.
        return tuple(max(1, size) for size in self._bound.captures[entry.capture].shape)

    def gradient(self, capture: int) -> Tensor:
        """The gradient of captured tensor number ``capture``, zero where nothing arrived."""
        shape = self._bound.captures[capture].shape
        total: Tensor | None = None
        for entry, buffer in zip(self._entries, self.buffers):
            if entry.capture != capture or 0 in shape:
                continue
            if entry.way not in ("pair", "scatter"):
                buffer = self._placed(entry, buffer)
            total = buffer if total is None else total + buffer
        if total is None:
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        return total

    def _placed(self, entry: CaptureGrad, sums: Tensor) -> Tensor:
        """``sums`` of an entry, added to the elements they belong to."""
        shape = self._bound.captures[entry.capture].shape
        total = torch.zeros(shape, dtype=self._dtype, device=self._device)
        if entry.way == "head":
            sums = sums.sum(-1, keepdim=True, dtype=torch.float64).to(self._dtype)
        elif entry.way == "distance":
            sums = sums.sum(0)[..., :-1]
        if not shape:
            return total + sums.sum(dtype=torch.float64).to(self._dtype)
        env = self._env(entry.way)
        captures = [tensor.detach() for tensor in self._bound.captures]
        compute = self._bound.variant.program.compute
        places = tuple(
            evaluate(target, env, captures, compute, on_fault="safe").long().expand(sums.shape)
            for target in entry.targets
        )
        return total.index_put_(places, sums, accumulate=True)

    def _env(self, way: str) -> dict[str, Any]:
        """The inputs of ``targets`` where each sum belongs, broadcasting to [B, Hq, sums].

        All of it is computed on the device: a CUDA graph cannot hold copies from the host.
        """
        batch, heads, rows, keys = self._lengths

        def count(stop: int) -> Tensor:
            return torch.arange(stop, device=self._device)

        env: dict[str, Any] = {"b": count(batch).view(-1, 1, 1), "h": count(heads).view(-1, 1)}
        match way:
            case "query":
                env["q_idx"] = count(rows)
            case "key":
                env["kv_idx"] = count(keys)
            case "distance":
                distance = count(rows + keys - 1) - (rows - 1)
                env["q_idx"] = (-distance).clamp(min=0)
                env["kv_idx"] = distance.clamp(min=0)
        ints, floats = iter(self._bound.ints), iter(self._bound.floats)
        for i, kind in enumerate(self._bound.variant.program.numbers):
            number = next(ints) if kind == I64 else next(floats)
            dtype = torch.int64 if kind == I64 else self._dtype
            env[f"n{i}"] = torch.full((), number, dtype=dtype, device=self._device)
        for c, tensor in enumerate(self._bound.captures):
            for d, size in enumerate(tensor.shape):
                env[f"size{c}_{d}"] = torch.full((), size, device=self._device)
        return env
