"""The torch functions a mod may call on symbols, by name, and what each records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from flexattn.errors import UnsupportedOpError
from flexattn.trace.gather import emit
from flexattn.trace.operators import binary, kind_of, operand, shape_of, unary
from flexattn.trace.symbol import Symbol
from flexattn.trace.tape import BOOL, FLOAT_UNARY, Tape, broadcast

Handler = Callable[..., Any]


def where(tape: Tape, condition: Any, input: Any, other: Any) -> Symbol:
    condition, a, b = (operand(tape, x, "torch.where") for x in (condition, input, other))
    if kind_of(condition) != BOOL:
        tape.fail(
            UnsupportedOpError,
            "gives torch.where a condition that is not bool.",
            why="a condition is true or false",
            fix="compare it, as in torch.where(x != 0, a, b)",
        )
    kind = max(kind_of(a), kind_of(b))
    shape = broadcast(tape, [shape_of(x) for x in (condition, a, b)])
    return emit(tape, "where", kind, shape, condition, a, b)


FUNCTIONS: dict[str, Handler] = {
    "where": where,
    **{op: (lambda tape, input, op=op: unary(tape, op, input)) for op in FLOAT_UNARY},
    **{
        name: (lambda tape, input, other, op=op: binary(tape, op, input, other))
        for name, op in dict(
            add="add", sub="sub", mul="mul", div="div", minimum="minimum", maximum="maximum",
            eq="eq", ne="ne", lt="lt", le="le", gt="gt", ge="ge", bitwise_and="and", remainder="mod",
        ).items()
    },
    "abs": lambda tape, input: unary(tape, "abs", input),
}  # fmt: skip
HANDLERS: dict[Any, Handler] = {}
for _name, _handler in FUNCTIONS.items():
    for _space in (torch, torch.Tensor):
        if hasattr(_space, _name):
            HANDLERS[getattr(_space, _name)] = _handler
