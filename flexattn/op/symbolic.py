"""Programs of mods that meet symbolic numbers, as they do while PyTorch traces one graph for many.

A ``SymInt`` becomes a lifted number whatever its value, so that the graph serves every value. A
``SymFloat`` becomes a captured 0-d tensor: AOT Autograd turns arithmetic of symbolic floats into
arithmetic of tensors, and would otherwise compile again for every value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from flexattn.ir.nodes import I64, Input, Load, Node, rewrite
from flexattn.ir.program import CaptureType, Program
from flexattn.op import programs
from flexattn.op.programs import Bound, Variant
from flexattn.trace import Traced, trace_mod

SYMBOLIC = (torch.SymInt, torch.SymFloat)


def bind(score: Traced | None, mask: Traced | None, compute: str) -> Bound:
    """As ``programs.bind``, for numbers that may be symbolic."""
    if not torch._C._len_torch_dispatch_stack():  # symbolic numbers exist only while one traces
        return programs.bind(score, mask, compute)
    numbers, captures, links = programs.merge(score, mask)
    lifted = frozenset(at for at, number in enumerate(numbers) if isinstance(number, SYMBOLIC))
    if not lifted:
        return programs.bind(score, mask, compute)
    # Of these the tracer still builds in what must be: exponents, indices into captures.
    variant = programs.make_variant(numbers, lifted, score, mask, captures, links, compute)
    values = [numbers[at] for at in variant.positions]
    ints = [value for value in values if isinstance(value, torch.SymInt)]
    floats = [value for value in values if isinstance(value, torch.SymFloat)]
    if floats:
        captures = [*captures, *map(_as_tensor, floats)]
        variant = Variant(_floats_as_captures(variant.program))
    return Bound(variant, captures, ints, [], score, mask)


def bind_mask(
    mod: Callable[..., Any],
    kind: Literal["score", "mask"] = "mask",
    device: torch.device | None = None,
) -> Bound:
    """The program of a mask of blocks, which no attention has been called with yet.

    It compares in float64 if it reads float64, as PyTorch does: in float32, close values would
    be equal, and lists made so would be wrong for attention in float64.
    """
    traced = trace_mod(mod, kind, device=device)
    compute = "f32"
    if any(tensor.dtype == torch.float64 for tensor in traced.captures):
        compute = "f64"
        traced = trace_mod(mod, kind, compute=compute, device=device)
    score, mask = (None, traced) if kind == "mask" else (traced, None)
    return bind(score, mask, compute)


def scaled(score_mod: Callable[..., Any] | None, scale: torch.SymFloat) -> Callable[..., Any]:
    """``score_mod`` of scores that were not scaled: a kernel has its scale built into the call."""

    def symbolic_scale(score: Any, *indices: Any) -> Any:
        score = score * scale
        return score if score_mod is None else score_mod(score, *indices)

    return symbolic_scale


def _as_tensor(value: torch.SymFloat) -> Tensor:
    # A product with a tensor is what AOT Autograd's pass over symbolic floats recognizes.
    return torch.ones((), dtype=torch.float64) * value


def _floats_as_captures(program: Program) -> Program:
    """``program`` with its lifted floats as further captures, in order."""
    inputs: dict[str, Node] = {}
    captures = list(program.captures)
    ints = 0
    for i, kind in enumerate(program.numbers):
        if kind == I64:
            inputs[f"n{i}"] = Input(f"n{ints}", I64)
            ints += 1
        else:
            inputs[f"n{i}"] = Load(len(captures), (), kind)
            captures.append(CaptureType("f64", 0))

    def rule(node: Node) -> Node:
        return inputs.get(node.name, node) if isinstance(node, Input) else node

    return replace(
        program,
        score=None if program.score is None else rewrite(program.score, rule),
        mask=None if program.mask is None else rewrite(program.mask, rule),
        captures=tuple(captures),
        numbers=(I64,) * ints,
        ranges=None if program.ranges is None else program.ranges.map(rule),
    )
