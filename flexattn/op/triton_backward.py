"""The backward by Triton kernels: on GPUs, and interpreted on the CPU.

Three launches: what is read of each row (``delta``), then the kernel for the queries' gradients,
which also sums most gradients of captured tensors, then the kernel for those of keys and values.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.kernel.triton_source import Choices
from flexattn.kernel.triton_spec import PADDING
from flexattn.kernel.triton_tiles import Tile, choose_tile
from flexattn.masks.tables import cdiv
from flexattn.op.request import Call, Gradients, Saved, as_gradient, empty_gradient
from flexattn.op.triton_captures import capture_arguments, captures_on
from flexattn.op.triton_grads import CaptureBuffers, order_of
from flexattn.op.triton_plan import (
    ALIGNMENT,
    PLAN_LIMIT,
    Frame,
    frame_of,
    is_aligned,
    kernel_of,
    plain_kernel,
    plan_key,
    row_strides,
    rows_of_lists,
    source_of,
    stored,
)
from flexattn.op.triton_streams import is_capturing
from flexattn.op.triton_tables import column_arguments, no_arguments, range_arguments
from flexattn.runtime.launch import check_memory
from flexattn.runtime.triton_autotune import time_on_gpu

Stats: TypeAlias = tuple[Tensor, Tensor]  # lse2 and delta of delta.py: [B, Hq, padded rows]


class _Backward:
    """All of a backward's launches that follows from shapes, strides, dtypes and what is wanted."""

    __slots__ = (
        *("choices", "delta", "dkdv", "dq", "entries", "frame", "key_tiles", "order"),
        *("query_tiles", "strides"),
    )

    def __init__(self, call: Call, saved: Saved, frame: Frame, tiles: dict[str, Tile]) -> None:
        self.frame = frame
        variant, wanted = call.bound.variant, frozenset(saved.captures)
        choices = frame.choices("dq", tiles.get("dq"))
        self.query_tiles = frame.query_tiles(choices.tile.bm)
        self.entries = source_of(variant, "dq", frame, choices, wanted).hooks.capture_grads
        self.order = order_of(
            self.entries,
            frame.lengths,
            deterministic=call.deterministic,
            tiles=self.query_tiles[1],
            processors=frame.machine.processors,
            width=saved.lse.itemsize,
        )
        choices = replace(
            choices,
            want_dq=saved.inputs[0],
            shared=self.order.shared,
            serial=self.order.serial,
        )
        by_rows = any(entry.way != "key" for entry in self.entries)
        by_keys = len(self.entries) > 0 and any(entry.way == "key" for entry in self.entries)
        self.dq = self.dkdv = None
        if saved.inputs[0] or by_rows:
            self.dq = kernel_of(variant, "dq", frame, choices, wanted)
        choices = frame.choices("dkdv", tiles.get("dkdv"))
        self.key_tiles = frame.key_tiles(choices.tile.bn)
        if saved.inputs[1] or saved.inputs[2] or by_keys:
            self.dkdv = kernel_of(variant, "dkdv", frame, choices, wanted)
        tile = choose_tile("delta", frame.machine.target, frame.dtype, frame.D, frame.DV)
        self.delta = plain_kernel(
            "delta",
            frame,
            Choices(tile, aligned=choices.aligned, has_grad_lse=saved.grad_lse is not None),
        )
        self.strides = (
            *row_strides(call.query),
            *row_strides(call.key),
            *row_strides(call.value),
            *row_strides(saved.grad_out),
        )


def _plan(call: Call, saved: Saved, captures: list[Tensor]) -> _Backward:
    """The plan with the tiles that are best; one that is not known is measured where asked for."""
    frame = frame_of(call, captures, (saved.out, saved.grad_out))
    tiles: dict[str, Tile] = {}

    def time_of(kernel: str, tile: Tile) -> float:
        plan = _Backward(call, saved, frame, tiles | {kernel: tile})
        if (plan.dq if kernel == "dq" else plan.dkdv) is None:
            return math.inf  # not wanted by this call, and so not measured by it
        run = _run_dq if kernel == "dq" else _run_dkdv
        stats = _row_stats(plan, saved)
        buffers = _buffers(plan, call, captures)
        rest = (capture_arguments(call.bound, captures), tuple(buffers.buffers))
        return time_on_gpu(lambda: run(plan, call, saved, stats, rest), call.query.device)

    may_wait = not is_capturing(call.query)
    for kernel in ("dq", "dkdv"):
        measure = partial(time_of, kernel) if may_wait else None
        tiles[kernel] = frame.tile(kernel, measure)
    return _Backward(call, saved, frame, tiles)


def _buffers(plan: _Backward, call: Call, captures: list[Tensor]) -> CaptureBuffers:
    """Zeros to which gradients of captured tensors are added."""
    return CaptureBuffers(
        plan.entries,
        replace(call.bound, captures=captures),
        plan.frame.lengths,
        plan.query_tiles[1],
        plan.order.chunks,
        call.query.device,
    )


def backward(call: Call, saved: Saved) -> Gradients:
    """Gradients of query, key, value and of the captures asked for, in the inputs' dtypes."""
    call, saved = _readable(call, saved)
    q, k, v, bound = call.query, call.key, call.value, call.bound
    if 0 in q.shape[:3] or k.shape[2] == 0:
        zero_q, zero_k, zero_v = (empty_gradient(tensor).zero_() for tensor in (q, k, v))
        return (
            zero_q,
            zero_k,
            zero_v,
            [torch.zeros_like(bound.captures[c]) for c in saved.captures],
        )
    captures = captures_on(bound, q.device) if bound.captures else []
    plans = bound.variant.plans
    key = (
        *("backward", saved.inputs, saved.captures, saved.grad_lse is None),
        *plan_key(call, captures, q, k, v, saved.out, saved.grad_out),
    )
    plan = plans.get(key)
    if plan is None:
        if len(plans) >= PLAN_LIMIT:
            plans.clear()
        plan = plans[key] = _plan(call, saved, captures)
    stats = _row_stats(plan, saved)
    buffers = _buffers(plan, call, captures)
    rest = (capture_arguments(bound, captures), tuple(buffers.buffers))
    grad_q = _run_dq(plan, call, saved, stats, rest)
    grad_k, grad_v = _run_dkdv(plan, call, saved, stats, rest)
    found = [as_gradient(buffers.gradient(c), bound.captures[c]) for c in saved.captures]
    return (
        None if grad_q is None else as_gradient(grad_q, q),
        None if grad_k is None else as_gradient(grad_k, k),
        None if grad_v is None else as_gradient(grad_v, v),
        found,
    )


def _readable(call: Call, saved: Saved) -> tuple[Call, Saved]:
    """The same with values in memory, and rows of ``out`` and its gradient contiguous."""
    q, k, v = (stored(tensor) for tensor in (call.query, call.key, call.value))
    out, grad_out = _innermost_dense(saved.out), _innermost_dense(stored(saved.grad_out))
    check_memory(query=q, key=k, value=v, grad_out=grad_out)
    grad_lse = saved.grad_lse
    if grad_lse is not None:
        grad_lse = _row_values(stored(grad_lse).to(saved.lse.dtype))
    lse = _row_values(saved.lse)
    saved = Saved(out, lse, grad_out, grad_lse, saved.inputs, saved.captures)
    if q is call.query and k is call.key and v is call.value:
        return call, saved
    return replace(call, query=q, key=k, value=v), saved


def _row_stats(plan: _Backward, saved: Saved) -> Stats:
    batch, heads, rows, _ = plan.frame.lengths
    padded = cdiv(rows, PADDING) * PADDING
    lse2, delta = torch.empty(
        (2, batch, heads, padded), dtype=saved.lse.dtype, device=saved.lse.device
    ).unbind()
    grad_lse = saved.lse if saved.grad_lse is None else saved.grad_lse
    plan.delta.launch(
        (cdiv(padded, plan.delta.source.choices.tile.bm) * batch * heads,),
        (
            *(saved.out, saved.grad_out, saved.lse, grad_lse, lse2, delta),
            *row_strides(saved.out)[:3],
            *row_strides(saved.grad_out),
            *(heads, rows),
        ),
        plan.frame.machine.index,
    )
    return lse2, delta


def _run_dq(
    plan: _Backward, call: Call, saved: Saved, stats: Stats, rest: tuple[Any, ...]
) -> Tensor | None:
    if plan.dq is None:
        return None
    frame, q = plan.frame, call.query
    batch, heads, rows, keys = frame.lengths
    grad_q = _memory_for(q) if saved.inputs[0] else None
    tables, order = rows_of_lists(call, frame, plan.query_tiles, saved.lse)
    serial = plan.order.serial
    plan.dq.launch(
        (plan.order.chunks if serial else plan.query_tiles[1] * batch * heads,),
        (
            *(q, call.key, call.value, saved.grad_out, *stats),
            *(q if grad_q is None else grad_q,),
            *plan.strides,
            *row_strides(q if grad_q is None else grad_q)[:3],
            *(batch, heads, frame.group, rows, keys),
            *(plan.order.chunks if serial else frame.heads_at_once, call.scale, tables, order),
            *rest,
        ),
        frame.machine.index,
    )
    return grad_q


def _run_dkdv(
    plan: _Backward, call: Call, saved: Saved, stats: Stats, rest: tuple[Any, ...]
) -> tuple[Tensor | None, Tensor | None]:
    if plan.dkdv is None:
        return None, None
    frame, k, v = plan.frame, call.key, call.value
    batch, heads, rows, keys = frame.lengths
    kv_batch, kv_heads = k.shape[:2]
    grad_k, grad_v = _memory_for(k), _memory_for(v)
    tables, order = _columns(call, frame, plan.key_tiles, saved.lse)
    plan.dkdv.launch(
        (plan.key_tiles[1] * kv_batch * kv_heads,),
        (
            *(call.query, k, v, saved.grad_out, *stats, grad_k, grad_v),
            *plan.strides,
            *row_strides(grad_k)[:3],
            *row_strides(grad_v)[:3],
            *(batch, kv_batch, heads, frame.group, rows, keys, call.scale, tables, order),
            *rest,
        ),
        frame.machine.index,
    )
    return grad_k, grad_v


def _row_values(tensor: Tensor) -> Tensor:
    """``tensor`` contiguous, from a multiple of 16 bytes on as kernels may take for granted."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def _innermost_dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _memory_for(tensor: Tensor) -> Tensor:
    """Memory for a gradient of ``tensor`` that kernels can write: rows contiguous and aligned."""
    grad = empty_gradient(tensor)
    if grad.stride(-1) == 1 and (is_aligned(grad) or not is_aligned(tensor)):
        return grad
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _columns(
    call: Call, frame: Frame, tiles: tuple[int, int], nothing: Tensor
) -> tuple[Any, Tensor]:
    """The arguments ``tables`` and ``order`` of the kernel that goes by columns."""
    if call.bound.variant.program.ranges is not None:
        return range_arguments(call.block, frame.lengths[2:], frame.block), nothing
    if not call.tables:
        return no_arguments(nothing, frame.block)
    return column_arguments(call.tables, frame.cols, frame.block, tiles)
