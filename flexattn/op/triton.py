"""Launches the Triton kernels: on GPUs, and interpreted on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexattn.kernel.triton_source import Choices
from flexattn.kernel.triton_tiles import Tile, choose_tile
from flexattn.masks.tables import cdiv
from flexattn.op.outputs import strides_like
from flexattn.op.request import (
    Call,
    Gradients,
    Position,
    Saved,
    as_gradient,
    empty_gradient,
)
from flexattn.op.triton_decode import Decode, is_decoding
from flexattn.op.triton_faults import (
    FAULTS,
    NONE,
    cell_for,
    check_earlier,
    new_cell,
    position_in,
    report_of,
)
from flexattn.op.triton_grads import CaptureBuffers, order_of
from flexattn.op.triton_plan import (
    ALIGNMENT,
    Frame,
    capture_arguments,
    captures_on,
    frame_of,
    is_aligned,
    kernel_of,
    plain_kernel,
    plan_key,
    row_strides,
    source_of,
)
from flexattn.op.triton_tables import (
    column_arguments,
    is_capturing,
    no_arguments,
    row_arguments,
)
from flexattn.runtime.launch import check_memory
from flexattn.runtime.triton_autotune import time_on_gpu

PLAN_LIMIT = 1024  # prepared launches kept per program


class _Forward:
    """All of a forward launch that follows from shapes, strides and dtypes."""

    __slots__ = ("after", "faults", "frame", "grid", "kernel", "out_shape", "out_strides", "tiles")

    def __init__(self, call: Call, frame: Frame, tile: Tile) -> None:
        self.frame = frame
        batch, heads, rows, keys = frame.lengths
        choices = frame.choices("forward", tile)
        self.out_shape = (batch, heads, rows, frame.DV)
        self.out_strides = strides_like(self.out_shape, call.query.stride())
        self.kernel = kernel_of(call.bound.variant, "forward", frame, choices)
        self.faults = self.kernel.source.hooks.fault is not None
        self.tiles = frame.query_tiles(choices.tile.bm)
        self.grid = (self.tiles[1] * batch * heads,)
        self.after = (
            *row_strides(call.query),
            *row_strides(call.key),
            *row_strides(call.value),
            *self.out_strides[:3],
            *(batch, heads, frame.group, rows, keys, frame.heads_at_once),
            call.scale,
        )

    def launch(
        self,
        call: Call,
        captures: tuple[Any, ...],
        outputs: tuple[Tensor, Tensor, Tensor],
        cell: Tensor,
    ) -> None:
        """Fill ``outputs`` = (out, lse, max_scores)."""
        tables, order = _rows(call, self.frame, self.tiles, outputs[1])
        self.kernel.launch(
            self.grid,
            (
                *(call.query, call.key, call.value),
                *outputs,
                *self.after,
                *(tables, order, captures, cell),
            ),
            self.frame.machine.index,
        )


def _plan(call: Call, captures: Sequence[Tensor]) -> _Forward | Decode:
    frame = frame_of(call, captures)
    if is_decoding(call, frame):
        return Decode(call, frame)

    def measure(tile: Tile) -> float:
        plan = _Forward(call, frame, tile)
        outputs = _outputs(plan, call.query)
        arguments = capture_arguments(call.bound, captures)
        cell = new_cell(call.query.device)
        return time_on_gpu(lambda: plan.launch(call, arguments, outputs, cell), call.query.device)

    may_wait = not is_capturing(call.query)
    return _Forward(call, frame, frame.tile("forward", measure if may_wait else None))


def _outputs(plan: _Forward | Decode, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for out, lse and max_scores."""
    out = torch.empty_strided(
        plan.out_shape, plan.out_strides, dtype=query.dtype, device=query.device
    )
    lse = torch.empty(plan.out_shape[:3], dtype=plan.frame.stats, device=query.device)
    return out, lse, torch.empty_like(lse)


def forward(call: Call) -> tuple[Tensor, Tensor | None, Tensor | None, Position | None]:
    """out, lse, max_scores and the first position with a fault, where that is known at once."""
    q, k, v = call.query, call.key, call.value
    check_earlier(q.device)
    if q.is_neg() or k.is_neg() or v.is_neg():  # memory holds the values with the other sign
        return forward(replace(call, query=_stored(q), key=_stored(k), value=_stored(v)))
    if not (q.data_ptr() and k.data_ptr() and v.data_ptr()):
        check_memory(query=q, key=k, value=v)
    bound = call.bound
    captures = captures_on(bound, q.device) if bound.captures else []
    if 0 in q.shape[:3] or k.shape[2] == 0:
        return (*_nothing(call), None)
    plans = bound.variant.plans
    key = plan_key(call, captures, q, k, v)
    plan = plans.get(key)
    if plan is None:
        if len(plans) >= PLAN_LIMIT:
            plans.clear()
        plan = plans[key] = _plan(call, captures)
    outputs = _outputs(plan, q)
    cell, name = cell_for(q) if plan.faults else (outputs[1], None)
    plan.launch(call, capture_arguments(bound, captures), outputs, cell)
    return *outputs, _fault(call, cell, name) if plan.faults else None


def _rows(call: Call, frame: Frame, tiles: tuple[int, int], nothing: Tensor) -> tuple[Any, Tensor]:
    """The arguments ``tables`` and ``order`` of kernels that go by rows."""
    if not call.tables:
        return no_arguments(nothing, frame.block)
    return row_arguments(call.tables, frame.lengths[3], frame.block, tiles)


def _columns(
    call: Call, frame: Frame, tiles: tuple[int, int], nothing: Tensor
) -> tuple[Any, Tensor]:
    """The arguments ``tables`` and ``order`` of the kernel that goes by columns."""
    if not call.tables:
        return no_arguments(nothing, frame.block)
    return column_arguments(call.tables, frame.cols, frame.block, tiles)


def _fault(call: Call, cell: Tensor, name: Any) -> Position | None:
    """The position that a kernel reported; on a GPU it is looked at later."""
    if call.query.is_cuda:
        if name is not None:
            FAULTS.post(name, report_of(call))
        return None
    place = int(cell)
    if place == NONE:
        return None
    return position_in(place, call.query.shape[1], call.query.shape[2], call.key.shape[2])


def _nothing(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """What a call without queries or without keys gives."""
    q = call.query
    shape = (*q.shape[:3], call.value.shape[3])
    stats = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.empty_strided(
        shape, strides_like(shape, q.stride()), dtype=q.dtype, device=q.device
    ).zero_()
    lse = torch.full(shape[:3], -math.inf, dtype=stats, device=q.device)
    return out, lse, lse.clone()


class _Backward:
    """All of a backward's launches that follows from shapes, strides, dtypes and what is wanted."""

    __slots__ = (
        *("choices", "delta", "dkdv", "dq", "entries", "frame", "key_tiles", "order"),
        *("query_tiles", "strides"),
    )

    def __init__(self, call: Call, saved: Saved, captures: Sequence[Tensor]) -> None:
        frame = self.frame = frame_of(call, captures, (saved.out, saved.grad_out))
        variant, wanted = call.bound.variant, frozenset(saved.captures)
        choices = frame.choices("dq")
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
        choices = frame.choices("dkdv")
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


def backward(call: Call, saved: Saved) -> Gradients:
    """Gradients of query, key, value and of the captures asked for, in the inputs' dtypes."""
    call, saved = _readable(call, saved)
    q, k, v, bound = call.query, call.key, call.value, call.bound
    if 0 in q.shape[:3] or k.shape[2] == 0:
        zeros = [empty_gradient(tensor).zero_() for tensor in (q, k, v)]
        return (*zeros, [torch.zeros_like(bound.captures[c]) for c in saved.captures])
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
        plan = plans[key] = _Backward(call, saved, captures)
    delta = _delta(plan, saved)
    buffers = CaptureBuffers(
        plan.entries,
        replace(bound, captures=captures),
        plan.frame.lengths,
        plan.query_tiles[1],
        plan.order.chunks,
        q.device,
    )
    rest = (capture_arguments(bound, captures), tuple(buffers.buffers))
    grad_q = _run_dq(plan, call, saved, delta, rest)
    grad_k, grad_v = _run_dkdv(plan, call, saved, delta, rest)
    found = [as_gradient(buffers.gradient(c), bound.captures[c]) for c in saved.captures]
    return (
        None if grad_q is None else as_gradient(grad_q, q),
        None if grad_k is None else as_gradient(grad_k, k),
        None if grad_v is None else as_gradient(grad_v, v),
        found,
    )


def _readable(call: Call, saved: Saved) -> tuple[Call, Saved]:
    """The same with values in memory, and rows of ``out`` and its gradient contiguous."""
    q, k, v = (_stored(tensor) for tensor in (call.query, call.key, call.value))
    out, grad_out = _innermost_dense(saved.out), _innermost_dense(_stored(saved.grad_out))
    check_memory(query=q, key=k, value=v, grad_out=grad_out)
    grad_lse = saved.grad_lse
    if grad_lse is not None:
        grad_lse = _row_values(_stored(grad_lse).to(saved.lse.dtype))
    lse = _row_values(saved.lse)
    saved = Saved(out, lse, grad_out, grad_lse, saved.inputs, saved.captures)
    if q is call.query and k is call.key and v is call.value:
        return call, saved
    return replace(call, query=q, key=k, value=v), saved


def _delta(plan: _Backward, saved: Saved) -> Tensor:
    """rowsum(out * grad_out) - grad_lse: [B, Hq, M]."""
    batch, heads, rows, _ = plan.frame.lengths
    delta = torch.empty_like(saved.lse)
    grad_lse = delta if saved.grad_lse is None else saved.grad_lse
    plan.delta.launch(
        (cdiv(rows, plan.delta.source.choices.tile.bm) * batch * heads,),
        (
            *(saved.out, saved.grad_out, grad_lse, delta),
            *row_strides(saved.out)[:3],
            *row_strides(saved.grad_out),
            *(heads, rows),
        ),
        plan.frame.machine.index,
    )
    return delta


def _run_dq(
    plan: _Backward, call: Call, saved: Saved, delta: Tensor, rest: tuple[Any, ...]
) -> Tensor | None:
    if plan.dq is None:
        return None
    frame, q = plan.frame, call.query
    batch, heads, rows, keys = frame.lengths
    grad_q = _memory_for(q) if saved.inputs[0] else None
    tables, order = _rows(call, frame, plan.query_tiles, delta)
    serial = plan.order.serial
    plan.dq.launch(
        (plan.order.chunks if serial else plan.query_tiles[1] * batch * heads,),
        (
            *(q, call.key, call.value, saved.grad_out, saved.lse, delta),
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
    plan: _Backward, call: Call, saved: Saved, delta: Tensor, rest: tuple[Any, ...]
) -> tuple[Tensor | None, Tensor | None]:
    if plan.dkdv is None:
        return None, None
    frame, k, v = plan.frame, call.key, call.value
    batch, heads, rows, keys = frame.lengths
    kv_batch, kv_heads = k.shape[:2]
    grad_k, grad_v = _memory_for(k), _memory_for(v)
    tables, order = _columns(call, frame, plan.key_tiles, delta)
    plan.dkdv.launch(
        (plan.key_tiles[1] * kv_batch * kv_heads,),
        (
            *(call.query, k, v, saved.grad_out, saved.lse, delta, grad_k, grad_v),
            *plan.strides,
            *row_strides(grad_k)[:3],
            *row_strides(grad_v)[:3],
            *(batch, kv_batch, heads, frame.group, rows, keys, call.scale, tables, order),
            *rest,
        ),
        frame.machine.index,
    )
    return grad_k, grad_v


def _stored(tensor: Tensor) -> Tensor:
    """``tensor`` with its own values in memory; a view may be marked as negated instead."""
    return tensor.resolve_neg()


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
