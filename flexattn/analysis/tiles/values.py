"""Exact values of a graph on numpy index arrays, one row per operation.

Only what every backend computes to the same bits has a row: integers, bools, and the float
operations that IEEE 754 fixes. Accesses are safe, as in `passes.guard`: an index outside its
capture reads element 0, a divisor of 0 is 1, an illegal shift count is 0.

Integers mean 64 bits. They are kept in 32 where ranges show that nothing is lost: half the memory,
and twice the speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from flexattn.ir.nodes import BOOL, F32, F64, I32, I64, INTS, Apply, Const, DType, Input, Load, Node
from flexattn.ir.ranges import FULL, Range, apply_range

Array = np.ndarray

NUMPY_DTYPES: dict[DType, type] = {
    BOOL: np.bool_,
    I32: np.int32,
    I64: np.int64,
    F32: np.float32,
    F64: np.float64,
}

MOST = 1 << 26
"""Elements of one array; a larger one is not made."""


Span: TypeAlias = "tuple[int, int]"


class UnknownNode(Exception):
    """Nothing is known of a node: it has no rule here, or its values are too many."""


def _divisor(b: Array) -> Array:
    return np.where(b == 0, 1, b) if np.any(b == 0) else b


def _floordiv(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        raise UnknownNode("a float quotient is rounded differently by backends")
    if b.size == 1 and int(b.flat[0]) > 0 and int(b.flat[0]) & (int(b.flat[0]) - 1) == 0:
        return a >> (int(b.flat[0]).bit_length() - 1)
    return np.floor_divide(a, _divisor(b))


def _mod(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        raise UnknownNode("a float remainder is rounded differently by backends")
    if b.size == 1 and int(b.flat[0]) > 0 and int(b.flat[0]) & (int(b.flat[0]) - 1) == 0:
        return a & (int(b.flat[0]) - 1)
    if b.size == 1 and int(b.flat[0]) > 0:
        return a - np.floor_divide(a, b) * b  # a quotient by one number is vectorised
    return np.remainder(a, _divisor(b))


def _fmod(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        raise UnknownNode("a float remainder is rounded differently by backends")
    return np.fmod(a, _divisor(b))


def _truncdiv(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        raise UnknownNode("a float quotient is rounded differently by backends")
    b = _divisor(b)
    floor = np.floor_divide(a, b)
    return floor + ((floor < 0) & (floor * b != a))


def _pow(a: Array, n: Array) -> Array:
    if a.dtype.kind == "f" or np.any(n < 0):
        raise UnknownNode("a float power, or a negative exponent")
    return np.power(a, n)


def _shift(shift: Callable[..., Array]) -> Callable[..., Array]:
    def rule(a: Array, n: Array) -> Array:
        return shift(a, np.where((n < 0) | (n >= 64), 0, n))

    return rule


def _sign(a: Array) -> Array:
    if a.dtype.kind == "f":
        raise UnknownNode("the sign of a NaN")
    return np.sign(a)


def _first(value: Array, *_: Array) -> Array:
    return value


RULES: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "abs": np.abs,
    "sign": _sign,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "div": np.true_divide,
    "floordiv": _floordiv,
    "truncdiv": _truncdiv,
    "mod": _mod,
    "fmod": _fmod,
    "pow": _pow,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "where": np.where,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "override_grad": _first,
}

CASTS = frozenset({"to_float", "to_bool", "to_i32"})
_KEEPS = frozenset({"to_i64", "detach"})
_NEVER_WIDER = frozenset(
    {*("eq", "ne", "lt", "le", "gt", "ge", "minimum", "maximum", "where"), *("and", "or", "xor")}
)
"""Operations whose result is no larger than their arguments: they need no room."""

_INT32 = FULL[I32]
_TABLES: dict[str, Range] = {"bool": FULL[BOOL], "uint8": FULL["u8"], "int8": FULL["i8"]} | {
    "int16": FULL["i16"],
    "int32": FULL[I32],
}


class Ranges:
    """Ranges of integer nodes, for inputs in given ranges.

    Args:
        inputs: Ranges by name; an input that has none may be anything.
        captures: The captured tensors.
    """

    def __init__(self, inputs: Mapping[str, Range], captures: Sequence[Array]) -> None:
        self.inputs, self.captures = inputs, captures
        self._known: dict[Node, Range | None] = {}

    def __call__(self, node: Node) -> Range | None:
        """The range; None for a float."""
        if node not in self._known:
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: Node) -> Range | None:
        if node.dtype in (F32, F64):
            return None
        match node:
            case Const(value):
                return int(value), int(value)
            case Input(name):
                return self.inputs.get(name, FULL[node.dtype])
            case Load(capture):
                return _TABLES.get(self.captures[capture].dtype.name, FULL[I64])
            case Apply(op, args):
                return apply_range(op, node.dtype, [self(arg) for arg in args])
        raise TypeError(node)

    def is_narrow(self, node: Node) -> bool:
        """Whether 32 bits hold every value."""
        found = self(node)
        return found is not None and found[0] >= _INT32[0] and found[1] <= _INT32[1]

    def may_wrap(self, node: Node) -> bool:
        """Whether 64 bits may not hold the result."""
        return self(node) == FULL[I64]


class Values:
    """Values of nodes for index arrays that broadcast against one another.

    Args:
        inputs: Values of ``b``, ``h``, ``q_idx``, ``kv_idx`` and the lifted numbers.
        captures: The captured tensors as arrays, of the dtypes that loads give.
        ranges: Of the same inputs.
        steps: For inputs that count up by one along an axis of their own, that axis of ``ndim``.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        captures: Sequence[Array],
        ranges: Ranges,
        steps: Mapping[str, int] | None = None,
        ndim: int = 0,
    ) -> None:
        self.inputs, self.captures, self.ranges = inputs, captures, ranges
        self.steps, self.ndim = steps or {}, ndim
        self._known: dict[Node, Array] = {}

    def __call__(self, node: Node) -> Array:
        """The value of ``node``; UnknownNode where it has none."""
        found = self._known.get(node)
        if found is None:
            with np.errstate(all="ignore"):
                found = self._find(node)
        return found

    def _find(self, node: Node) -> Array:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self._value(node)
        return found

    def _value(self, node: Node) -> Array:
        match node:
            case Const(value, dtype):
                return np.asarray(value, self._dtype(node))
            case Input(name, dtype):
                return self._input(name, node)
            case Load(capture, indices, dtype):
                table = self.captures[capture]
                found = self._view(table, indices) if self.steps else None
                if found is None:
                    found = self._load(table, [self._find(i) for i in indices])
                if dtype in INTS:
                    return found.astype(np.int32) if found.dtype.itemsize < 4 else found
                return found.astype(NUMPY_DTYPES[dtype], copy=False)
            case Apply(_, args):
                return self._apply(node, [self._find(arg) for arg in args])
        raise TypeError(node)

    def _dtype(self, node: Node) -> type:
        if node.dtype in INTS:
            return np.int32 if self.ranges.is_narrow(node) else np.int64
        return NUMPY_DTYPES[node.dtype]

    def _input(self, name: str, node: Node) -> Array:
        if name.startswith("size"):
            capture, dim = name.removeprefix("size").split("_")
            return np.asarray(self.captures[int(capture)].shape[int(dim)], np.int64)
        if name not in self.inputs:
            raise UnknownNode(name)
        value = self.inputs[name]
        return value if isinstance(value, Array) else np.asarray(value, self._dtype(node))

    def _apply(self, node: Apply, args: list[Array]) -> Array:
        op = node.op
        if len(args) > 1:
            _check_size(args)
        if op in CASTS:
            return args[0].astype(NUMPY_DTYPES[node.dtype], copy=False)
        if op in _KEEPS or (op == "to_int" and args[0].dtype.kind == "i"):
            return args[0]
        if op == "to_int" and args[0].dtype.kind == "b":
            return args[0].astype(np.int32)
        rule = RULES.get(op)
        if rule is None:
            raise UnknownNode(op)
        if node.dtype in INTS and op not in _NEVER_WIDER and not self.ranges.is_narrow(node):
            args = [a.astype(np.int64, copy=False) if a.dtype.kind == "i" else a for a in args]
        return np.asarray(rule(*args))

    def _view(self, table: Array, indices: Sequence[Node]) -> Array | None:
        """The elements, without copying them where each index counts up or is one number."""
        at: list[int | slice] = []
        places: list[int] = []
        for index, size in zip(indices, table.shape):
            value = self._find(index)
            if value.size == 1:
                at.append(int(value.flat[0]))
                if not 0 <= int(value.flat[0]) < size:
                    return None
            elif isinstance(index, Input) and index.name in self.steps:
                ends = int(value.flat[0]), int(value.flat[-1])
                if ends[0] < 0 or ends[1] >= size:
                    return None
                at.append(slice(ends[0], ends[1] + 1))
                places.append(self.steps[index.name])
            else:
                return None
        if len(set(places)) < len(places):
            return None
        found = np.asarray(table[tuple(at)]).transpose(np.argsort(places))
        sizes = dict(zip(sorted(places), found.shape))
        return found.reshape([sizes.get(axis, 1) for axis in range(self.ndim)])

    def _load(self, table: Array, indices: list[Array]) -> Array:
        if not indices:
            return table
        _check_size(indices)
        if table.size == 0:
            return np.zeros(np.broadcast_shapes(*(i.shape for i in indices)), table.dtype)
        safe = [_safe_index(i, size) for i, size in zip(indices, table.shape)]
        if len(safe) == 1:
            return table.take(safe[0])
        return table[tuple(safe)]


def _safe_index(index: Array, size: int) -> Array:
    low, high = int(index.min(initial=0)), int(index.max(initial=0))
    if low >= 0 and high < size:
        return index
    wrapped = np.where(index < 0, index + size, index)
    return np.where((wrapped < 0) | (wrapped >= size), 0, wrapped)


def _check_size(arrays: Sequence[Array]) -> None:
    if math.prod(a.size for a in arrays) <= MOST:
        return  # however they broadcast
    size = 1
    for length in np.broadcast_shapes(*(a.shape for a in arrays)):
        size *= length
    if size > MOST:
        raise UnknownNode("too many values")
