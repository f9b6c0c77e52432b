"""How ranges of integers move through each operation: one row per operation.

A range is an inclusive pair ``(low, high)`` of Python ints that contains every value the node
can take; for a bool it is ``(0, 0)``, ``(1, 1)`` or ``(0, 1)``. Floats have none. A result that
may leave int64 wraps around in the kernel, so its range becomes that of the dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from flexattn.ir.nodes import BOOL, FLOATS, I32, Apply, Const, DType, Input, Load, Node, walk
from flexattn.ir.program import CaptureType

Range: TypeAlias = tuple[int, int]

MAYBE: Range = (0, 1)
YES: Range = (1, 1)
NO: Range = (0, 0)
FULL: dict[DType, Range] = {
    BOOL: MAYBE,
    "u8": (0, 255),
    "i8": (-(1 << 7), (1 << 7) - 1),
    "i16": (-(1 << 15), (1 << 15) - 1),
    I32: (-(1 << 31), (1 << 31) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
}
_LOW, _HIGH = FULL["i64"]

# What is true of every call: no index is negative, no machine holds longer ones.
ALWAYS: dict[str, Range] = {
    "b": (0, (1 << 40) - 1),
    "h": (0, (1 << 40) - 1),
    "q_idx": (0, (1 << 40) - 1),
    "kv_idx": (0, (1 << 40) - 1),
    "size": (0, (1 << 48) - 1),
}


def _hull(*values: int) -> Range:
    return min(values), max(values)


def _mul(a: Range, b: Range) -> Range:
    return _hull(a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])


def _abs(a: Range) -> Range:
    if a[0] >= 0:
        return a
    return (0 if a[1] >= 0 else -a[1]), max(-a[0], a[1])


def _trunc(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _quotient(divide: Callable[[int, int], int]) -> Callable[[Range, Range], Range | None]:
    """Both roundings are monotone in each argument while the divisor keeps its sign."""

    def rule(a: Range, b: Range) -> Range | None:
        ends = [n for n in (b[0], b[1], -1) if n and b[0] <= n <= b[1]]
        if b[0] <= 1 <= b[1] or b[0] <= 0 <= b[1]:
            ends.append(1)  # what a guard puts in the place of 0
        return _hull(*(divide(n, d) for n in a for d in ends))

    return rule


def _mod(a: Range, b: Range) -> Range | None:
    """The sign of the divisor, smaller than it; for positive ones no larger than the dividend."""
    if a[0] >= 0 and b[0] > 0:
        return a if b[0] > a[1] else (0, min(a[1], b[1] - 1))
    return min(0, b[0] + 1), max(0, b[1] - 1)


def _fmod(a: Range, b: Range) -> Range | None:
    """The sign of the dividend, smaller than the divisor and no larger than the dividend."""
    size = max(abs(b[0]), abs(b[1]))
    low, high = max(a[0], 1 - size), min(a[1], size - 1)
    return min(0, low), max(0, high)


def _pow(a: Range, n: Range) -> Range | None:
    if n[0] != n[1] or not 0 <= n[0] < 64:
        return None
    low, high = _hull(a[0] ** n[0], a[1] ** n[0])
    return (0 if a[0] <= 0 <= a[1] and n[0] % 2 == 0 and n[0] else low), high


def _mask(value: int) -> int:
    """The smallest 2^k - 1 that is not less than ``value``."""
    return (1 << value.bit_length()) - 1


def _and(a: Range, b: Range) -> Range | None:
    if a[0] >= 0 or b[0] >= 0:
        return 0, min(r[1] for r in (a, b) if r[0] >= 0)
    return None


def _or(a: Range, b: Range) -> Range | None:
    if a[0] >= 0 and b[0] >= 0:
        return max(a[0], b[0]), _mask(max(a[1], b[1]))
    return None


def _xor(a: Range, b: Range) -> Range | None:
    return (0, _mask(max(a[1], b[1]))) if a[0] >= 0 and b[0] >= 0 else None


def _shl(a: Range, n: Range) -> Range | None:
    return _mul(a, (1 << n[0], 1 << n[1])) if n[0] >= 0 and n[1] < 64 else None


def _shr(a: Range, n: Range) -> Range | None:
    return _hull(*(v >> s for v in a for s in n)) if n[0] >= 0 and n[1] < 64 else None


def _order(surely: Callable[[Range, Range], bool], never: Callable[[Range, Range], bool]):  # type: ignore[no-untyped-def]
    def rule(a: Range, b: Range) -> Range:
        return YES if surely(a, b) else NO if never(a, b) else MAYBE

    return rule


def _same(a: Range, b: Range) -> bool:
    return a[0] == a[1] == b[0] == b[1]


def _apart(a: Range, b: Range) -> bool:
    return a[1] < b[0] or b[1] < a[0]


def _where(c: Range, a: Range, b: Range) -> Range:
    if c == YES:
        return a
    return b if c == NO else (min(a[0], b[0]), max(a[1], b[1]))


def _sign(a: Range) -> Range:
    return (a[0] > 0) - (a[0] < 0), (a[1] > 0) - (a[1] < 0)


def _to_bool(a: Range) -> Range:
    return NO if a == NO else YES if a[0] > 0 or a[1] < 0 else MAYBE


def _same_value(a: Range) -> Range:
    return a


def _not(a: Range) -> Range:
    return -a[1] - 1, -a[0] - 1


_FLOAT_ONLY = (
    *("floor", "ceil", "round", "trunc", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"),
    *("sqrt", "rsqrt", "sigmoid", "tanh", "erf", "erfc", "sin", "cos", "tan", "asin", "acos"),
    *("atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "isnan", "isinf"),
    "override_grad",
)

# None: the operation is on floats, or makes one.
RULES: dict[str, Callable[..., Range | None] | None] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _mul,
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _abs,
    "sign": _sign,
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "div": None,
    "floordiv": _quotient(lambda a, b: a // b),
    "truncdiv": _quotient(_trunc),
    "mod": _mod,
    "fmod": _fmod,
    "pow": _pow,
    "eq": _order(_same, _apart),
    "ne": _order(_apart, _same),
    "lt": _order(lambda a, b: a[1] < b[0], lambda a, b: a[0] >= b[1]),
    "le": _order(lambda a, b: a[1] <= b[0], lambda a, b: a[0] > b[1]),
    "gt": _order(lambda a, b: a[0] > b[1], lambda a, b: a[1] <= b[0]),
    "ge": _order(lambda a, b: a[0] >= b[1], lambda a, b: a[1] < b[0]),
    "and": _and,
    "or": _or,
    "xor": _xor,
    "not": _not,
    "shl": _shl,
    "shr": _shr,
    "where": _where,
    "to_float": None,
    "to_int": _same_value,
    "to_bool": _to_bool,
    "to_i32": _same_value,
    "to_i64": _same_value,
    "detach": _same_value,
    **dict.fromkeys(_FLOAT_ONLY),
}

# On bools the operations that also work on integers are logic.
BOOL_RULES: dict[str, Callable[..., Range | None]] = {
    "and": lambda a, b: (a[0] & b[0], a[1] & b[1]),
    "or": lambda a, b: (a[0] | b[0], a[1] | b[1]),
    "xor": lambda a, b: MAYBE if MAYBE in (a, b) else (a[0] ^ b[0], a[0] ^ b[0]),
    "not": lambda a: (1 - a[1], 1 - a[0]),
}


def input_range(node: Input, inputs: Mapping[str, Range]) -> Range:
    """The range of an input by its name; ``size`` and ``n`` stand for all sizes and numbers."""
    known = inputs.get(node.name)
    if known is None and node.name.startswith("size"):
        known = inputs.get("size")
    if known is None and node.name[0] == "n" and node.name[1:].isdigit():
        known = inputs.get("n")
    return known or FULL[node.dtype]


def apply_range(op: str, dtype: DType, args: Sequence[Range | None]) -> Range:
    """The range of ``op`` on arguments with these ranges (None is a float)."""
    rule = BOOL_RULES[op] if dtype == BOOL and op in BOOL_RULES else RULES[op]
    if rule is None or None in args:
        return FULL[dtype]
    found = rule(*args)
    low, high = FULL[dtype]
    return found if found is not None and low <= found[0] and found[1] <= high else (low, high)


def node_range(
    node: Node,
    args: Sequence[Range | None],
    inputs: Mapping[str, Range],
    captures: Sequence[CaptureType],
) -> Range | None:
    """The range of one node, given those of its arguments."""
    if node.dtype in FLOATS:
        return None
    match node:
        case Const():
            value = int(node.value)
            return value, value
        case Input():
            return input_range(node, inputs)
        case Load():
            return FULL[captures[node.capture].dtype]
        case Apply():
            return apply_range(node.op, node.dtype, args)
    raise TypeError(node)


def ranges(
    roots: Sequence[Node | None],
    inputs: Mapping[str, Range],
    captures: Sequence[CaptureType],
) -> dict[Node, Range | None]:
    """The range of every node below ``roots``; ``inputs`` maps input names to ranges."""
    found: dict[Node, Range | None] = {}
    for node in walk(*roots):
        found[node] = node_range(node, [found[arg] for arg in node.args], inputs, captures)
    return found
