"""Use the ranges of integers: settle comparisons that have one outcome, make divisions cheap.

Rounding down costs a correction after the processor's division, which rounds to zero; for a
dividend >= 0 and a divisor > 0 both are the same, and for a power of two they are a shift and a
mask whatever the sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexattn.ir.nodes import INTS, Apply, Const, Node, rebuild, walk
from flexattn.ir.program import CaptureType
from flexattn.ir.ranges import Range, ranges

_CHEAP = {"floordiv": "truncdiv", "mod": "fmod"}


def sharpen(root: Node, inputs: Mapping[str, Range], captures: Sequence[CaptureType]) -> Node:
    """``root`` with what the ranges of ``inputs`` decide settled."""
    known = ranges([root], inputs, captures)
    done: dict[Node, Node] = {}
    for node in walk(root):
        args = tuple(done[arg] for arg in node.args)
        done[node] = _settled(node, args, known) or rebuild(node, args)
    return done[root]


def _settled(node: Node, args: tuple[Node, ...], known: dict[Node, Range | None]) -> Node | None:
    found = known[node]
    if not isinstance(node, Apply) or found is None:
        return None
    if found[0] == found[1]:
        return Const(found[0], node.dtype)
    operands = [known[arg] for arg in node.args]
    if node.op in ("minimum", "maximum"):
        return _winner(node, args, operands)
    if node.op == "abs" and operands[0] is not None and operands[0][0] >= 0:
        return args[0]
    if node.op in _CHEAP and node.dtype in INTS:
        return _cheaper(node, args, operands)
    return None


def _winner(node: Apply, args: tuple[Node, ...], operands: list[Range | None]) -> Node | None:
    a, b = operands
    if a is None or b is None:
        return None
    if a[1] <= b[0]:
        return args[0 if node.op == "minimum" else 1]
    if b[1] <= a[0]:
        return args[1 if node.op == "minimum" else 0]
    return None


def _cheaper(node: Apply, args: tuple[Node, ...], operands: list[Range | None]) -> Node | None:
    a, b = operands
    divisor = args[1]
    if isinstance(divisor, Const) and divisor.value > 0:
        value = int(divisor.value)
        if value & (value - 1) == 0:
            op, by = (
                ("shr", value.bit_length() - 1) if node.op == "floordiv" else ("and", value - 1)
            )
            return Apply(op, (args[0], Const(by, divisor.dtype)), node.dtype)
    if a is not None and b is not None and a[0] >= 0 and b[0] > 0:
        return Apply(_CHEAP[node.op], args, node.dtype)
    return None
