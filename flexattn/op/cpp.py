"""Launches the C++ kernels: shapes, strides and addresses in the order of their argument lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.op.capture_grads import Buffers, cut_work, places_of
from flexattn.op.decoding import is_decoding, sharing
from flexattn.op.kernels import dtype_name, facts_of, kernel_for
from flexattn.op.outputs import strides_like
from flexattn.op.request import (
    COMPUTE,
    Call,
    Gradients,
    Position,
    Saved,
    as_gradient,
    empty_gradient,
)
from flexattn.runtime.launch import check_memory

_Layout: TypeAlias = tuple[tuple[tuple[int, ...], ...], tuple[int, int, int]]

PLAN_LIMIT = 1024  # prepared launches kept per program
_NO_TABLES = ((0,) * 3, (0,) * 5) * 2


class _Plan:
    """All of a forward launch that follows from shapes, strides and dtypes."""

    __slots__ = ("kernel", "out_shape", "out_strides", "sizes", "stats", "tables", "tail")

    def __init__(self, call: Call) -> None:
        q, k, v = call.query, call.key, call.value
        batch, heads, rows, dim = q.shape
        _, kv_heads, keys, value_dim = v.shape
        self.out_shape = (batch, heads, rows, value_dim)
        self.out_strides = strides_like(self.out_shape, q.stride())
        self.stats = COMPUTE[call.bound.variant.program.compute]
        self.sizes: tuple[float, ...] = (
            *(batch, heads, kv_heads, rows, keys, dim, value_dim),
            *q.stride(),
            *_shared_batch(k, batch),
            *_shared_batch(v, batch),
            *self.out_strides[:3],
            call.scale,
        )
        self.tables, self.tail = _table_layout(call)
        direction = "forward"
        if is_decoding(call):
            direction = "decode"
            self.sizes += sharing(call)
        facts = facts_of(call.bound, (batch, heads, rows, keys))
        self.kernel = kernel_for(
            call.bound.variant, direction, dtype_name(q), facts, rounded_weights=_may_round(q, v)
        )


def forward(call: Call) -> tuple[Tensor, Tensor | None, Tensor | None, Position | None]:
    """out, lse, max_scores (None unless asked for) and the first position with a fault, if any."""
    q, k, v, bound, tables = call.query, call.key, call.value, call.bound, call.tables
    if q.is_neg() or k.is_neg() or v.is_neg():  # memory holds the values with the other sign
        return forward(replace(call, query=_stored(q), key=_stored(k), value=_stored(v)))
    q_at, k_at, v_at = q.data_ptr(), k.data_ptr(), v.data_ptr()
    if not (q_at and k_at and v_at):
        check_memory(query=q, key=k, value=v)
    plans = bound.variant.plans
    key = _plan_key(call)
    plan = plans.get(key)
    if plan is None:
        if len(plans) >= PLAN_LIMIT:
            plans.clear()
        plan = plans[key] = _Plan(call)
    out = torch.empty_strided(plan.out_shape, plan.out_strides, dtype=q.dtype)
    lse = torch.empty(plan.out_shape[:3], dtype=plan.stats) if call.lse else None
    top = torch.empty(plan.out_shape[:3], dtype=plan.stats) if call.max_scores else None
    head = (
        q_at,
        k_at,
        v_at,
        out.data_ptr(),
        0 if lse is None else lse.data_ptr(),
        0 if top is None else top.data_ptr(),
        *plan.sizes,
        *_with_addresses(tables, plan.tables),
        *plan.tail,
    )
    fault = plan.kernel.launch(head, bound.captures, bound.ints, bound.floats)
    return out, lse, top, fault


def backward(call: Call, saved: Saved) -> Gradients:
    """Gradients of query, key, value and of the captures asked for, in the inputs' dtypes."""
    q, k, v, grad_out = (_stored(t) for t in (call.query, call.key, call.value, saved.grad_out))
    check_memory(query=q, key=k, value=v, grad_out=grad_out)
    bound = call.bound
    batch, heads, rows, dim = q.shape
    kv_batch, kv_heads, keys, value_dim = v.shape
    stats = COMPUTE[bound.variant.program.compute]
    facts = facts_of(bound, (batch, heads, rows, keys))
    kernel = kernel_for(
        bound.variant,
        "backward",
        dtype_name(q),
        facts,
        frozenset(saved.captures),
        rounded_weights=_may_round(q, v),
    )
    places = places_of(kernel.meta.get("capture_grads", ()))
    sizes = tuple(bound.captures[place.capture].numel() for place in places)
    work = (batch, kv_batch, kv_heads, rows, keys, dim, value_dim)
    cut = cut_work(work, places, sizes, stats.itemsize)
    buffers = Buffers(cut, places, bound.captures, stats)
    results = [
        _result(tensor) if wanted else None
        for tensor, wanted in zip((q, k, v), saved.inputs, strict=True)
    ]
    lse = saved.lse.contiguous()
    grad_lse = None if saved.grad_lse is None else _stored(saved.grad_lse).to(stats).contiguous()
    out = _innermost_dense(saved.out)
    tables, tail = _table_layout(call)
    head = (
        *(t.data_ptr() for t in (q, k, v, out, lse, grad_out)),
        *(0 if t is None else t.data_ptr() for t in (grad_lse, *results)),
        *(batch, kv_batch, heads, kv_heads, rows, keys, dim, value_dim),
        *q.stride(),
        *_shared_batch(k, batch),
        *_shared_batch(v, batch),
        *out.stride()[:3],
        *grad_out.stride(),
        *(stride for t in results for stride in ((0, 0, 0) if t is None else t.stride()[:3])),
        call.scale,
        *(cut.chunks, cut.groups),
        *(0 if t is None else t.data_ptr() for t in (cut.start, cut.items)),
        *_with_addresses(call.tables, tables),
        *tail,
    )
    kernel.launch(head, bound.captures, bound.ints, bound.floats, buffers.pointers, buffers.strides)
    grads = [
        None if grad is None else as_gradient(grad, tensor)
        for grad, tensor in zip(results, (q, k, v), strict=True)
    ]
    captures = [as_gradient(buffers.gradient(c), bound.captures[c]) for c in saved.captures]
    return grads[0], grads[1], grads[2], captures


def _stored(tensor: Tensor) -> Tensor:
    """``tensor`` with its own values in memory; a view may be marked as negated instead."""
    return tensor.resolve_neg()


def _may_round(query: Tensor, value: Tensor) -> bool:
    """Whether weights may be rounded to the inputs' bf16, as torch's fused kernel rounds them.

    Where Dv differs from D torch computes in float32, and rounded weights would be 1.3 (forward)
    to 1.4 times (gradients) as far off.
    """
    return query.dtype != torch.bfloat16 or query.shape[3] == value.shape[3]


def _plan_key(call: Call) -> tuple[Any, ...]:
    q, k, v = call.query, call.key, call.value
    bound = call.bound
    key: tuple[Any, ...] = (
        q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.dtype, call.scale,
        call.block, call.differentiated,
    )  # fmt: skip
    for table in call.tables:
        key += (table.shape, table.stride())
    if bound.captures or bound.ints:
        # Proofs depend on these.
        key += (*(tensor.shape for tensor in bound.captures), *bound.ints)
    return key


def _shared_batch(tensor: Tensor, batch: int) -> tuple[int, ...]:
    strides = tensor.stride()
    return (0, *strides[1:]) if tensor.shape[0] == 1 < batch else strides


def _result(tensor: Tensor) -> Tensor:
    """Memory for a gradient that the kernel can write: the innermost stride is 1."""
    grad = empty_gradient(tensor)
    return grad if grad.stride(-1) == 1 else torch.empty(tensor.shape, dtype=tensor.dtype)


def _innermost_dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _table_layout(call: Call) -> _Layout:
    """The numbers that follow each table's address in ``BlockTables``, and its last three."""
    if call.bound.variant.program.ranges is not None:
        return _NO_TABLES, (0, *call.block)
    return _layout_of(
        tuple((table.shape, table.stride()) for table in call.tables), tuple(call.block)
    )


@lru_cache(maxsize=1024)
def _layout_of(
    tables: tuple[tuple[Sequence[int], tuple[int, ...]], ...], block: tuple[int, int]
) -> _Layout:
    if not tables:
        return _NO_TABLES, (0, 1, 1)
    layout: list[tuple[int, ...]] = []
    for at, (shape, strides) in enumerate(tables):
        shared = tuple(
            0 if size == 1 and dim < 2 else stride
            for dim, (size, stride) in enumerate(zip(shape, strides, strict=True))
        )
        layout.append(shared if at % 2 == 0 else (*shared, shape[-1]))
    if len(tables) == 2:
        layout += _NO_TABLES[2:]
    return tuple(layout), (tables[0][0][2], *block)


def _with_addresses(
    tables: Sequence[Tensor], layout: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    a, b, c, d = layout
    if len(tables) == 4:
        t0, t1, t2, t3 = tables
        return (t0.data_ptr(), *a, t1.data_ptr(), *b, t2.data_ptr(), *c, t3.data_ptr(), *d)
    if len(tables) == 2:
        t0, t1 = tables
        return (t0.data_ptr(), *a, t1.data_ptr(), *b, 0, *c, 0, *d)
    return (0, *a, 0, *b, 0, *c, 0, *d)
