"""Writes programs as text and reads them back exactly; writes graphs for people.

A program, one node a line, arguments before users (floats in hexadecimal, so no bit is lost)::

    flexattn-program 1
    compute f32
    captures bf16[1] i64[2]
    numbers i64
    %0 = input score f32
    %1 = const 0x1.9000000000000p+4 f32
    %2 = apply div f32 %0 %1
    %3 = input h i64
    %4 = load 0 f32 %3
    %5 = apply add f32 %2 %4
    score %5
    mask -

Two more lines where there are ranges, low and high of each piece: ``rows %7 %9``, ``cols %7 %8``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from flexattn.errors import ProgramTextError
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
from flexattn.ir.ops import OPS
from flexattn.ir.program import CaptureType, Piece, Program, Ranges

HEADER = "flexattn-program 1"
STORAGE_DTYPES = frozenset({"bool", "u8", "i8", "i16", "i32", "i64", "bf16", "f16", "f32", "f64"})
_DTYPES = frozenset({BOOL, I32, I64, F32, F64})
_FIELDS = frozenset({"compute", "captures", "numbers", "score", "mask", "rows", "cols"})
_CAPTURE = re.compile(r"(\w+)\[(\d+)\]")


# Programs -------------------------------------------------------------------------------------


def print_program(program: Program) -> str:
    """``program`` as text; ``parse_program`` gives the same program back."""
    names: dict[Node, str] = {}
    lines = [
        HEADER,
        f"compute {program.compute}",
        " ".join(["captures", *(f"{c.dtype}[{c.ndim}]" for c in program.captures)]),
        " ".join(["numbers", *program.numbers]),
    ]
    ranges = program.ranges
    for node in walk(program.score, program.mask, *(ranges.nodes if ranges else ())):
        names[node] = f"%{len(names)}"
        lines.append(f"{names[node]} = {_definition(node, names)}")
    for role, root in (("score", program.score), ("mask", program.mask)):
        lines.append(f"{role} {'-' if root is None else names[root]}")
    if ranges is not None:
        for role, pieces in (("rows", ranges.rows), ("cols", ranges.cols)):
            lines.append(" ".join([role, *(names[end] for piece in pieces for end in piece)]))
    return "\n".join(lines) + "\n"


def _definition(node: Node, names: Mapping[Node, str]) -> str:
    args = "".join(f" {names[arg]}" for arg in node.args)
    match node:
        case Input(name, dtype):
            return f"input {name} {dtype}"
        case Const(value, dtype):
            return f"const {_number(value)} {dtype}"
        case Load(capture, _, dtype):
            return f"load {capture} {dtype}{args}"
        case Apply(op, _, dtype):
            return f"apply {op} {dtype}{args}"
    raise TypeError(f"not a node: {node!r}")


def _number(value: bool | int | float) -> str:
    if not isinstance(value, float):
        return str(int(value))
    # float.hex() writes every NaN alike, and its sign and payload mean nothing to a mod.
    return value.hex() if math.isfinite(value) else repr(value)


def parse_program(text: str) -> Program:
    """The program that ``print_program`` wrote.

    Raises:
        ProgramTextError: The text is damaged, or of another version.
    """
    lines = text.splitlines()
    if not lines or lines[0] != HEADER:
        raise _damaged(0, lines[0] if lines else "", f"the first line is not {HEADER!r}")
    fields: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for number, line in enumerate(lines[1:], start=1):
        head, _, rest = line.partition(" ")
        try:
            if head.startswith("%"):
                equals, *words = rest.split()
                if equals != "=" or head in nodes:
                    raise ValueError("not a new definition")
                nodes[head] = _parse_node(words, nodes)
            elif head in fields or head not in _FIELDS:
                raise ValueError(f"unknown or repeated field {head!r}")
            else:
                fields[head] = rest.strip()
        except (ValueError, KeyError, IndexError) as error:
            raise _damaged(number, line, str(error)) from None
    try:
        return _assemble(fields, nodes)
    except (ValueError, KeyError) as error:
        raise _damaged(len(lines), "", f"missing or bad: {error}") from None


def _assemble(fields: Mapping[str, str], nodes: Mapping[str, Node]) -> Program:
    captures = []
    for word in fields["captures"].split():
        match = _CAPTURE.fullmatch(word)
        if match is None or match[1] not in STORAGE_DTYPES:
            raise ValueError(f"capture {word!r}")
        captures.append(CaptureType(match[1], int(match[2])))
    roots = {r: None if fields[r] == "-" else nodes[fields[r]] for r in ("score", "mask")}
    return Program(
        score=roots["score"],
        mask=roots["mask"],
        captures=tuple(captures),
        numbers=tuple(_dtype(word) for word in fields["numbers"].split()),
        compute=_dtype(fields["compute"]),
        ranges=_ranges(fields, nodes),
    )


def _ranges(fields: Mapping[str, str], nodes: Mapping[str, Node]) -> Ranges | None:
    if "rows" not in fields and "cols" not in fields:
        return None
    return Ranges(_pieces(fields["rows"], nodes), _pieces(fields["cols"], nodes))


def _pieces(text: str, nodes: Mapping[str, Node]) -> tuple[Piece, ...]:
    ends = [nodes[name] for name in text.split()]
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def _parse_node(words: list[str], nodes: Mapping[str, Node]) -> Node:
    kind, what, dtype, *rest = words
    _dtype(dtype)
    args = [nodes[name] for name in rest]
    match kind:
        case "input" if not args:
            return Input(what, dtype)
        case "const" if not args:
            return Const(_parse_number(what, dtype), dtype)
        case "load":
            return Load(int(what), args, dtype)
        case "apply":
            if what not in OPS:
                raise ValueError(f"no operation is called {what!r}")
            return Apply(what, args, dtype)
    raise ValueError(f"no node is written {kind!r}")


def _parse_number(word: str, dtype: DType) -> bool | int | float:
    if dtype in FLOATS:
        return float(word) if word in ("inf", "-inf", "nan") else float.fromhex(word)
    return int(word) if dtype in INTS else bool(int(word))


def _dtype(word: str) -> DType:
    if word not in _DTYPES:
        raise ValueError(f"no dtype is called {word!r}")
    return word


def _damaged(number: int, line: str, why: str) -> ProgramTextError:
    return ProgramTextError(
        f"Line {number + 1} of a program cannot be read: {line!r}.",
        why=f"{why}.",
        fix="export the model again with this version of flexattn.",
    )


# Graphs for people ----------------------------------------------------------------------------

_INFIX_SIGNS = """
    add +  sub -  mul *  div /  floordiv //  mod %  pow **  eq ==  ne !=  lt <  le <=  gt >  ge >=
    and &  or |  xor ^  shl <<  shr >>
"""
_WORDS = _INFIX_SIGNS.split()
INFIX = dict(zip(_WORDS[::2], _WORDS[1::2]))
_PREFIX = {"neg": "-", "not": "~"}


def print_graph(*roots: Node | None, locations: Mapping[Node, str] | None = None) -> str:
    """``roots`` as numbered lines, one operation each, with the user's source line at the right.

    Args:
        roots: What to print; None is passed over, common parts are printed once.
        locations: ``file:line: source`` of nodes, as ``Traced.locations``.
    """
    names: dict[Node, str] = {}
    rows: list[tuple[str, str]] = []
    for node in walk(*roots):
        match node:
            case Input(name, _):
                names[node] = name
            case Const(value, _):
                names[node] = repr(value)
            case _:
                names[node] = f"%{len(rows)}"
                where = (locations or {}).get(node, "")
                rows.append(
                    (f"{names[node]:>4}: {node.dtype:<4} = {_expression(node, names)}", where)
                )
    width = max((len(text) for text, _ in rows), default=0)
    lines = [f"{text:<{width}}  # {where}" if where else text for text, where in rows]
    for root in roots:
        if root is not None:
            lines.append(f"return {names[root]}")
    return "\n".join(lines)


def _expression(node: Node, names: Mapping[Node, str]) -> str:
    args = [names[arg] for arg in node.args]
    match node:
        case Load(capture, _, _):
            return f"capture{capture}[{', '.join(args)}]"
        case Apply(op, _, _) if op in INFIX:
            return f"{args[0]} {INFIX[op]} {args[1]}"
        case Apply(op, _, _) if op in _PREFIX:
            return f"{_PREFIX[op]}{args[0]}"
        case Apply(op, _, _):
            return f"{op}({', '.join(args)})"
    raise TypeError(f"not a node: {node!r}")
