"""The forward by Triton kernels: on GPUs, and interpreted on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexattn.kernel.triton_tiles import Tile
from flexattn.op.outputs import strides_like
from flexattn.op.request import Call, Position
from flexattn.op.triton_captures import capture_arguments, captures_on
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
from flexattn.op.triton_plan import (
    PLAN_LIMIT,
    Frame,
    frame_of,
    kernel_of,
    plan_key,
    row_strides,
    rows_of_lists,
    stored,
)
from flexattn.op.triton_streams import is_capturing
from flexattn.runtime.launch import check_memory
from flexattn.runtime.triton_autotune import time_on_gpu


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
        tables, order = rows_of_lists(call, self.frame, self.tiles, outputs[1])
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
    """The plan with the best tile; if that is not known it is measured where asked for."""
    frame = frame_of(call, captures)
    decoding = is_decoding(call, frame)
    make = Decode if decoding else _Forward

    def time_of(tile: Tile) -> float:
        plan = make(call, frame, tile)
        outputs = _outputs(plan, call.query)
        arguments = capture_arguments(call.bound, captures)
        cell = new_cell(call.query.device)
        return time_on_gpu(lambda: plan.launch(call, arguments, outputs, cell), call.query.device)

    measure = None if is_capturing(call.query) else time_of
    return make(call, frame, frame.tile("decode" if decoding else "forward", measure))


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
        return forward(replace(call, query=stored(q), key=stored(k), value=stored(v)))
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
