"""Captured tensors indexed by symbols: which elements a mod reads, decided as late as possible.

``m[b][0][q]`` is one `Gather` that grows an index at a time; nothing is recorded until no free
dimension is left (then one load) or a row is computed with (then one ``gather`` entry, spread
out when a graph is built). Slices and new axes apply to the real tensor, as a view.
"""

from __future__ import annotations

from typing import Any, cast

import numpy
import torch
from torch import Tensor

from flexattn.errors import CaptureDtypeError, CaptureIndexError, UnsupportedOpError
from flexattn.trace.symbol import Row, Symbol, symbol
from flexattn.trace.tape import (
    BOOL,
    FLOAT,
    INT,
    MAX_UNROLL,
    NUMBER_KINDS,
    Tape,
    as_number,
    broadcast,
)

KIND_OF_STORAGE: dict[torch.dtype, int] = {
    torch.bool: BOOL,
    **dict.fromkeys((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), INT),
    **dict.fromkeys((torch.bfloat16, torch.float16, torch.float32, torch.float64), FLOAT),
}
FREE = None  # an entry of a dimension that is not indexed yet


class Gather(Row):
    """A captured tensor some of whose dimensions are indexed.

    Attributes:
        _tensor: The real tensor, or a view of it.
        _entries: Per dimension of ``_tensor``: an index (symbol, row or int), or FREE.
        _axes: What each axis of the result is: a dimension of ``_tensor``, or ``("row", k)``,
            axis ``k`` of the row indices broadcast together.
        _rows: Shape of the row indices broadcast together.
    """

    __slots__ = ("_axes", "_entries", "_rows", "_settled", "_tensor")
    __hash__ = object.__hash__

    def __init__(
        self,
        tape: Tape,
        tensor: Tensor,
        entries: tuple[Any, ...],
        axes: tuple[Any, ...],
        rows: tuple[int, ...] = (),
    ) -> None:
        shape = tuple(rows[a[1]] if type(a) is tuple else tensor.shape[a] for a in axes)
        super().__init__(tape, -1, storage_kind(tape, tensor), shape)
        self._tensor, self._entries, self._axes, self._rows = tensor, entries, axes, rows
        self._settled: Symbol | None = None

    def index(self, items: tuple[Any, ...]) -> Symbol:
        """One more ``[items]``."""
        tape, tensor = self._tape, self._tensor
        items = _expand(tape, items, len(self._axes), tuple(self._shape))
        if self._rows and any(item is None or isinstance(item, Row) for item in items):
            return index_row(settle(tape, self), items)
        axes: list[Any] = []
        entries = list(self._entries)
        row_at: list[int] = []  # positions of row indices among the surviving axes
        source = iter(self._axes)
        for item in items:
            if item is None:
                # A new axis of size 1 is a view of the tensor, so that it is like any other.
                dim = next((a + 1 for a in reversed(axes) if type(a) is int), 0)
                tensor = tensor.unsqueeze(dim)
                entries.insert(dim, FREE)
                axes = [a + 1 if type(a) is int and a >= dim else a for a in axes] + [dim]
                source = iter([a + 1 if type(a) is int and a >= dim else a for a in source])
                continue
            axis = next(source)
            if type(item) is slice:
                if item != slice(None):
                    if type(axis) is not int:
                        return index_row(settle(tape, self), items)
                    tensor = tensor[(slice(None),) * axis + (item,)]
                axes.append(axis)
            elif type(axis) is not int:
                return index_row(settle(tape, self), items)
            else:
                entries[axis] = item
                if isinstance(item, Row):
                    row_at.append(len(axes))
        axes += source
        if not row_at:
            return _close(tape, tensor, tuple(entries), tuple(axes), self._rows)
        rows = broadcast(tape, [e._shape for e in entries if isinstance(e, Row)])
        # Row indices side by side stay where they stand, apart they move to the front.
        place = row_at[0] if len(set(row_at)) == 1 else 0
        axes[place:place] = [("row", k) for k in range(len(rows))]
        return _close(tape, tensor, tuple(entries), tuple(axes), rows)

    def __getitem__(self, index: Any) -> Symbol:
        return self.index(index if isinstance(index, tuple) else (index,))

    def settle(self) -> Symbol:
        """The row as a tape entry."""
        if self._settled is None:
            tape, numel = self._tape, int(numpy.prod(self._shape, dtype=int))
            if numel > MAX_UNROLL:
                tape.fail(
                    CaptureIndexError,
                    f"computes with a row of shape {self._shape} of a captured tensor of shape "
                    f"{tuple(self._tensor.shape)}.",
                    why=f"each of its {numel} elements would become code of its own "
                    f"(the limit is {MAX_UNROLL}); probably an index is missing",
                    fix="index every dimension of the captured tensor",
                )
            indices = [settle(tape, e) if isinstance(e, Symbol) else e for e in self._entries]
            codes = [self._code(entry, dim) for dim, entry in enumerate(indices)]
            position = len(tape)
            number = tape.capture(self._tensor)
            tape += ("gather", number, tuple(codes), self._shape, self._rows)
            self._settled = Row(tape, position, self._kind, self._shape)
        return self._settled

    def _code(self, entry: Any, dim: int) -> Any:
        if entry is FREE:
            return ("axis", self._axes.index(dim))
        if isinstance(entry, Row):
            return ("row", entry._id, self._axes.index(("row", 0)))
        return entry._id if isinstance(entry, Symbol) else self._tape.number(entry)


def storage_kind(tape: Tape, tensor: Tensor) -> int:
    """The kind of value that an element of ``tensor`` is."""
    kind = KIND_OF_STORAGE.get(tensor.dtype)
    if kind is None:
        tape.fail(
            CaptureDtypeError,
            f"reads a captured tensor of {tensor.dtype}.",
            why="mods read bool, integers up to 64 bits, bfloat16, float16, float32 and float64",
            fix="convert the tensor outside the mod",
        )
    return kind


def index_tensor(tape: Tape, tensor: Tensor, index: Any) -> Symbol:
    """``tensor[index]`` where ``index`` holds symbols. No torch-function mode is active here."""
    items = index if type(index) is tuple else (index,)
    if len(items) == tensor.dim():
        codes = []
        for item in items:  # the usual case, one integer symbol a dimension
            if type(item) is not Symbol or item._kind != INT or item._tape is not tape:
                break
            codes.append(item._id)
        else:
            kind = storage_kind(tape, tensor)
            position = len(tape)
            tape += ("load", tape.capture(tensor), tuple(codes))
            return Symbol(tape, position, kind)
    return whole(tape, tensor)[items]


def whole(tape: Tape, tensor: Tensor) -> Any:
    """``tensor`` itself as a value: a scalar if it has no dimensions, else a row."""
    dims = tuple(range(tensor.dim()))
    if not dims:
        return _close(tape, tensor, (), (), ())
    return Gather(tape, tensor, (FREE,) * len(dims), dims)


def _close(
    tape: Tape,
    tensor: Tensor,
    entries: tuple[Any, ...],
    axes: tuple[Any, ...],
    rows: tuple[int, ...],
) -> Symbol:
    """A load if every dimension is indexed, else a gather still open."""
    if axes:
        return Gather(tape, tensor, entries, axes, rows)
    codes = tuple(e._id if isinstance(e, Symbol) else tape.number(e) for e in entries)
    kind = storage_kind(tape, tensor)
    position = len(tape)
    tape += ("load", tape.capture(tensor), codes)
    return Symbol(tape, position, kind)


def settle(tape: Tape, value: Any) -> Any:
    """``value`` as an operand: a recorded symbol or a Python number; None if it is neither."""
    if isinstance(value, Symbol):
        if value._tape is not tape:
            tape.fail(
                UnsupportedOpError,
                "uses a traced value of another call.",
                why="a symbol lives only while the mod that received it runs",
                fix="do not keep symbols in globals, attributes or caches",
            )
        return value.settle() if type(value) is Gather else value
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunction():  # reading .dtype would come back through the mode
            return settle(tape, whole(tape, value))
    return as_number(value)


def _expand(
    tape: Tape, items: tuple[Any, ...], ndim: int, shape: tuple[int, ...]
) -> tuple[Any, ...]:
    """``items`` checked, made symbols, ints, slices and None, with the ellipsis written out."""
    out = [_item(tape, item) for item in items]
    consuming = sum(item is not None and item is not Ellipsis for item in out)
    if consuming > ndim:
        tape.fail(
            CaptureIndexError,
            f"indexes a captured tensor of shape {shape} with {consuming} indices.",
            why=f"it has {ndim} dimension{'s' * (ndim != 1)} left to index",
            fix="give one index per dimension",
        )
    if Ellipsis in [item for item in out if item is Ellipsis]:
        at = next(i for i, item in enumerate(out) if item is Ellipsis)
        out[at : at + 1] = [slice(None)] * (ndim - consuming)
    out += [slice(None)] * (ndim - sum(item is not None for item in out))
    return tuple(out)


def _item(tape: Tape, item: Any) -> Any:
    if item is None or item is Ellipsis:
        return item
    if isinstance(item, slice):
        for bound in (item.start, item.stop, item.step):
            if isinstance(bound, Symbol):
                bound._no_value(
                    "a slice", "a row has a fixed length; gather elements one by one, or use where"
                )
        return item
    if isinstance(item, (list, numpy.ndarray)) and not any(isinstance(i, Symbol) for i in item):
        item = torch.as_tensor(item)
    value = settle(tape, item)
    if isinstance(value, Symbol):
        kind = value._kind
    else:
        kind = -1 if value is None else NUMBER_KINDS[type(value)]
    if kind == INT:
        return value
    what, fix = {
        FLOAT: ("a float", "convert it with .long() (towards zero) or torch.floor(x).long()"),
        BOOL: ("a bool", "a mask selects an unknown number of elements; use torch.where"),
    }.get(kind, (repr(item), "use integers, slices, None and ..."))
    tape.fail(
        CaptureIndexError,
        f"indexes a captured tensor with {what}.",
        why="an index is an integer",
        fix=fix,
    )


# Rows that are computed -------------------------------------------------------------------------


def index_row(row: Row, items: tuple[Any, ...]) -> Symbol:
    """``row[items]`` with indices known while tracing."""
    tape = row._tape
    items = _expand(tape, items, len(row._shape), row._shape)
    if any(isinstance(item, Symbol) for item in items):
        tape.fail(
            UnsupportedOpError,
            "indexes a computed row with a traced value.",
            why="a computed row lies in registers, which have no addresses",
            fix="index the captured tensor first and compute with the element",
        )
    literal = tuple(
        ("slice", i.start, i.stop, i.step) if isinstance(i, slice) else i for i in items
    )
    try:
        shape = numpy.broadcast_to(numpy.int8(0), row._shape)[items].shape
    except IndexError as error:
        tape.fail(CaptureIndexError, f"{error}.", why="the row is shorter", fix="use a valid index")
    position = len(tape)
    tape += ("pick", row._id, literal)
    return symbol(tape, position, row._kind, shape)


def _row_getitem(row: Row, index: Any) -> Symbol:
    return index_row(cast(Row, settle(row._tape, row)), index if type(index) is tuple else (index,))


def _scalar_getitem(scalar: Symbol, index: Any) -> Symbol:
    items = index if type(index) is tuple else (index,)
    for item in items:
        if item is not None and item is not Ellipsis:
            scalar._fail(
                CaptureIndexError,
                "indexes a traced scalar.",
                why="a mod's arguments and what is computed from them have no dimensions",
                fix="index captured tensors by the scalar instead, as in table[h]",
            )
    shape = (1,) * sum(item is None for item in items)
    return (
        scalar if not shape else emit(scalar._tape, "reshape", scalar._kind, shape, scalar, shape)
    )


def emit(tape: Tape, op: str, kind: int, shape: tuple[int, ...], *operands: Any) -> Symbol:
    """Append an entry. Operands are settled symbols, Python numbers, and tuples of literals."""
    codes = []
    for operand in operands:
        if isinstance(operand, Symbol):
            codes.append(operand._id)
        else:
            codes.append(operand if type(operand) in (tuple, str) else tape.number(operand))
    position = len(tape)
    tape += (op, *codes)
    return symbol(tape, position, kind, shape)


for _cls, _getitem in ((Row, _row_getitem), (Symbol, _scalar_getitem)):
    setattr(_cls, "__getitem__", _getitem)  # noqa: B010 - mypy takes an assignment for generics
