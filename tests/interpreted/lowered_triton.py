"""Evaluates many graphs in one small interpreted Triton kernel, at every (b, h, q_idx, kv_idx)."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from flexattn import template
from flexattn.ir.hooks import Hooks
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, FLOATS, Node
from flexattn.ir.program import CaptureType
from flexattn.lowering.to_triton import function, lower_hoists
from flexattn.lowering.triton_emit import CaptureLayout, TritonEmitter
from flexattn.passes.narrow import narrow
from flexattn.passes.split import split

STORAGE = {
    torch.bool: "bool", torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16",
    torch.int32: "i32", torch.int64: "i64", torch.bfloat16: "bf16", torch.float16: "f16",
    torch.float32: "f32", torch.float64: "f64",
}  # fmt: skip

DRIVER = """
@triton.jit
def driver(captures, scores, wholes, floats, B, H, M, N, BM: tl.constexpr, BN: tl.constexpr):
    bh = tl.program_id(0)
    b, h = bh // H, bh % H
    o_q = tl.program_id(1) * BM + tl.arange(0, BM)[:, None]
    o_kv = tl.program_id(2) * BN + tl.arange(0, BN)[None, :]
    keep = (o_q < M) & (o_kv < N)
    q_idx, kv_idx = tl.minimum(o_q, M - 1), tl.minimum(o_kv, N - 1)
    at = (bh * M + o_q) * N + o_kv
    score = tl.load(scores + at, mask=keep, other=0.0)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    size = B * H * M * N
    values = evaluate(captures, u, qv, kvv, score, b, h, q_idx, kv_idx)
"""


def load_module(text: str) -> ModuleType:
    """The module with that text, from a file: Triton reads the source of what it compiles."""
    folder = Path(tempfile.gettempdir()) / "flexattn-lowered"
    folder.mkdir(exist_ok=True)
    name = "lowered_" + hashlib.sha256(text.encode()).hexdigest()[:24]
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hooks_of(
    roots: Sequence[Node], captures: Sequence[CaptureType], numbers: Sequence[str], compute: str
) -> tuple[Hooks, tuple[Node, ...]]:
    """Hooks that hold the hoisted values of ``roots``, and the roots in terms of these."""
    hoisted = split(roots)
    hooks = Hooks(
        hoisted.uniform, hoisted.q, hoisted.kv, None, None, None, None, (), tuple(captures),
        tuple(numbers), compute,
    )  # fmt: skip
    return hooks, hoisted.roots


def kernel_text(
    roots: Sequence[Node], captures: Sequence[CaptureType], numbers: Sequence[str], compute: str
) -> str:
    """A module whose kernel `driver` stores the values of all roots."""
    hooks, roots = hooks_of(roots, captures, numbers, compute)
    layout = CaptureLayout(hooks)
    emitter = TritonEmitter(layout)
    names = "".join(f"{emitter.value(root)}, " for root in roots)
    head = "evaluate(captures, u, qv, kvv, score, b, h, q_idx, kv_idx)"
    body = [*emitter.lines, f"return ({names})"]
    stores = []
    for number, root in enumerate(roots):
        where, kind = ("floats", "float64") if root.dtype in FLOATS else ("wholes", "int64")
        value = f"tl.broadcast_to(values[{number}].to(tl.{kind}), [BM, BN])"
        stores.append(f"    tl.store({where} + {number} * size + at, {value}, mask=keep)")
    mods = "\n\n\n".join([*lower_hoists(layout, {}), function(head, body)])
    return template.render_triton("mods", mods=mods) + DRIVER + "\n".join(stores) + "\n"


def capture_arguments(captures: Sequence[Tensor], numbers: Sequence[float] = ()) -> tuple[Any, ...]:
    """The tuple that hooks take: address, sizes and strides of each capture, then the numbers."""
    found: list[Any] = []
    for tensor in captures:
        found.append(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor)
        found += [*tensor.shape, *tensor.stride()]
    return (*found, *numbers)


def run(
    roots: Sequence[Node],
    captures: Sequence[Tensor],
    score: Tensor,
    *,
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    compute: str = F32,
    wide: bool = True,
) -> list[Tensor]:
    """The values [B, H, M, N] of every root, for raw scores of that shape."""
    types = tuple(CaptureType(STORAGE[t.dtype], t.dim()) for t in captures)
    numbers = ("i64",) * len(ints) + (compute,) * len(floats)
    narrowed = tuple(roots) if wide else narrow(tuple(roots), types)
    module = load_module(kernel_text(narrowed, types, numbers, compute))
    batch, heads, rows, keys = score.shape
    whole_values = torch.zeros(len(roots), *score.shape, dtype=torch.int64)
    float_values = torch.full((len(roots), *score.shape), torch.nan, dtype=torch.float64)
    block = (128, 128)  # few programs: the interpreter takes a time for each operation of each
    grid = (batch * heads, -(-rows // block[0]), -(-keys // block[1]))
    module.driver[grid](
        capture_arguments(captures, (*ints, *floats)), score, whole_values, float_values,
        batch, heads, rows, keys, *block,
    )  # fmt: skip
    return [
        float_values[k] if root.dtype in FLOATS else whole_values[k] for k, root in enumerate(roots)
    ]


def expect(
    root: Node,
    captures: Sequence[Tensor],
    score: Tensor,
    *,
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    compute: str = F32,
) -> Tensor:
    """The same by the interpreter of graphs."""
    batch, heads, rows, keys = score.shape
    env: dict[str, Any] = {
        "b": torch.arange(batch).view(-1, 1, 1, 1),
        "h": torch.arange(heads).view(-1, 1, 1),
        "q_idx": torch.arange(rows).view(-1, 1),
        "kv_idx": torch.arange(keys),
        "score": score,
    }
    env |= {f"n{k}": value for k, value in enumerate((*ints, *floats))}
    value = evaluate(root, env, captures, compute)
    return value.expand(score.shape).to(torch.float64 if root.dtype in FLOATS else torch.int64)


__all__ = ["BOOL", "capture_arguments", "expect", "kernel_text", "load_module", "run"]
