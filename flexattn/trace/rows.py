"""Reductions and shapes of rows: ``(topk[b, h, t] == x).any(-1)``, dot products, ``unsqueeze``.

On a scalar a reduction is the scalar itself, as on a tensor without dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from flexattn.errors import UnsupportedOpError
from flexattn.trace.functions import Handler
from flexattn.trace.gather import Gather, emit, index_tensor
from flexattn.trace.operators import binary, cast, kind_of, operand, shape_of
from flexattn.trace.symbol import Symbol, symbol
from flexattn.trace.tape import BOOL, FLOAT, INT, Tape, kind_of_dtype

_ABSENT = object()


# Reductions -----------------------------------------------------------------------------------


def _reduce(tape: Tape, op: str, x: Any, dim: Any, keepdim: bool, kind: int) -> Symbol:
    shape = shape_of(x)
    axes = _axes(tape, dim, len(shape))
    if not shape:
        return x
    empty = numpy.empty(shape, dtype=bool).sum(axis=axes, keepdims=keepdim).shape
    return emit(tape, op, kind, empty, x, axes, (keepdim,))


def _axes(tape: Tape, dim: Any, ndim: int) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(ndim))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    for d in dims:
        if not isinstance(d, int) or not -max(ndim, 1) <= d < max(ndim, 1):
            tape.fail(
                UnsupportedOpError,
                f"reduces over dimension {d!r} of a value with {ndim} dimensions.",
                why="a dimension is a constant inside the value's rank",
                fix="use dim=-1 for the last one",
            )
    return tuple(sorted(d % ndim for d in dims)) if ndim else ()


def sum(
    tape: Tape, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = operand(tape, input, "sum")
    kind = max(kind_of(x), INT) if dtype is None else kind_of_dtype(tape, dtype)
    return _reduce(tape, "sum", cast(tape, x, kind), dim, keepdim, kind)


def prod(
    tape: Tape, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = operand(tape, input, "prod")
    kind = max(kind_of(x), INT) if dtype is None else kind_of_dtype(tape, dtype)
    return _reduce(tape, "prod", cast(tape, x, kind), dim, keepdim, kind)


def mean(
    tape: Tape, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = cast(tape, input, FLOAT)
    axes = _axes(tape, dim, len(shape_of(x)))
    count = 1
    for axis in axes:
        count *= shape_of(x)[axis]
    total = _reduce(tape, "sum", x, dim, keepdim, FLOAT)
    return total if count == 1 else binary(tape, "div", total, count)


def any(tape: Tape, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _reduce(tape, "any", cast(tape, input, BOOL), dim, keepdim, BOOL)


def all(tape: Tape, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _reduce(tape, "all", cast(tape, input, BOOL), dim, keepdim, BOOL)


def count_nonzero(tape: Tape, input: Any, dim: Any = None) -> Any:
    return sum(tape, cast(tape, input, BOOL), dim)


def amax(tape: Tape, input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    x = _nonempty(tape, operand(tape, input, "amax"))
    return _reduce(tape, "amax", x, dim, keepdim, kind_of(x))


def amin(tape: Tape, input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    x = _nonempty(tape, operand(tape, input, "amin"))
    return _reduce(tape, "amin", x, dim, keepdim, kind_of(x))


def _nonempty(tape: Tape, x: Any) -> Any:
    if 0 in shape_of(x):
        tape.fail(
            UnsupportedOpError,
            "takes the extreme of an empty row.",
            why="no element is the greatest or least of none",
            fix="check the captured tensor's shape",
        )
    return x


class Extreme(NamedTuple):
    """What ``row.max(dim)`` returns; there are no indices."""

    values: Symbol

    @property
    def indices(self) -> Symbol:
        self.values._tape.fail(
            UnsupportedOpError,
            "asks where in a row the extreme lies.",
            why="rows are spread out into scalars, which have no positions",
            fix="compute the index outside the mod into a captured tensor",
        )


def _extreme(reduce: Handler, op: str) -> Handler:
    def handler(
        tape: Tape, input: Any, dim: Any = _ABSENT, keepdim: bool = False, *, other: Any = _ABSENT
    ) -> Any:
        other = dim if isinstance(dim, (Symbol, Tensor)) else other
        if other is not _ABSENT:
            return binary(tape, op, input, other)
        if dim is _ABSENT:
            return reduce(tape, input)
        return Extreme(reduce(tape, input, dim, keepdim))

    return handler


def dot(tape: Tape, input: Any, other: Any) -> Any:
    return sum(tape, binary(tape, "mul", input, other))


def vecdot(tape: Tape, x: Any, y: Any, *, dim: int = -1) -> Any:
    return sum(tape, binary(tape, "mul", x, y), dim)


def isin(
    tape: Tape,
    elements: Any,
    test_elements: Any,
    *,
    assume_unique: bool = False,
    invert: bool = False,
) -> Any:
    tests = reshape(tape, operand(tape, test_elements, "isin"), -1)
    found = any(tape, binary(tape, "eq", unsqueeze(tape, elements, -1), tests), -1)
    return ~found if invert else found


# Shapes ---------------------------------------------------------------------------------------


def reshape(tape: Tape, input: Any, *shape: Any) -> Symbol:
    x = operand(tape, input, "reshape")
    wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    wanted = numpy.empty(shape_of(x), dtype=bool).reshape(tuple(wanted)).shape
    return x if wanted == shape_of(x) else emit(tape, "reshape", kind_of(x), wanted, x, wanted)


def expand(tape: Tape, input: Any, *shape: Any) -> Symbol:
    x = operand(tape, input, "expand")
    wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    old = (0,) * (len(wanted) - len(shape_of(x))) + shape_of(x)
    full = tuple(o if w == -1 else w for w, o in zip(wanted, old))
    return emit(tape, "reshape", kind_of(x), full, x, full, ("fill",)) if full else x


def _like(handler: Handler) -> Handler:
    return lambda tape, input, other: handler(tape, input, tuple(other.shape))


def unsqueeze(tape: Tape, input: Any, dim: int) -> Symbol:
    if isinstance(input, Gather):  # stays unread
        at = dim % (len(input.shape) + 1)
        return input[(slice(None),) * at + (None,)]
    x = operand(tape, input, "unsqueeze")
    shape = list(shape_of(x))
    shape.insert(dim % (len(shape) + 1), 1)
    return reshape(tape, x, shape)


def squeeze(tape: Tape, input: Any, dim: Any = None) -> Symbol:
    x = operand(tape, input, "squeeze")
    shape = shape_of(x)
    axes = _axes(tape, dim, len(shape))
    return reshape(tape, x, [n for i, n in enumerate(shape) if n != 1 or i not in axes])


def flatten(tape: Tape, input: Any, start_dim: int = 0, end_dim: int = -1) -> Symbol:
    if start_dim == 0 and end_dim == -1:
        return reshape(tape, input, -1)
    x = operand(tape, input, "flatten")
    return reshape(
        tape, x, torch.empty(shape_of(x), device="meta").flatten(start_dim, end_dim).shape
    )


def stack(tape: Tape, tensors: Any, dim: int = 0) -> Symbol:
    parts = [operand(tape, tensor, "torch.stack") for tensor in tensors]
    if [part for part in parts if shape_of(part)]:
        tape.fail(
            UnsupportedOpError,
            "stacks rows.",
            why="only scalars are stacked into a row here",
            fix="compute with each row by itself",
        )
    kind = max(kind_of(part) for part in parts)
    numbers = [cast(tape, part, kind) for part in parts]
    position = len(tape)
    tape += ("stack", *(part._id for part in numbers))
    return symbol(tape, position, kind, (len(parts),))


def unbind(tape: Tape, input: Any, dim: int = 0) -> Any:
    x = operand(tape, input, "unbind")
    at = dim % max(len(shape_of(x)), 1)
    index = (slice(None),) * at
    return tuple(x[index + (i,)] for i in range(shape_of(x)[dim]))  # noqa: RUF005 - Python 3.10


def embedding(tape: Tape, input: Any, weight: Any, *_: Any, **__: Any) -> Symbol:
    return index_tensor(tape, weight, input)


_NAMED = (
    *(sum, prod, mean, any, all, count_nonzero, amax, amin, dot, vecdot, isin),
    *(reshape, expand, unsqueeze, squeeze, flatten, stack, unbind, embedding),
)
ROWS: dict[str, Handler] = {
    **{handler.__name__: handler for handler in _NAMED},
    "max": _extreme(amax, "maximum"),
    "min": _extreme(amin, "minimum"),
    "vdot": dot,
    "inner": dot,
    "view": reshape,
    "broadcast_to": expand,
    "ravel": flatten,
    "view_as": _like(reshape),
    "reshape_as": _like(reshape),
    "expand_as": _like(expand),
}
