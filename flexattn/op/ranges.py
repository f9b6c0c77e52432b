"""Calls whose kernels read from ranges which blocks to visit, with no block list in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import I64, Input, Load, Node
from flexattn.ir.program import CaptureType, Program, Ranges
from flexattn.masks.tables import cdiv
from flexattn.op.programs import STORAGE, Bound, Variant

LIMIT = 64  # programs with ranges kept per program without


def attach(bound: Bound, ranges: Ranges, ints: Sequence[int], captures: Sequence[Tensor]) -> Bound:
    """``bound`` with ``ranges``, for a call with no tables whose mask keeps nothing outside them.

    Args:
        ranges: In these ``n{i}`` is ``ints[i]`` and ``Load(c)`` and ``size{c}_{d}`` speak of
            ``captures[c]``. All numbers are run-time arguments.
        captures: Those that ``bound`` has too are shared; the others get no gradient.
    """
    tensors: list[Tensor] = list(bound.captures)
    number_of = {id(tensor): at for at, tensor in enumerate(tensors)}
    places = []
    for tensor in captures:
        at = number_of.setdefault(id(tensor), len(tensors))
        if at == len(tensors):
            tensors.append(tensor)
        places.append(at)
    added = tensors[len(bound.captures) :]
    key = (ranges, len(ints), *places, *((tensor.dtype, tensor.ndim) for tensor in added))
    known_variants = bound.variant.ranged
    variant = known_variants.get(key)
    if variant is None:
        if len(known_variants) >= LIMIT:
            known_variants.clear()
        types = tuple(CaptureType(STORAGE[tensor.dtype], tensor.ndim) for tensor in added)
        program = _with_ranges(bound.variant.program, ranges, len(ints), places, types)
        variant = known_variants[key] = Variant(program, bound.variant.positions)
    numbers = [*bound.ints, *ints]
    return Bound(variant, tensors, numbers, bound.floats, bound.score, bound.mask)


def _with_ranges(
    program: Program,
    ranges: Ranges,
    ints: int,
    places: Sequence[int],
    added: tuple[CaptureType, ...],
) -> Program:
    """``program`` with ``ranges`` that name numbers and captures as it does."""
    first = len(program.numbers)

    def rule(node: Node) -> Node:
        match node:
            case Load(capture, indices, dtype):
                return Load(places[capture], indices, dtype)
            case Input(name, dtype) if name.startswith("size"):
                capture, dim = map(int, name.removeprefix("size").split("_"))
                return Input(f"size{places[capture]}_{dim}", dtype)
            case Input(name, dtype) if name[0] == "n":
                return Input(f"n{first + int(name[1:])}", dtype)
        return node

    return replace(
        program,
        captures=(*program.captures, *added),
        numbers=(*program.numbers, *(I64,) * ints),
        ranges=ranges.map(rule),
    )


def listed_blocks(
    bound: Bound, shape: tuple[int, int, int, int], block: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The partial and the full blocks of a program with ranges: bool [B|1, H|1, rows, cols].

    Args:
        shape: (B, H, Q_LEN, KV_LEN).
        block: Queries and keys of a block.
    """
    batch, heads, q_len, kv_len = shape
    q_block, kv_block = block
    program = bound.variant.program
    ints = iter(bound.ints)
    env: dict[str, Tensor | int] = {
        f"n{i}": next(ints) for i, kind in enumerate(program.numbers) if kind == I64
    }
    env["b"] = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    env["h"] = torch.arange(heads, device=device).view(-1, 1, 1)

    def at(end: Node, q_idx: Tensor) -> Tensor:
        captures = [tensor.detach() for tensor in bound.captures]
        value = evaluate(end, env | {"q_idx": q_idx}, captures, program.compute)
        return value.clamp(0, kv_len)

    first = torch.arange(cdiv(q_len, q_block), device=device).unsqueeze(-1) * q_block
    last = (first + q_block).clamp(max=q_len) - 1
    cols = torch.arange(max(1, cdiv(kv_len, kv_block)), device=device)
    visited = full = torch.zeros((), dtype=torch.bool, device=device)
    for low, high in () if program.ranges is None else program.ranges.rows:
        begin, end = at(low, first), at(high, last)
        met = (begin // kv_block <= cols) & (cols < cdiv(end, kv_block))
        visited = visited | (met & (begin < end))
        begin, end = at(low, last), at(high, first)
        held = (cdiv(begin, kv_block) <= cols) & (cols < end // kv_block)
        full = full | (held & (first + q_block <= q_len))
    frame = torch.broadcast_shapes(full.shape, visited.shape, (1, 1, len(first), len(cols)))
    return (visited & ~full).expand(frame), full.expand(frame)
