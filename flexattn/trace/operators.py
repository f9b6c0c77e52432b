"""Arithmetic, comparison and bitwise operators of symbols, with the short way for scalars.

Every operator tries the case that nearly every mod is made of first: a scalar with a scalar of
the same tape or with a plain Python number. All else goes through `binary`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy
import torch

from flexattn.errors import CrossPositionError, InPlaceError, UnsupportedOpError
from flexattn.trace.gather import emit, settle
from flexattn.trace.symbol import Row, Symbol
from flexattn.trace.tape import (
    BOOL,
    CASTS,
    FLOAT,
    FLOAT_UNARY,
    INPUTS,
    INT,
    NUMBER_KINDS,
    Tape,
    as_number,
    broadcast,
    result_kind,
)

Method = Callable[..., Any]


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a settled operand."""
    return value._shape if isinstance(value, Row) else ()


def kind_of(value: Any) -> int:
    """The kind of a settled operand."""
    return value._kind if isinstance(value, Symbol) else NUMBER_KINDS[type(value)]


def operand(tape: Tape, value: Any, function: str) -> Any:
    """``value`` settled, or an error naming ``function``."""
    settled = settle(tape, value)
    if settled is None:
        tape.fail(
            UnsupportedOpError,
            f"gives {function} a value of type {type(value).__name__}.",
            why="a mod computes with its arguments, captured tensors and real numbers",
            fix="convert the value to a number or a tensor",
        )
    return settled


def unary(tape: Tape, op: str, x: Any) -> Any:
    """Record ``op`` of one operand."""
    x = operand(tape, x, op)
    op, kind = result_kind(tape, op, (kind_of(x),))
    return emit(tape, op, kind, shape_of(x), x)


def binary(tape: Tape, op: str, a: Any, b: Any) -> Any:
    """Record ``op`` of two operands of any kind."""
    a, b = operand(tape, a, op), operand(tape, b, op)
    op, kind = result_kind(tape, op, (kind_of(a), kind_of(b)))
    if op == "pow" and kind == INT:
        _check_integer_power(tape, b)
    return emit(tape, op, kind, broadcast(tape, (shape_of(a), shape_of(b))), a, b)


def cast(tape: Tape, x: Any, kind: int) -> Symbol:
    """``x`` as a value of ``kind``; itself if it is one."""
    x = operand(tape, x, "a conversion")
    if isinstance(x, Symbol) and x._kind == kind:
        return x
    return emit(tape, CASTS[kind], kind, shape_of(x), x)


def _check_integer_power(tape: Tape, exponent: Any) -> None:
    if isinstance(exponent, Symbol) or exponent < 0:
        tape.fail(
            UnsupportedOpError,
            "raises an integer to a power that is not a constant >= 0.",
            why="the result need not be an integer",
            fix="make the base a float, as in 2.0 ** x, or shift: 1 << x",
        )


# The short way ----------------------------------------------------------------------------------


def _arithmetic(op: str) -> tuple[Method, Method]:
    def forward(self: Symbol, other: Any) -> Any:
        tape, kind = self._tape, self._kind
        cls = type(other)
        if cls is Symbol:
            if other._tape is tape and (kind or other._kind):
                if other._kind > kind:
                    kind = other._kind
                position = len(tape)
                tape += (op, self._id, other._id)
                return Symbol(tape, position, kind)
        elif cls is int:
            position = len(tape)
            tape += (op, self._id, -1)
            tape.numbers.append(other)
            return Symbol(tape, position, kind or INT)
        elif cls is float:
            position = len(tape)
            tape += (op, self._id, -2)
            tape.numbers.append(other)
            return Symbol(tape, position, FLOAT)
        return _other(op, self, other)

    def reflected(self: Symbol, other: Any) -> Any:
        cls = type(other)
        if cls is int or cls is float:
            tape = self._tape
            position = len(tape)
            tape += (op, -1 if cls is int else -2, self._id)
            tape.numbers.append(other)
            return Symbol(tape, position, FLOAT if cls is float else self._kind or INT)
        return _other(op, other, self)

    return forward, reflected


def _division() -> tuple[Method, Method]:
    def forward(self: Symbol, other: Any) -> Any:
        cls = type(other)
        if cls is Symbol and other._tape is self._tape:
            code = other._id
        elif cls is int or cls is float:
            code = -1 if cls is int else -2
            self._tape.numbers.append(other)
        else:
            return _other("div", self, other)
        tape = self._tape
        position = len(tape)
        tape += ("div", self._id, code)
        return Symbol(tape, position, FLOAT)

    return forward, _slow_reflected("div")


def _comparison(op: str) -> Method:
    def forward(self: Symbol, other: Any) -> Any:
        cls = type(other)
        if cls is Symbol:
            code = other._id
            if other._tape is not self._tape:
                return _other(op, self, other)
        elif cls is int:
            code = -1
            self._tape.numbers.append(other)
        elif cls is float:
            code = -2
            self._tape.numbers.append(other)
        else:
            return _other(op, self, other)
        tape = self._tape
        position = len(tape)
        tape += (op, self._id, code)
        return Symbol(tape, position, BOOL)

    return forward


def _logic(op: str) -> Method:
    def forward(self: Symbol, other: Any) -> Any:
        tape = self._tape
        if type(other) is Symbol and other._kind == self._kind != FLOAT and other._tape is tape:
            position = len(tape)
            tape += (op, self._id, other._id)
            return Symbol(tape, position, self._kind)
        return _other(op, self, other)

    return forward


def _other(op: str, a: Any, b: Any) -> Any:
    tape = a._tape if isinstance(a, Symbol) else b._tape
    a, b = settle(tape, a), settle(tape, b)
    return NotImplemented if a is None or b is None else binary(tape, op, a, b)


def _slow(op: str) -> Method:
    return lambda self, other: _other(op, self, other)


def _slow_reflected(op: str) -> Method:
    return lambda self, other: _other(op, other, self)


def _unary(op: str) -> Method:
    def method(self: Symbol) -> Any:
        kind = self._kind
        if type(self) is not Symbol or kind == (FLOAT if op == "not" else BOOL):
            return unary(self._tape, op, self)
        tape = self._tape
        position = len(tape)
        tape += (op, self._id)
        return Symbol(tape, position, kind)

    return method


def float_unary(op: str) -> Method:
    """A method such as ``.tanh()``, short for scalars."""

    def method(self: Symbol) -> Symbol:
        if type(self) is not Symbol:
            return unary(self._tape, op, self)
        tape = self._tape
        position = len(tape)
        tape += (op, self._id)
        return Symbol(tape, position, FLOAT)

    return method


# In place ---------------------------------------------------------------------------------------


def replace(target: Symbol, result: Symbol, said: str) -> Symbol:
    """Make the object ``target`` stand for ``result``, as torch's in-place operation would."""
    tape = target._tape
    if 0 <= target._id < len(INPUTS):
        target._fail(
            InPlaceError,
            f"changes {INPUTS[target._id]} in place with {said}.",
            why="a mod's arguments are shared with the kernel around it",
            fix=f"give the result a new name, as in x = {INPUTS[target._id]} + 1",
        )
    if type(target) is not Symbol or tape[target._id] == "detach":
        target._fail(
            InPlaceError,
            f"changes a view of a value in place with {said}.",
            why="what it is a view of would change as well",
            fix="write the operation out of place, as in x = x + 1",
        )
    if isinstance(result, Row) or result._kind > target._kind:
        target._fail(
            InPlaceError,
            f"changes {target.dtype} in place into {result.dtype} with {said}.",
            why="torch keeps dtype and shape of what it changes in place",
            fix="write the operation out of place, as in x = x + 1",
        )
    target._id = cast(tape, result, target._kind)._id
    return target


def _in_place(said: str, method: Method) -> Method:
    def inplace(self: Symbol, other: Any) -> Any:
        result = method(self, other)
        return result if result is NotImplemented else replace(self, result, said)

    return inplace


def matmul(tape: Tape, input: Any, other: Any) -> Any:
    """The dot product of two rows; other products are refused."""
    a, b = operand(tape, input, "matmul"), operand(tape, other, "matmul")
    if len(shape_of(a)) == 1 and len(shape_of(b)) == 1:
        product: Any = binary(tape, "mul", a, b)
        return product.sum()
    tape.fail(
        CrossPositionError,
        "multiplies matrices.",
        why="a mod sees one (query, key) pair at a time; only two rows have a product there",
        fix="multiply outside the mod, or take torch.dot of two gathered rows",
    )


_ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "floordiv": "floordiv", "mod": "mod"}
_LOGIC = {"and": "and", "or": "or", "xor": "xor"}
_REST = {"truediv": "div", "pow": "pow", "lshift": "shl", "rshift": "shr"}
OPERATORS = {**_ARITHMETIC, **_LOGIC, **_REST}  # Python's names to ours
_SIGNS = {
    "add": "+=",
    "sub": "-=",
    "mul": "*=",
    "floordiv": "//=",
    "mod": "%=",
    "truediv": "/=",
    "and": "&=",
    "or": "|=",
    "xor": "^=",
    "pow": "**=",
    "lshift": "<<=",
    "rshift": ">>=",
}
_UFUNCS: dict[Any, Method] = {
    numpy.add: operator.add, numpy.subtract: operator.sub, numpy.multiply: operator.mul,
    numpy.true_divide: operator.truediv, numpy.floor_divide: operator.floordiv,
    numpy.remainder: operator.mod, numpy.power: operator.pow, numpy.equal: operator.eq,
    numpy.not_equal: operator.ne, numpy.less: operator.lt, numpy.less_equal: operator.le,
    numpy.greater: operator.gt, numpy.greater_equal: operator.ge,
    numpy.bitwise_and: operator.and_, numpy.bitwise_or: operator.or_,
    numpy.bitwise_xor: operator.xor, numpy.left_shift: operator.lshift,
    numpy.right_shift: operator.rshift,
}  # fmt: skip


def _array_ufunc(self: Symbol, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """A numpy scalar on the left of an operator; any other numpy function is refused."""
    if method != "__call__" or kwargs or ufunc not in _UFUNCS:
        self._no_value(f"numpy.{ufunc.__name__}", f"use torch.{ufunc.__name__}")
    converted = [
        value if isinstance(value, Symbol) or as_number(value) is None else as_number(value)
        for value in inputs
    ]
    arrays = [torch.as_tensor(v) if isinstance(v, numpy.ndarray) else v for v in converted]
    return _UFUNCS[ufunc](*arrays)


def _attach() -> None:
    for name, op in OPERATORS.items():
        if name in _ARITHMETIC:
            forward, reflected = _arithmetic(op)
        elif name in _LOGIC:
            forward, reflected = _logic(op), _slow_reflected(op)
        elif op == "div":
            forward, reflected = _division()
        else:
            forward, reflected = _slow(op), _slow_reflected(op)
        for cls, there, back in (
            (Symbol, forward, reflected),
            (Row, _slow(op), _slow_reflected(op)),
        ):
            setattr(cls, f"__{name}__", there)
            setattr(cls, f"__r{name}__", back)
            setattr(cls, f"__i{name}__", _in_place(_SIGNS[name], there))
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Symbol, f"__{op}__", _comparison(op))
        setattr(Row, f"__{op}__", _slow(op))
    for name, op in (("__neg__", "neg"), ("__abs__", "abs"), ("abs", "abs"), ("__invert__", "not")):
        setattr(Symbol, name, _unary(op))
    rest: dict[str, Method] = {
        "__pos__": lambda self: self,
        "__matmul__": lambda self, other: matmul(self._tape, self, other),
        "__rmatmul__": lambda self, other: matmul(self._tape, other, self),
        "__array_ufunc__": _array_ufunc,
    }
    for name, method in rest.items():
        setattr(Symbol, name, method)
    for op in FLOAT_UNARY:
        setattr(Symbol, op, float_unary(op))


_attach()
