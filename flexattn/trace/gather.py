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

from flexattn.errors import CaptureDtypeError, CaptureIndexError, LayoutError, UnsupportedOpError
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
        _entries: Per dimension of ``_tensor``: FREE, the tape position of a scalar index, a
            constant index as ``(i,)``, or a row of indices.
        _axes: What each axis of the result is: a dimension of ``_tensor``, or ``("row", k)``,
            axis ``k`` of the row indices broadcast together.
        _rows: Shape of the row indices broadcast together.
    """

    __slots__ = ("_axes", "_entries", "_rows", "_settled", "_tensor")

    def __init__(
        self,
        tape: Tape,
        kind: int,
        tensor: Tensor,
        entries: tuple[Any, ...],
        axes: tuple[Any, ...],
        shape: tuple[int, ...],
        rows: tuple[int, ...] = (),
    ) -> None:
        self._tape, self._id, self._kind, self._shape = tape, -1, kind, shape
        self._tensor, self._entries, self._axes, self._rows = tensor, entries, axes, rows
        self._settled: Symbol | None = None

    def __getitem__(self, index: Any) -> Symbol:
        cls = type(index)
        if cls is Symbol or cls is int:  # the usual case, one integer for the first axis
            axis = self._axes[0]
            if type(axis) is int and (cls is int or index._kind == INT):
                if cls is Symbol:
                    _check_tape(self._tape, index)
                entry = (index,) if cls is int else index._id
                entries = (*self._entries[:axis], entry, *self._entries[axis + 1 :])
                return self._with(self._tensor, entries, self._axes[1:], self._shape[1:])
        items = index if isinstance(index, tuple) else (index,)
        return self.index(_expand(self._tape, items, self._shape))

    def index(self, items: tuple[Any, ...]) -> Symbol:
        """``self[items]`` for items that `_expand` has checked."""
        if self._rows and any(item is None or isinstance(item, Row) for item in items):
            return index_row(cast(Row, self.settle()), items)
        tensor, entries = self._tensor, list(self._entries)
        axes: list[Any] = []
        row_at: list[int] = []  # positions of row indices among the surviving axes
        source = list(reversed(self._axes))
        for item in items:
            if item is None:
                # A new axis of size 1 is a view of the tensor, so that it is like any other.
                dim = next((a + 1 for a in reversed(axes) if type(a) is int), 0)
                tensor = tensor.unsqueeze(dim)
                entries.insert(dim, FREE)
                axes.append(dim)
                source = [a + 1 if type(a) is int and a >= dim else a for a in source]
                continue
            axis = source.pop()
            if item == slice(None) if type(item) is slice else False:
                axes.append(axis)
            elif type(axis) is not int:
                return index_row(cast(Row, self.settle()), items)
            elif type(item) is slice:
                tensor = tensor[(slice(None),) * axis + (item,)]
                axes.append(axis)
            elif isinstance(item, Row):
                entries[axis] = item
                row_at.append(len(axes))
            else:
                entries[axis] = item._id if isinstance(item, Symbol) else (item,)
        rows = self._rows
        if row_at:
            rows = broadcast(self._tape, [e._shape for e in entries if isinstance(e, Row)])
            # Row indices side by side stay where they stand, apart they move to the front.
            place = row_at[0] if len(set(row_at)) == 1 else 0
            axes[place:place] = [("row", k) for k in range(len(rows))]
        sizes = tuple(tensor.shape)
        shape = tuple(sizes[axis] if type(axis) is int else rows[axis[1]] for axis in axes)
        return self._with(tensor, tuple(entries), tuple(axes), shape, rows)

    def _with(
        self,
        tensor: Tensor,
        entries: tuple[Any, ...],
        axes: tuple[Any, ...],
        shape: tuple[int, ...],
        rows: tuple[int, ...] = (),
    ) -> Symbol:
        """A load if every dimension is indexed, else a gather still open."""
        if axes:
            return Gather(self._tape, self._kind, tensor, entries, axes, shape, rows or self._rows)
        return _load(self._tape, self._kind, tensor, entries)

    def settle(self) -> Symbol:
        """The row as a tape entry."""
        if self._settled is None:
            tape, numel = self._tape, int(numpy.prod(self._shape, dtype=int))
            if numel > MAX_UNROLL:
                with torch._C.DisableTorchFunction():
                    whole_shape = tuple(self._tensor.shape)
                tape.fail(
                    CaptureIndexError,
                    f"computes with a row of shape {self._shape} of a captured tensor of shape "
                    f"{whole_shape}.",
                    why=f"each of its {numel} elements would become code of its own "
                    f"(the limit is {MAX_UNROLL}); probably an index is missing",
                    fix="index every dimension of the captured tensor",
                )
            codes = [self._code(entry, dim) for dim, entry in enumerate(self._entries)]
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
        return entry if type(entry) is int else self._tape.number(entry[0])


def _load(tape: Tape, kind: int, tensor: Tensor, entries: tuple[Any, ...]) -> Symbol:
    codes = tuple(e if type(e) is int else tape.number(e[0]) for e in entries)
    position = len(tape)
    tape += ("load", tape.capture(tensor), codes)
    return Symbol(tape, position, kind)


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
    if tensor.layout is not torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else str(tensor.layout)[6:]
        tape.fail(
            LayoutError,
            f"reads a captured tensor that is {layout}.",
            why="the kernels read plain strided memory",
            fix="convert the tensor outside the mod, with .to_dense() or .to_padded_tensor(0.0)",
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
            number = tape.capture_ids.get(id(tensor))
            if number is None:
                number = tape.capture(tensor)
            kind = storage_kind(tape, tensor)
            position = len(tape)
            tape += ("load", number, tuple(codes))
            return Symbol(tape, position, kind)
    value = whole(tape, tensor)
    return value[index]


def whole(tape: Tape, tensor: Tensor) -> Any:
    """``tensor`` itself as a value: a scalar if it has no dimensions, else a row."""
    kind, shape = storage_kind(tape, tensor), tuple(tensor.shape)
    if not shape:
        return _load(tape, kind, tensor, ())
    return Gather(tape, kind, tensor, (FREE,) * len(shape), tuple(range(len(shape))), shape)


def _check_tape(tape: Tape, value: Symbol) -> None:
    if value._tape is not tape:
        tape.fail(
            UnsupportedOpError,
            "uses a traced value of another call.",
            why="a symbol lives only while the mod that received it runs",
            fix="do not keep symbols in globals, attributes or caches",
        )


def settle(tape: Tape, value: Any) -> Any:
    """``value`` as an operand: a recorded symbol or a Python number; None if it is neither."""
    if isinstance(value, Symbol):
        _check_tape(tape, value)
        return value.settle() if type(value) is Gather else value
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunction():  # reading .dtype would come back through the mode
            return settle(tape, whole(tape, value))
    return as_number(value)


def _expand(tape: Tape, items: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """``items`` checked, made symbols, ints, slices and None, with the ellipsis written out."""
    out = [_item(tape, item) for item in items]
    ndim = len(shape)
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
    """``row[items]`` with indices known while tracing, checked by `_expand`."""
    tape = row._tape
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
    items = index if type(index) is tuple else (index,)
    return index_row(row, _expand(row._tape, items, row._shape))


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
