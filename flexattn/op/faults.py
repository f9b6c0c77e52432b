"""Turns a position that a kernel reported into the error that names the user's mistake."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexattn.errors import (
    DivisionByZeroError,
    FlexAttentionError,
    IndexOutOfRangeError,
    ShiftRangeError,
)
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import I64, Apply, Load, Node, walk
from flexattn.ir.sites import SHIFTS, Site, find_sites
from flexattn.op.programs import lines_of
from flexattn.op.request import COMPUTE, Call, Position
from flexattn.passes.guard import guard


def fault_error(call: Call, position: Position) -> FlexAttentionError:
    """The error for a fault at ``position`` (b, h, q_idx, kv_idx)."""
    program = call.bound.variant.program
    captures = [tensor.detach() for tensor in call.bound.captures]
    env = point_inputs(call, position)
    sites = find_sites(program)
    for root, traced, kind in (
        (program.score, call.bound.score, "score_mod"),
        (program.mask, call.bound.mask, "mask_mod"),
    ):
        below = set(walk(root))
        for site in sites:
            if root is None or site.node not in below:
                continue
            fault = guard(root, [site], frozenset()).fault
            if fault is not None and _value(fault, env, captures, program.compute):
                name = f"{kind} {traced.name!r}" if traced is not None else f"the {kind}"
                at = None if traced is None else lines_of(call.bound).get(site.node)
                return _describe(site, env, captures, program.compute, name, position, at)
    return IndexOutOfRangeError(
        f"a mod reads outside a captured tensor at {_where(position)}.",
        why="the mask keeps this position, and the value read decides its score.",
        fix="mask the position, clamp the index, or guard it with torch.where.",
    )


def point_inputs(call: Call, position: Position) -> dict[str, Tensor]:
    """The inputs of the mods at one position, as 0-d tensors."""
    program = call.bound.variant.program
    dtype = COMPUTE[program.compute]
    b, h, q, kv = position
    group = call.query.shape[1] // max(1, call.key.shape[1])
    row = call.query[b, h, q].detach().to(dtype)
    column = call.key[b if call.key.shape[0] > 1 else 0, h // group, kv].detach().to(dtype)
    env = {
        name: torch.tensor(index)
        for name, index in zip(("b", "h", "q_idx", "kv_idx"), position, strict=True)
    }
    env["score"] = (row @ column) * call.scale
    ints, floats = iter(call.bound.ints), iter(call.bound.floats)
    for i, kind in enumerate(program.numbers):
        whole = kind == I64
        number = next(ints) if whole else next(floats)
        env[f"n{i}"] = torch.tensor(number, dtype=torch.int64 if whole else dtype)
    for c, tensor in enumerate(call.bound.captures):
        for d, size in enumerate(tensor.shape):
            env[f"size{c}_{d}"] = torch.tensor(size)
    return env


def _value(node: Node, env: dict[str, Tensor], captures: Sequence[Tensor], compute: str) -> int:
    return int(evaluate(node, env, captures, compute, on_fault="safe"))


def _where(position: Position) -> str:
    b, h, q, kv = position
    return f"b={b}, h={h}, q_idx={q}, kv_idx={kv}"


def _describe(
    site: Site,
    env: dict[str, Tensor],
    captures: Sequence[Tensor],
    compute: str,
    name: str,
    position: Position,
    at: str | None,
) -> FlexAttentionError:
    value = _value(site.operand, env, captures, compute)
    if isinstance(site.node, Load):
        tensor = captures[site.node.capture]
        shape = tuple(tensor.shape)
        return IndexOutOfRangeError(
            f"{name} reads captured tensor {site.node.capture} of shape {shape} at index {value} "
            f"of dimension {site.dim}, which has size {shape[site.dim]}.",
            at=at,
            why=f"at {_where(position)} the mask keeps the score and the value read decides it.",
            fix="mask such positions, clamp the index, or guard it with torch.where.",
        )
    op = site.node.op if isinstance(site.node, Apply) else ""
    if op in SHIFTS:
        return ShiftRangeError(
            f"{name} shifts an integer by {value} bits.",
            at=at,
            why=f"at {_where(position)} the count is not in [0, 64).",
            fix="clamp the count, or guard the shift with torch.where.",
        )
    return DivisionByZeroError(
        f"{name} divides an integer by zero.",
        at=at,
        why=f"at {_where(position)} the divisor is 0, the mask keeps the score and the quotient "
        "decides it.",
        fix="mask such positions, or make the divisor at least 1 with .clamp(min=1).",
    )
