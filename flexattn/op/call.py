"""One attention call with everything decided, and its two directions on every backend.

``run_forward`` and ``run_backward`` take it as flat tensors, numbers and text: that is what the
torch operators of `op/operators.py` carry. ``forward`` and ``backward`` take a ``Call``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

from torch import Tensor

from flexattn.op import cpp, eager
from flexattn.op.faults import fault_error
from flexattn.op.programs import Bound, variant_of_text
from flexattn.op.request import COMPUTE, Call, Gradients, Outputs, Position, Saved

Forward: TypeAlias = Callable[[Call], tuple[Tensor, Tensor | None, Tensor | None, Position | None]]
Backward: TypeAlias = Callable[[Call, Saved], Gradients]


def _triton_forward(
    call: Call,
) -> tuple[Tensor, Tensor | None, Tensor | None, Position | None]:
    # Its modules are a tenth of the time to import flexattn, for those without a GPU too.
    return import_module("flexattn.op.triton").forward(call)


def _triton_backward(call: Call, saved: Saved) -> Gradients:
    return import_module("flexattn.op.triton_backward").backward(call, saved)


BACKENDS: dict[str, tuple[Forward, Backward]] = {
    "cpp": (cpp.forward, cpp.backward),
    "eager": (eager.forward, eager.backward),
    "triton": (_triton_forward, _triton_backward),
}


def forward(call: Call) -> Outputs:
    """out, lse and max_scores; the latter two None unless asked for."""
    out, lse, top, fault = BACKENDS[call.backend][0](call)
    if fault is not None:
        raise fault_error(call, fault)
    return out, lse if call.lse else None, top if call.max_scores else None


def backward(call: Call, saved: Saved) -> Gradients:
    """Gradients of query, key, value and of the captures asked for, in the inputs' dtypes."""
    return BACKENDS[call.backend][1](call, saved)


def run_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    captures: list[Tensor],
    tables: list[Tensor],
    program: str,
    ints: list[int],
    floats: list[float],
    scale: float,
    options: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``forward`` in terms of tensors, numbers and text; see ``Call`` for ``tables``.

    Args:
        program: Text of the program (`ir/printer.py`).
        ints: Lifted i64 numbers, in order.
        floats: The other lifted numbers, in order.
        options: JSON of ``Call.options``.

    Returns:
        out, lse and max_scores; of those not asked for an empty tensor.
    """
    call = _call(query, key, value, captures, tables, program, ints, floats, scale, options)
    out, lse, top = forward(call)
    dtype = COMPUTE[call.bound.variant.program.compute]
    empty = query.new_empty((0,), dtype=dtype)
    return out, empty if lse is None else lse, empty.clone() if top is None else top


def run_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    captures: list[Tensor],
    tables: list[Tensor],
    program: str,
    grads: list[int],
    ints: list[int],
    floats: list[float],
    scale: float,
    options: str,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """``backward`` in terms of tensors, numbers and text; ``grads`` lists the captures wanted."""
    call = _call(query, key, value, captures, tables, program, ints, floats, scale, options)
    saved = Saved(out, lse, grad_out, grad_lse, (True, True, True), tuple(grads))
    grad_q, grad_k, grad_v, rest = backward(call, saved)
    return grad_q, grad_k, grad_v, rest  # type: ignore[return-value]  # all three were asked for


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    captures: list[Tensor],
    tables: list[Tensor],
    program: str,
    ints: list[int],
    floats: list[float],
    scale: float,
    options: str,
) -> Call:
    bound = Bound(variant_of_text(program), captures, ints, floats)
    chosen = _options_of_text(options)
    return Call(
        query,
        key,
        value,
        bound,
        tables,
        tuple(chosen["block"]),
        scale,
        chosen["backend"],
        chosen["lse"],
        chosen["max"],
        chosen.get("deterministic", False),
        chosen["kernel"],
        chosen.get("differentiated", False),
    )


@lru_cache(maxsize=256)
def _options_of_text(text: str) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(text)
    options["kernel"] = tuple((name, value) for name, value in options.get("kernel", ()))
    return options
