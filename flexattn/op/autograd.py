"""The autograd node around one call, first order only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexattn.errors import DoubleBackwardError, ForwardADError
from flexattn.op.call import backward, forward
from flexattn.op.request import Call, Outputs, Saved


def attend(call: Call) -> Outputs:
    """``forward`` with a node that differentiates query, key, value and captured tensors."""
    call.lse, call.differentiated, wanted = True, True, call.lse
    out, lse, top = _Attention.apply(call, call.query, call.key, call.value, *call.bound.captures)
    return out, lse if wanted else None, top


def refuse_forward_mode(*_: Any) -> Any:
    """Raise: forward-mode derivatives are not built."""
    raise ForwardADError(
        "flex_attention was called with forward-mode (jvp) tangents.",
        why="only the backward is derived; a forward-mode result would silently be zero.",
        fix="use torch.autograd.grad, torch.func.grad or vjp.",
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Outputs:
        out, lse, top = forward(call)
        ctx.call = call.without_tensors()
        ctx.save_for_backward(out, lse, *tensors)
        ctx.set_materialize_grads(False)
        if top is not None:
            ctx.mark_non_differentiable(top)
        return out, lse, top

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: Any) -> Any:
        if grad_out is None and grad_lse is None:
            return (None,) * (len(ctx.saved_tensors) - 1)
        out, lse, *tensors = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros((), dtype=out.dtype, device=out.device).expand(out.shape)
        needed = tuple(ctx.needs_input_grad[1:])
        if torch.is_grad_enabled():
            grads = _FirstOrder.apply(ctx.call, needed, out, lse, grad_out, grad_lse, *tensors)
        else:
            grads = _gradients(ctx.call, needed, out, lse, grad_out, grad_lse, *tensors)
        return None, *grads

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        return refuse_forward_mode()


class _FirstOrder(torch.autograd.Function):
    """The gradients, as a node of their own under ``create_graph``: differentiating it raises."""

    @staticmethod
    def forward(ctx: Any, call: Call, needed: tuple[bool, ...], *tensors: Tensor) -> Any:
        return _gradients(call, needed, *tensors)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise DoubleBackwardError(
            "a second derivative of flex_attention was asked for.",
            why="only first derivatives are built.",
            fix="drop create_graph=True, or detach the gradients before using them in a loss.",
        )

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        return refuse_forward_mode()


def _gradients(
    call: Call,
    needed: tuple[bool, ...],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    *tensors: Tensor,
) -> tuple[Tensor | None, ...]:
    query, key, value, *captures = tensors
    bound = call.bound.replace_captures(captures)
    again = Call(
        query,
        key,
        value,
        bound,
        call.tables,
        call.block,
        call.scale,
        call.backend,
        lse=True,
        max_scores=False,
        deterministic=call.deterministic,
        kernel=call.kernel,
    )
    wanted = tuple(c for c, need in enumerate(needed[3:]) if need)
    inputs = needed[0], needed[1], needed[2]
    saved = Saved(out, lse, grad_out, grad_lse, inputs, wanted)
    grad_q, grad_k, grad_v, found = backward(again, saved)
    rest: list[Tensor | None] = [None] * len(captures)
    for c, grad in zip(wanted, found, strict=True):
        rest[c] = grad
    first = (g if need else None for g, need in zip((grad_q, grad_k, grad_v), needed, strict=False))
    return (*first, *rest)
