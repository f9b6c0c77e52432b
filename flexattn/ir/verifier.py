"""Checks that a graph keeps the dtype and arity rules of the operation table."""

from __future__ import annotations

import re

from flexattn.errors import InvalidGraphError
from flexattn.ir.nodes import (
    BOOL,
    F32,
    F64,
    FLOATS,
    I32,
    I64,
    INTS,
    Apply,
    Const,
    DType,
    Input,
    Load,
    Node,
    walk,
)
from flexattn.ir.ops import OPS, Op, result_dtype
from flexattn.ir.program import MAX_PIECES, Piece, Program

_TAKES = {
    "float": FLOATS,
    "int": INTS,
    "bool": frozenset({BOOL}),
    "number": INTS | FLOATS,
    "integral": INTS | {BOOL},
    "any": INTS | FLOATS | {BOOL},
}
_INDICES = frozenset({"b", "h", "q_idx", "kv_idx"})
_HOISTED = re.compile(r"(u|q|kv):\d+")
_SIZE = re.compile(r"size(\d+)_(\d+)")
_NUMBER = re.compile(r"n(\d+)")


def verify(root: Node, program: Program, *, narrowed: bool = False) -> None:
    """Check every node below ``root`` as part of ``program``.

    Args:
        narrowed: Whether i32 may occur, as it does after `passes/narrow.py`.

    Raises:
        InvalidGraphError: A pass or the tracer built a graph that no backend may be given.
    """
    allowed = {BOOL, I64, program.compute} | ({I32} if narrowed else set())
    for node in walk(root):
        if node.dtype not in allowed:
            raise _broken(
                node, f"dtype {node.dtype} does not occur in a mod computing in {program.compute}"
            )
        match node:
            case Input(name, dtype):
                _check_input(node, name, dtype, program)
            case Const(value, dtype):
                _check_const(node, value, dtype)
            case Load():
                _check_load(node, program)
            case Apply(op, _, _):
                if op not in OPS:
                    raise _broken(node, f"no operation is called {op!r}")
                _check_apply(node, OPS[op], program.compute)


def verify_program(program: Program) -> None:
    """Check the roots of ``program`` and what they return, and its ranges."""
    if program.score is not None:
        verify(program.score, program)
        if program.score.dtype != program.compute:
            raise _broken(program.score, "a score is a float")
    if program.mask is not None:
        verify(program.mask, program)
        if program.mask.dtype != BOOL:
            raise _broken(program.mask, "a mask is a bool")
    if program.ranges is not None:
        _verify_pieces(program.ranges.rows, program, other="kv_idx")
        _verify_pieces(program.ranges.cols, program, other="q_idx")


def _verify_pieces(pieces: tuple[Piece, ...], program: Program, other: str) -> None:
    if not 1 <= len(pieces) <= MAX_PIECES:
        raise InvalidGraphError(
            f"A program has {len(pieces)} ranges.",
            why=f"it has 1 to {MAX_PIECES} by rows, and as many by columns, or none at all.",
            fix="this is a fault of flexattn; please report it with the mod that caused it.",
        )
    for end in (end for piece in pieces for end in piece):
        verify(end, program)
        if end.dtype != I64:
            raise _broken(end, "an end of a range is an i64")
        for node in walk(end):
            if isinstance(node, Input) and node.name in (other, "score", "grad"):
                raise _broken(node, f"a range of {other} does not read it, nor scores")


def _check_input(node: Node, name: str, dtype: DType, program: Program) -> None:
    if name in ("score", "grad"):
        good = dtype == program.compute
    elif name in _INDICES:
        good = dtype in INTS
    elif match := _NUMBER.fullmatch(name):
        number = int(match[1])
        good = number < len(program.numbers) and (
            program.numbers[number] == dtype or {program.numbers[number], dtype} <= INTS
        )
    elif match := _SIZE.fullmatch(name):
        capture, dim = int(match[1]), int(match[2])
        good = (
            dtype in INTS
            and capture < len(program.captures)
            and dim < program.captures[capture].ndim
        )
    else:
        good = _HOISTED.fullmatch(name) is not None
    if not good:
        raise _broken(node, f"input {name!r} of dtype {dtype} is not supplied")


def _check_const(node: Node, value: object, dtype: DType) -> None:
    good = {BOOL: bool, I32: int, I64: int, F32: float, F64: float}[dtype]
    if type(value) is not good:
        raise _broken(node, f"a constant of dtype {dtype} is a {good.__name__}, not {value!r}")
    bits = {I32: 31, I64: 63}.get(dtype)
    if bits is not None and isinstance(value, int) and not -(2**bits) <= value < 2**bits:
        raise _broken(node, f"{value} does not fit {dtype}")


def _check_load(node: Load, program: Program) -> None:
    if not 0 <= node.capture < len(program.captures):
        raise _broken(node, f"there is no capture {node.capture}")
    capture = program.captures[node.capture]
    if len(node.indices) != capture.ndim:
        raise _broken(node, f"{len(node.indices)} indices for {capture.ndim} dimensions")
    if any(index.dtype not in INTS for index in node.indices):
        raise _broken(node, "an index is an integer")
    stored = capture.dtype
    if stored == "bool":
        good = node.dtype == BOOL
    elif stored in ("bf16", "f16", "f32", "f64"):
        good = node.dtype == program.compute
    else:
        good = node.dtype == I64 or (node.dtype == I32 and stored != "i64")
    if not good:
        raise _broken(node, f"an element of dtype {stored} is not read as {node.dtype}")


def _check_apply(node: Apply, op: Op, compute: DType) -> None:
    dtypes = tuple(arg.dtype for arg in node.args)
    if op.arity >= 0 and len(dtypes) != op.arity:
        raise _broken(node, f"{op.name} takes {op.arity} arguments, not {len(dtypes)}")
    values = dtypes
    if op.name == "where":
        if dtypes[0] != BOOL:
            raise _broken(node, "the condition of where is a bool")
        values = dtypes[1:]
    if any(dtype not in _TAKES[op.takes] for dtype in values):
        raise _broken(node, f"{op.name} takes {op.takes} arguments, not {', '.join(dtypes)}")
    if len(set(values)) > 1:
        raise _broken(node, f"{op.name} mixes {', '.join(dtypes)}")
    if op.name == "override_grad" and len(dtypes) % 2 == 0:
        raise _broken(node, "override_grad takes a value and pairs")
    if op.name == "pow" and node.dtype in INTS:
        exponent = node.args[1]
        if not (isinstance(exponent, Const) and exponent.value >= 0):
            raise _broken(node, "the exponent of an integer power is a constant >= 0")
    expected = result_dtype(op.name, dtypes, compute)
    if node.dtype != expected:
        raise _broken(node, f"{op.name} of {', '.join(dtypes)} gives {expected}, not {node.dtype}")


def _broken(node: Node, why: str) -> InvalidGraphError:
    match node:
        case Input(name, _):
            what = f"input {name}"
        case Const(value, _):
            what = f"const {value!r}"
        case Load(capture, _, _):
            what = f"load of capture {capture}"
        case Apply(op, _, _):
            what = f"apply {op}"
        case _:
            what = repr(node)
    return InvalidGraphError(
        f"A graph breaks its rules at {what} ({node.dtype}).",
        why=f"{why}.",
        fix="this is a fault of flexattn; please report it with the mod that caused it.",
    )
