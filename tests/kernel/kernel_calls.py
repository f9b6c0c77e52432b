"""Runs generated kernels directly, and the same attention by autograd in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.program import Program
from flexattn.kernel.isa import Isa
from flexattn.kernel.source import kernel_source
from flexattn.runtime import launch


def shape_fields(q: Tensor, k: Tensor, v: Tensor) -> dict[str, int]:
    """Sizes and strides that forward and backward share."""
    fields = {"B": q.shape[0], "Hq": q.shape[1], "M": q.shape[2], "D": q.shape[3]}
    fields |= {"Hkv": k.shape[1], "N": k.shape[2], "Dv": v.shape[3]}
    for name, tensor, last in (("q", q, "m"), ("k", k, "n"), ("v", v, "n")):
        fields |= dict(
            zip((f"{name}_b", f"{name}_h", f"{name}_{last}", f"{name}_d"), tensor.stride())
        )
    return fields | {"q_block": 1, "kv_block": 1}


def strides(name: str, last: str, tensor: Tensor) -> dict[str, int]:
    return dict(zip((f"{name}_b", f"{name}_h", f"{name}_{last}", f"{name}_d"), tensor.stride()))


def forward(
    program: Program,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor] = (),
    *,
    isa: Isa | None = None,
    wide: bool = False,
    **numbers: Any,
) -> tuple[Tensor, Tensor, launch.Fault | None]:
    """out, lse and the first fault of a float32 forward with scale 1 and no block table."""
    kernel = launch.load(kernel_source(program, "forward", dtype="f32", isa=isa, wide=wide))
    out = torch.full((*q.shape[:3], v.shape[3]), float("nan"))
    lse = torch.full(q.shape[:3], float("nan"))
    fault = kernel(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), out=out.data_ptr(), lse=lse.data_ptr(),
        scale=1.0, captures=captures,
        **dict(list(strides("o", "m", out).items())[:3]), **shape_fields(q, k, v), **numbers,
    )  # fmt: skip
    return out, lse, fault


def backward(
    program: Program,
    tensors: Sequence[Tensor],
    captures: Sequence[Tensor],
    wanted: Sequence[int],
    *,
    isa: Isa | None = None,
    chunks: int = 1,
    wide: bool = False,
    **numbers: Any,
) -> dict[str, Tensor]:
    """Gradients of q, k, v and of the captures ``wanted``, from (q, k, v, out, lse, dout)."""
    q, k, v, out, _lse, dout = tensors
    source = kernel_source(program, "backward", dtype="f32", isa=isa, grads=wanted, wide=wide)
    kernel = launch.load(source)
    grads = {name: torch.full_like(t, float("nan")) for name, t in (("q", q), ("k", k), ("v", v))}
    buffers = [
        torch.zeros(
            captures[place["capture"]].shape,
            dtype=torch.float32 if place["dense"] else torch.float64,
        )
        for place in kernel.meta["capture_grads"]
    ]
    items = q.shape[0] * k.shape[1] * chunks  # one group: all items on one thread, one buffer
    start, order = torch.tensor([0, items]), torch.arange(items)
    fields = shape_fields(q, k, v) | {
        "Bkv": k.shape[0],
        "chunks": chunks,
        "groups": 1,
        "scale": 1.0,
    }
    fields |= {"group_start": start.data_ptr(), "group_items": order.data_ptr()}
    for name, last, tensor in (
        ("o", "m", out),
        ("dq", "m", grads["q"]),
        ("dk", "n", grads["k"]),
        ("dv", "n", grads["v"]),
    ):
        fields |= dict(list(strides(name, last, tensor).items())[:3])
    fields |= strides("do", "m", dout)
    names = ("q", "k", "v", "out", "lse", "dout")
    fields |= {name: tensor.data_ptr() for name, tensor in zip(names, tensors)}
    fields |= {f"d{name}": grad.data_ptr() for name, grad in grads.items()}
    kernel(
        **fields, captures=captures, grads=[b.data_ptr() for b in buffers],
        grad_group_strides=[0] * len(buffers), **numbers,
    )  # fmt: skip
    for number in wanted:
        grads[str(number)] = torch.zeros(captures[number].shape, dtype=torch.float64)
    for place, buffer in zip(kernel.meta["capture_grads"], buffers):
        grads[str(place["capture"])] += buffer
    return grads


def attention(
    program: Program, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], **numbers: Any
) -> tuple[Tensor, Tensor]:
    """out and lse of the same attention, whole matrices, in the dtype of ``q``."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    score = q @ k.transpose(-1, -2)
    compute = "f64" if q.dtype == torch.float64 else "f32"
    env: dict[str, Any] = {
        "b": torch.arange(q.shape[0]).view(-1, 1, 1, 1),
        "h": torch.arange(q.shape[1]).view(-1, 1, 1),
        "q_idx": torch.arange(q.shape[2]).view(-1, 1),
        "kv_idx": torch.arange(k.shape[2]),
        "score": score,
    }
    values = [*numbers.get("ints", ()), *numbers.get("floats", ())]
    env |= {f"n{place}": value for place, value in enumerate(values)}
    if program.score is not None:
        score = evaluate(program.score, env, captures, compute, on_fault="safe").expand(score.shape)
    if program.mask is not None:
        kept = evaluate(program.mask, env, captures, compute, on_fault="safe")
        score = score.masked_fill(~kept, float("-inf"))
    weights = torch.softmax(score, -1).nan_to_num(0.0)
    return weights @ v, torch.logsumexp(score, -1)
