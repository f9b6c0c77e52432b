"""Exact values of a graph on numpy index arrays, one row per operation.

Only what every backend computes to the same bits has a row: integers, bools, and the float
operations that IEEE 754 fixes. Accesses are safe, as in `passes.guard`: an index outside its
capture reads element 0, a divisor of 0 is 1, an illegal shift count is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flexattn.ir.nodes import BOOL, F32, F64, I32, I64, Apply, Const, DType, Input, Load, Node

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
    "detach": _first,
    "override_grad": _first,
}

CASTS = frozenset({"to_float", "to_bool", "to_i32", "to_i64"})


class Values:
    """Values of nodes for index arrays that broadcast against one another.

    Args:
        inputs: Values of ``b``, ``h``, ``q_idx``, ``kv_idx`` and the lifted numbers.
        captures: The captured tensors as arrays, of the dtypes that loads give.
    """

    def __init__(self, inputs: Mapping[str, Any], captures: Sequence[Array]) -> None:
        self.inputs, self.captures = inputs, captures
        self._known: dict[Node, Array] = {}

    def __call__(self, node: Node) -> Array:
        """The value of ``node``; UnknownNode where it has none."""
        found = self._known.get(node)
        if found is None:
            with np.errstate(all="ignore"):
                found = self._known[node] = self._value(node)
        return found

    def _value(self, node: Node) -> Array:
        match node:
            case Const(value, dtype):
                return np.asarray(value, NUMPY_DTYPES[dtype])
            case Input(name, dtype):
                return np.asarray(self._input(name), NUMPY_DTYPES[dtype])
            case Load(capture, indices, dtype):
                loaded = self._load(self.captures[capture], [self(i) for i in indices])
                return loaded.astype(NUMPY_DTYPES[dtype], copy=False)
            case Apply(op, args, dtype):
                return self._apply(op, [self(arg) for arg in args], dtype)
        raise TypeError(node)

    def _input(self, name: str) -> Any:
        if name.startswith("size"):
            capture, dim = name.removeprefix("size").split("_")
            return self.captures[int(capture)].shape[int(dim)]
        if name not in self.inputs:
            raise UnknownNode(name)
        return self.inputs[name]

    def _apply(self, op: str, args: list[Array], dtype: DType) -> Array:
        _check_size(args)
        if op in CASTS:
            return args[0].astype(NUMPY_DTYPES[dtype], copy=False)
        if op == "to_int" and args[0].dtype.kind != "f":
            return args[0].astype(np.int64, copy=False)
        rule = RULES.get(op)
        if rule is None:
            raise UnknownNode(op)
        return np.asarray(rule(*args))

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
    if len(arrays) > 1:
        size = 1
        for length in np.broadcast_shapes(*(a.shape for a in arrays)):
            size *= length
        if size > MOST:
            raise UnknownNode("too many values")
