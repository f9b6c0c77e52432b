"""Turns a tape into the graph of its result: converts operands to one dtype, spreads rows out.

The dtype rules are torch's for values without dimensions, with one float dtype and one integer
dtype: bool turns to integer under arithmetic, integers to floats where they meet floats, and
true division gives floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy
import torch

from flexattn.errors import UnsupportedOpError
from flexattn.ir.nodes import BOOL, F64, I64, Apply, Const, Input, Load, Node, rewrite, walk
from flexattn.trace import tape as rules
from flexattn.trace.tape import INPUTS

Value = Any  # a Node, or an object array of Nodes for a row


@dataclass
class Builder:
    """One reading of a tape.

    Attributes:
        code: The tape.
        numbers: Python numbers by position.
        kinds: dtype kind of each capture's elements.
        fail: Raises an error that names the mod, as `Tape.fail`.
        compute: Float dtype of the graph.
        lifted: Run-time inputs that stand for numbers, by position.
        baked: Positions of numbers met so far that have to stay constants.
        lines: The user's line of each tape entry, if known.
        locations: The user's line of each node made so far.
    """

    code: Sequence[Any]
    numbers: Sequence[Any]
    kinds: Sequence[int]
    fail: Callable[..., NoReturn]
    compute: str
    lifted: Mapping[int, Input] = field(default_factory=dict)
    lines: Mapping[int, str] | None = None
    baked: set[int] = field(default_factory=set)
    locations: dict[Node, str] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    _next_number: int = 0

    def run(self, root: int) -> Node:
        """The node of the entry at position ``root``."""
        dtypes = (self.compute, I64, I64, I64, I64)
        for position, (name, dtype) in enumerate(zip(INPUTS, dtypes)):
            self.values[position] = Input(name, dtype)
        position, end = len(INPUTS), len(self.code)
        while position < end:
            op = self.code[position]
            stop = position + 1
            while stop < end and type(self.code[stop]) is not str:
                stop += 1
            operands = self.code[position + 1 : stop]
            value = self._entry(op, operands)
            self.values[position] = value
            if self.lines:
                self._locate(value, self.lines.get(position, ""))
            position = stop
        return self.values[root]

    def _locate(self, value: Value, line: str) -> None:
        for root in value.ravel() if isinstance(value, numpy.ndarray) else (value,):
            for node in walk(root):
                if node not in self.locations and not isinstance(node, (Input, Const)):
                    self.locations[node] = line

    # Operands

    def operand(self, code: int) -> Value:
        """The value an operand stands for; numbers are taken in order."""
        if code >= 0:
            return self.values[code]
        position = self._next_number
        self._next_number += 1
        if position in self.lifted:
            return self.lifted[position]
        return self.constant(self.numbers[position])

    def fixed(self, code: int) -> Value:
        """As ``operand``, but a number stays a constant."""
        if code >= 0:
            return self.values[code]
        position = self._next_number
        self._next_number += 1
        self.baked.add(position)
        return self.constant(self.numbers[position])

    def constant(self, number: Any) -> Const:
        """A Python number as a node, rounded to the compute dtype."""
        if isinstance(number, bool):
            return Const(number, BOOL)
        if isinstance(number, (float, torch.SymFloat)):
            return Const(self.round(float(number)), self.compute)
        number = int(number)
        if not -(2**63) <= number < 2**63:
            self.fail(
                UnsupportedOpError,
                f"uses the integer {number}.",
                why="integers have 64 bits",
                fix="use a float, or a smaller integer",
            )
        return Const(number, I64)

    def round(self, number: float) -> float:
        """``number`` as the compute dtype holds it; any NaN becomes the same NaN."""
        if math.isnan(number):
            return math.nan
        if self.compute == F64:
            return number
        with numpy.errstate(over="ignore"):
            return float(numpy.float32(number))

    # Entries

    def _entry(self, op: str, codes: Sequence[Any]) -> Value:
        special = _SPECIAL.get(op)
        if special is not None:
            return special(self, *codes)
        if op == "pow" or op in rules.SHIFTS:
            args = [self.operand(codes[0]), self.fixed(codes[1])]
        else:
            args = [self.operand(code) for code in codes]
        return self.each(lambda *nodes: self.apply(op, nodes), *args)

    def each(self, function: Callable[..., Node], *args: Value) -> Value:
        """``function`` on scalars, or on every element of rows that broadcast together."""
        if not any(isinstance(arg, numpy.ndarray) for arg in args):
            return function(*args)
        boxed = [arg if isinstance(arg, numpy.ndarray) else _box(arg) for arg in args]
        arrays = numpy.broadcast_arrays(*boxed)
        out = numpy.empty(arrays[0].shape, dtype=object)
        for index in numpy.ndindex(out.shape):
            out[index] = function(*(array[index] for array in arrays))
        return out

    def convert(self, node: Node, dtype: str) -> Node:
        """``node`` as ``dtype``."""
        if node.dtype == dtype:
            return node
        if isinstance(node, Const):
            if dtype == BOOL:
                return Const(node.value != 0, BOOL)
            if dtype != I64:
                return Const(self.round(float(node.value)), dtype)
            if math.isfinite(node.value):
                return Const(int(node.value), I64)
        op = "to_bool" if dtype == BOOL else "to_int" if dtype == I64 else "to_float"
        return Apply(op, (node,), dtype)

    def promoted(self, nodes: Sequence[Node], least: str) -> list[Node]:
        """``nodes`` converted to the widest of their dtypes, at least to ``least``."""
        order = (BOOL, I64, self.compute)
        top = max((order.index(n.dtype) for n in nodes), default=0)
        return [self.convert(node, order[max(top, order.index(least))]) for node in nodes]

    def apply(self, op: str, nodes: Sequence[Node]) -> Node:
        """``op`` on scalars, operands converted as torch would."""
        if op in rules.COMPARISONS:
            least = BOOL if op in ("eq", "ne") else I64
            return Apply(op, self.promoted(nodes, least), BOOL)
        if op in rules.FLOAT_UNARY or op in rules.FLOAT_BINARY:
            return Apply(op, self.promoted(nodes, self.compute), self.compute)
        if op in rules.CASTS:
            return self.convert(nodes[0], (BOOL, I64, self.compute)[rules.CASTS.index(op)])
        if op == "where":
            condition, *choices = nodes
            choices = self.promoted(choices, BOOL)
            return Apply(op, (condition, *choices), choices[0].dtype)
        if op in rules.TESTS:
            if nodes[0].dtype != self.compute:
                return Const(False, BOOL)
            return Apply(op, nodes, BOOL)
        if op in rules.ROUNDING and nodes[0].dtype != self.compute:
            return self.convert(nodes[0], I64)
        logic = op in rules.BITWISE or op in ("not", "detach")
        args = self.promoted(nodes, BOOL if logic else I64)
        return Apply(op, args, args[0].dtype)


def _box(node: Node) -> numpy.ndarray:
    box = numpy.empty((), dtype=object)
    box[()] = node
    return box


# Entries that are not one operation on their operands -----------------------------------------


def _load(builder: Builder, capture: int, codes: Sequence[int]) -> Node:
    indices = [builder.fixed(code) for code in codes]
    return Load(capture, indices, _element_dtype(builder, capture))


def _element_dtype(builder: Builder, capture: int) -> str:
    return (BOOL, I64, builder.compute)[builder.kinds[capture]]


def _gather(
    builder: Builder,
    capture: int,
    codes: Sequence[Any],
    shape: tuple[int, ...],
    rows: tuple[int, ...],
) -> Value:
    entries: list[Callable[[tuple[int, ...]], Node]] = []
    for code in codes:
        match code:
            case ("axis", axis):
                entries.append(lambda at, axis=axis: Const(at[axis], I64))  # type: ignore[misc]
            case ("row", position, axis):
                row = numpy.broadcast_to(builder.values[position], rows)
                entries.append(lambda at, row=row, axis=axis: row[at[axis : axis + row.ndim]])  # type: ignore[misc]
            case _:
                node = builder.fixed(code)
                entries.append(lambda at, node=node: node)  # type: ignore[misc]
    out = numpy.empty(shape, dtype=object)
    dtype = _element_dtype(builder, capture)
    for at in numpy.ndindex(shape):
        out[at] = Load(capture, [entry(at) for entry in entries], dtype)
    return out


def _pick(builder: Builder, position: int, literal: tuple[Any, ...]) -> Value:
    index = tuple(slice(*i[1:]) if isinstance(i, tuple) else i for i in literal)
    return builder.values[position][index]


def _const(builder: Builder, code: int, shape: tuple[int, ...]) -> Value:
    node = builder.operand(code)
    return node if not shape else numpy.broadcast_to(_box(node), shape)


def _reshape(builder: Builder, position: int, shape: tuple[int, ...], *fill: Any) -> Value:
    value = builder.values[position]
    array = value if isinstance(value, numpy.ndarray) else _box(value)
    array = numpy.broadcast_to(array, shape) if fill else array.reshape(shape)
    return array if shape else array[()]


def _stack(builder: Builder, *positions: int) -> Value:
    out = numpy.empty(len(positions), dtype=object)
    for at, position in enumerate(positions):
        out[at] = builder.values[position]
    return out


def _reduction(op: str, empty: bool | int | None) -> Callable[..., Value]:
    """A reduction by a balanced tree of ``op``; ``empty`` is what no elements give."""

    def reduce(builder: Builder, position: int, axes: tuple[int, ...], keep: tuple[bool]) -> Value:
        array = builder.values[position]
        rest = [axis for axis in range(array.ndim) if axis not in axes]
        shape = [array.shape[axis] for axis in rest]
        flat = array.transpose(*rest, *axes).reshape(*shape, -1)
        out = numpy.empty(shape, dtype=object)
        for at in numpy.ndindex(*shape):
            nodes = list(flat[at])
            while len(nodes) > 1:
                pairs = [builder.apply(op, nodes[i : i + 2]) for i in range(0, len(nodes) - 1, 2)]
                nodes = pairs + nodes[len(pairs) * 2 :]
            out[at] = nodes[0] if nodes else builder.constant(empty)
        if keep[0]:
            out = numpy.expand_dims(out, axes)
        return out if out.ndim else out[()]

    return reduce


def _unit_grad(builder: Builder) -> Node:
    # Kept apart from the number 1 until the backward it runs through is known to be linear.
    return Input("unit", builder.compute)


def _override_grad(builder: Builder, name: tuple[str], *codes: int) -> Node:
    value, *pairs = [builder.convert(builder.operand(code), builder.compute) for code in codes]
    unit = Input("unit", builder.compute)
    for at in range(1, len(pairs), 2):
        pairs[at] = _at_one(builder, pairs[at], unit, name[0])
    return Apply("override_grad", [value, *pairs], builder.compute)


_ZERO, _FREE, _LINEAR = "zero", "free", "linear"  # how a value depends on the unit


def _at_one(builder: Builder, partial: Node, unit: Node, name: str) -> Node:
    """The value of ``partial`` for an arriving gradient of one, if it is linear in it."""
    depends: dict[Node, str | None] = {}
    for node in walk(partial):
        depends[node] = _dependence(node, unit, [depends[arg] for arg in node.args])
    if depends[partial] not in (_LINEAR, _ZERO):
        builder.fail(
            UnsupportedOpError,
            f"applies {name}, whose backward is not linear in the gradient it receives.",
            why="its result is a factor that is multiplied with the gradient inside the kernel",
            fix="return grad times a factor computed from the saved values",
        )
    return rewrite(partial, lambda node: Const(1.0, builder.compute) if node is unit else node)


def _dependence(node: Node, unit: Node, args: list[str | None]) -> str | None:
    """How ``node`` depends on ``unit``; None is not linearly."""
    if node is unit:
        return _LINEAR
    if isinstance(node, Const):
        return _ZERO if node.value == 0 else _FREE
    if None in args:
        return None
    match node:
        case Apply("neg" | "detach"):
            return args[0]
        case Apply("div" | "override_grad") if _LINEAR not in args[1:]:
            return args[0]
        case Apply("mul") if args != [_LINEAR, _LINEAR]:
            return _ZERO if _ZERO in args else _LINEAR if _LINEAR in args else _FREE
        case Apply("add" | "sub"):
            terms = args
        case Apply("where") if args[0] != _LINEAR:
            terms = args[1:]
        case _:
            return None if _LINEAR in args else _FREE
    if _FREE in terms and _LINEAR in terms:
        return None
    return _LINEAR if _LINEAR in terms else _FREE if _FREE in terms else _ZERO


_SPECIAL: dict[str, Callable[..., Value]] = {
    "load": _load,
    "gather": _gather,
    "pick": _pick,
    "const": _const,
    "clone": lambda builder, position: builder.values[position],
    "reshape": _reshape,
    "stack": _stack,
    "sum": _reduction("add", 0),
    "prod": _reduction("mul", 1),
    "any": _reduction("or", False),
    "all": _reduction("and", True),
    "amax": _reduction("maximum", None),
    "amin": _reduction("minimum", None),
    "unit_grad": _unit_grad,
    "override_grad": _override_grad,
}
