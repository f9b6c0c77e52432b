"""Turn 64-bit index arithmetic into 32-bit where no value can leave 32 bits.

A vector holds twice as many 32-bit integers, and there are instructions for them. The ranges
rest on `NARROW`, which a call checks before it picks a kernel narrowed like this; for larger
ones there is the wide kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexattn.ir.nodes import BOOL, I32, I64, INTS, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType
from flexattn.ir.ranges import FULL, Range, ranges

MAX_BATCH_OR_HEADS = 1 << 16
MAX_LENGTH = 1 << 24
MAX_NUMBER = 1 << 24
MAX_SIZE = 1 << 30  # leaves room for an index that is wrapped by adding it

# What a call must satisfy to use a narrow kernel.
NARROW: dict[str, Range] = {
    "b": (0, MAX_BATCH_OR_HEADS - 1),
    "h": (0, MAX_BATCH_OR_HEADS - 1),
    "q_idx": (0, MAX_LENGTH - 1),
    "kv_idx": (0, MAX_LENGTH - 1),
    "n": (-MAX_NUMBER, MAX_NUMBER),
    "size": (0, MAX_SIZE),
}

_SHORT = frozenset({"bool", "u8", "i8", "i16", "i32"})
_SHIFTS = frozenset({"shl", "shr"})


def fits_narrow(
    lengths: tuple[int, int, int, int],
    sizes: Sequence[Sequence[int]],
    ints: Sequence[int],
) -> bool:
    """Whether a call with lengths (B, Hq, M, N), capture sizes and lifted ints may run narrow."""
    batch, heads, rows, columns = lengths
    return (
        max(batch, heads) <= MAX_BATCH_OR_HEADS
        and max(rows, columns) <= MAX_LENGTH
        and all(abs(n) <= MAX_NUMBER for n in ints)
        and all(size <= MAX_SIZE for shape in sizes for size in shape)
    )


def narrow(
    roots: Sequence[Node], captures: Sequence[CaptureType], inputs: Mapping[str, Range] = NARROW
) -> tuple[Node, ...]:
    """``roots`` (bool or float) and i64 index roots with 32-bit arithmetic inside.

    An i64 root comes back as i32 where it fits.
    """
    known = ranges(roots, inputs, captures)
    low, high = FULL[I32]
    fits: dict[Node, bool] = {}
    native: dict[Node, bool] = {}  # can itself be computed in 32 bits
    for node in walk(*roots):
        found = known[node]
        fits[node] = found is not None and low <= found[0] and found[1] <= high
        native[node] = node.dtype == I64 and fits[node] and _is_native(node, known, fits, captures)
    done: dict[Node, Node] = {}

    def form(node: Node, dtype: str) -> Node:
        """The new form of ``node``, as ``dtype`` if it is an integer."""
        new = done[node]
        if new.dtype not in INTS or new.dtype == dtype:
            return new
        if isinstance(new, Const):
            return Const(new.value, dtype)
        return Apply("to_i32" if dtype == I32 else "to_i64", (new,), dtype)

    for node in walk(*roots):
        match node:
            case Input(name) if native[node]:
                done[node] = Input(name, I32)
            case Const(value) if native[node]:
                done[node] = Const(value, I32)
            case Load(capture, indices, dtype):
                short = [form(i, I32 if fits[i] else I64) for i in indices]
                done[node] = Load(capture, short, I32 if native[node] else dtype)
            case Apply(op, args, dtype):
                done[node] = _apply(op, args, dtype, native[node], fits, form)
            case _:
                done[node] = node
    return tuple(form(r, I32 if fits[r] else I64) if r.dtype == I64 else done[r] for r in roots)


def _is_native(
    node: Node,
    known: Mapping[Node, Range | None],
    fits: Mapping[Node, bool],
    captures: Sequence[CaptureType],
) -> bool:
    match node:
        case Load(capture):
            return captures[capture].dtype in _SHORT
        case Apply(op, args):
            if op in _SHIFTS:
                count = known[args[1]]
                if count is None or count[0] < 0 or count[1] > 31:
                    return False
            if op == "to_int" and args[0].dtype not in INTS and args[0].dtype != BOOL:
                return False
            return all(arg.dtype == BOOL or fits[arg] for arg in args)
    return True


def _apply(op, args, dtype, native, fits, form):  # type: ignore[no-untyped-def]
    """``op`` on the narrowest form that all its integer arguments share."""
    if dtype == I64:
        if op == "to_int" and args[0].dtype == BOOL:
            return Apply("to_i32", (form(args[0], I32),), I32)
        target = I32 if native else I64
        return Apply(op, [form(arg, target) for arg in args], target)
    target = I32 if all(fits[arg] for arg in args if arg.dtype == I64) else I64
    return Apply(op, [form(arg, target) for arg in args], dtype)
