"""Evaluates a graph with eager torch operations: the oracle that every backend is held to.

Each operation is the ``eager`` function of its row in `ir/ops.py`, on tensors that broadcast
against one another, so one call may evaluate a single pair (q_idx, kv_idx) or a whole block.
Autograd sees through it: ``detach`` and ``override_grad`` have the derivatives they promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flexattn.errors import DivisionByZeroError, IndexOutOfRangeError, ShiftRangeError
from flexattn.ir.nodes import (
    BOOL,
    F32,
    F64,
    I32,
    I64,
    INTS,
    Apply,
    Const,
    DType,
    Input,
    Load,
    Node,
    walk,
)
from flexattn.ir.ops import OPS, is_float

TORCH_DTYPES: dict[DType, torch.dtype] = {
    BOOL: torch.bool,
    I32: torch.int32,
    I64: torch.int64,
    F32: torch.float32,
    F64: torch.float64,
}

OnFault = Literal["raise", "safe"]


def evaluate(
    root: Node,
    env: Mapping[str, Tensor | bool | int | float],
    captures: Sequence[Tensor],
    compute: DType = F32,
    *,
    on_fault: OnFault = "raise",
) -> Tensor:
    """The value of ``root``.

    Args:
        env: Value of every ``Input``, by name; ``size{c}_{d}`` is read from ``captures``.
        captures: The captured tensors, in the order of the program.
        compute: Float dtype of the graph.
        on_fault: What an index outside its capture, an integer division by zero or a shift
            by no legal count does: ``raise`` an error if it happens at any element, or read
            a ``safe`` value instead (element 0, divisor 1, the nearest legal count). A
            negative index counts from the end in both.

    Raises:
        IndexOutOfRangeError, DivisionByZeroError, ShiftRangeError: With ``on_fault="raise"``.
        KeyError: An input has no value in ``env``.
    """
    values: dict[Node, Tensor] = {}
    device = _device(env, captures)
    for node in walk(root):
        args = [values[arg] for arg in node.args]
        match node:
            case Input(name, dtype):
                values[node] = _input(name, env, captures).to(device, TORCH_DTYPES[dtype])
            case Const(value, dtype):
                # Made on the device: a CUDA graph cannot hold a copy from the host.
                values[node] = torch.full((), value, dtype=TORCH_DTYPES[dtype], device=device)
            case Load(capture, _, dtype):
                values[node] = _load(captures[capture], capture, args, on_fault).to(
                    TORCH_DTYPES[dtype]
                )
            case Apply(op, _, dtype):
                values[node] = _apply(op, args, dtype, on_fault)
    return values[root]


def _device(env: Mapping[str, Any], captures: Sequence[Tensor]) -> torch.device:
    for value in (*env.values(), *captures):
        if isinstance(value, Tensor):
            return value.device
    return torch.device("cpu")


def _input(name: str, env: Mapping[str, Any], captures: Sequence[Tensor]) -> Tensor:
    if name not in env and name.startswith("size"):
        capture, dim = name.removeprefix("size").split("_")
        return torch.tensor(captures[int(capture)].shape[int(dim)])
    value = env[name]
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _load(tensor: Tensor, capture: int, indices: list[Tensor], on_fault: OnFault) -> Tensor:
    if not indices:
        return tensor
    safe = []
    for dim, (index, size) in enumerate(zip(indices, tensor.shape, strict=True)):
        wrapped = torch.where(index < 0, index + size, index)
        bad = (wrapped < 0) | (wrapped >= size)
        if on_fault == "raise" and bool(bad.any()):
            value = int(index[bad].flatten()[0])
            raise IndexOutOfRangeError(
                f"Index {value} is outside dimension {dim} of captured tensor {capture}, "
                f"of size {size}.",
                why="a captured tensor is read only inside its bounds.",
                fix="clamp the index, or guard it with torch.where.",
            )
        safe.append(torch.where(bad, 0, wrapped).long())
    if tensor.numel() == 0:  # nothing is safe to read; only reached where nothing is used
        return torch.zeros(torch.broadcast_shapes(*(i.shape for i in safe)), dtype=tensor.dtype)
    return tensor[tuple(safe)]


def _apply(op: str, args: list[Tensor], dtype: DType, on_fault: OnFault) -> Tensor:
    eager: Callable[..., Tensor] = OPS[op].eager
    match op:
        case "to_float" | "to_int" | "to_bool" | "to_i32" | "to_i64":
            return args[0].to(TORCH_DTYPES[dtype])
        case "floordiv" | "truncdiv" | "mod" | "fmod" if dtype in INTS:
            return _divide(op, eager, args[0], args[1], on_fault)
        case "shl" | "shr":
            return eager(args[0], _shift_count(args[1], dtype, on_fault))
        case "override_grad":
            return OverrideGrad.apply(*torch.broadcast_tensors(*args))
    return eager(*args)


def _divide(
    op: str, eager: Callable[..., Tensor], a: Tensor, b: Tensor, on_fault: OnFault
) -> Tensor:
    zero = b == 0
    if on_fault == "raise" and bool(zero.any()):
        raise DivisionByZeroError(
            "An integer is divided by zero.",
            why=f"{op} of integers has no value for a zero divisor.",
            fix="clamp the divisor, or guard the result with torch.where.",
        )
    # The most negative integer over -1 traps in hardware: negate instead, which wraps.
    minus = b == -1
    quotient = eager(a, torch.where(zero | minus, 1, b))
    return torch.where(
        minus, -a if op in ("floordiv", "truncdiv") else torch.zeros_like(a), quotient
    )


def _shift_count(count: Tensor, dtype: DType, on_fault: OnFault) -> Tensor:
    bits = 32 if dtype == I32 else 64
    if on_fault == "raise" and bool(((count < 0) | (count >= bits)).any()):
        raise ShiftRangeError(
            "An integer is shifted by a count outside its width.",
            why=f"a shift count lies between 0 and {bits - 1}.",
            fix=f"clamp the count to 0 … {bits - 1}.",
        )
    return count.clamp(0, bits - 1)


class OverrideGrad(torch.autograd.Function):
    """``override_grad(value, x1, p1, …)`` as autograd sees it: the gradient of ``xi`` is ``pi``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *pairs: Tensor) -> Tensor:
        ctx.save_for_backward(*pairs[1::2])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None]
        for partial in ctx.saved_tensors:
            out += [grad * partial, None]
        return tuple(out)


def compute_dtype(dtype: torch.dtype) -> DType:
    """The float dtype mods are evaluated in for inputs of ``dtype``."""
    return F64 if dtype == torch.float64 else F32


__all__ = ["TORCH_DTYPES", "OverrideGrad", "compute_dtype", "evaluate", "is_float"]
