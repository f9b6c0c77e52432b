"""How large integers can get: algebra is only right where nothing wraps around."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flexattn.ir.nodes import BOOL, FLOATS, INTS, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType

INDEX_BITS = 30
"""Of positions, numbers and entries of 64-bit tables; a call with larger ones has no form."""

MOST = 63
_SIZE_BITS = 40
_STORED = {"bool": 1, "u8": 8, "i8": 7, "i16": 15, "i32": 31, "i64": INDEX_BITS}

RULES: dict[str, Callable[..., int]] = {
    "add": lambda a, b: max(a, b) + 1,
    "sub": lambda a, b: max(a, b) + 1,
    "mul": lambda a, b: a + b,
    "neg": lambda a: a,
    "abs": lambda a: a,
    "sign": lambda a: 1,
    "minimum": max,
    "maximum": max,
    "floordiv": lambda a, b: a,
    "truncdiv": lambda a, b: a,
    "mod": lambda a, b: b,
    "fmod": lambda a, b: b,
    "and": max,
    "or": max,
    "xor": max,
    "not": lambda a: a + 1,
    "shr": lambda a, n: a,
    "where": lambda c, a, b: max(a, b),
    "to_int": lambda a: a,
    "to_i64": lambda a: a,
    "detach": lambda a: a,
}


def fits(root: Node, captures: Sequence[CaptureType]) -> bool:
    """Whether no integer below ``root`` can leave 64 bits, with inputs of `INDEX_BITS`.

    Captures beyond ``captures`` are derived tables of positions.
    """
    bits: dict[Node, int] = {}
    for node in walk(root):
        found = _bits(node, bits, captures)
        if found > MOST:
            return False
        bits[node] = found
    return True


def _bits(node: Node, bits: dict[Node, int], captures: Sequence[CaptureType]) -> int:
    if node.dtype in FLOATS:
        return 0
    match node:
        case Const(value):
            return int(value).bit_length()
        case Input(name):
            return _SIZE_BITS if name.startswith("size") else INDEX_BITS
        case Load(capture):
            return _STORED[captures[capture].dtype] if capture < len(captures) else INDEX_BITS
        case Apply("shl", (a, Const(count))) if 0 <= count <= MOST:
            return bits[a] + int(count)
        case Apply(op, args):
            if node.dtype == BOOL:
                return 1
            if op == "to_int" and args[0].dtype not in INTS and args[0].dtype != BOOL:
                return MOST + 1  # of a float
            rule = RULES.get(op)
            return MOST + 1 if rule is None else rule(*(bits[arg] for arg in args))
    return MOST + 1
