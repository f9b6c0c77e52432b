"""Finds the user's line behind a symbol and words the errors of the tracer."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

_TRACE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_TRACE)
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))
_INPUTS = ("score", "b", "h", "q_idx", "kv_idx")


def mod_name(fn: Any) -> str:
    """What the user calls ``fn``: through partial, bound methods and callable objects."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__name__


def source_line(filename: str, lineno: int) -> str:
    """``file:line: source text``, the file relative to the working directory if below it."""
    text = linecache.getline(filename, lineno).strip()
    short = filename
    if os.path.isabs(filename):
        relative = os.path.relpath(filename)
        short = filename if relative.startswith(os.pardir) else relative
    return f"{short}:{lineno}: {text}" if text else f"{short}:{lineno}"


def user_frame() -> FrameType | None:
    """The innermost frame of the user's own code above the tracer."""
    fallback = None
    for frame in _frames(sys._getframe(1)):
        folder = os.path.dirname(frame.f_code.co_filename)
        if folder == _TRACE:
            if frame.f_code.co_name == "run_mod":
                break
            continue
        if not folder.startswith((_PACKAGE, _TORCH)):
            return frame
        fallback = fallback or frame
    return fallback


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def location() -> str | None:
    """Where in the user's code the operation now traced stands."""
    frame = user_frame()
    return None if frame is None else source_line(frame.f_code.co_filename, frame.f_lineno)


def definition(fn: Any) -> str | None:
    """Where ``fn`` is defined."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(fn, "__code__", None) or getattr(getattr(fn, "__func__", None), "__code__", None)
    if code is None and not isinstance(fn, type):
        code = getattr(type(fn).__dict__.get("__call__"), "__code__", None)
    return None if code is None else source_line(code.co_filename, code.co_firstlineno)


def what_it_is(name: str) -> str:
    """What the argument ``name`` of a mod stands for."""
    return {
        "score": "score stands for all scores at once",
        "b": "b stands for all batch indices at once",
        "h": "h stands for all head indices at once",
        "q_idx": "q_idx stands for all query indices at once",
        "kv_idx": "kv_idx stands for all key indices at once",
    }[name]


def depends_on(code: list[Any], start: int) -> list[str]:
    """Names of the mod's arguments that the tape entry ``start`` is computed from."""
    found: set[int] = set()
    seen: set[int] = set()
    stack = [start]
    while stack:
        position = stack.pop()
        if position < len(_INPUTS):
            found.add(position)
        elif position not in seen:
            seen.add(position)
            for item in _operands(code, position):
                stack.append(item)
    return [_INPUTS[i] for i in sorted(found)]


def _operands(code: list[Any], position: int) -> Iterator[int]:
    if code[position] in ("load", "gather"):  # a capture's number, then indices
        for item in code[position + 2]:
            if type(item) is int and item >= 0:
                yield item
            elif type(item) is tuple and item[0] == "row":
                yield item[1]
        return
    for item in code[position + 1 :]:
        if isinstance(item, str):
            return
        if type(item) is int and item >= 0:
            yield item


def why_no_value(code: list[Any], position: int) -> str:
    """The sentence that explains why a symbol has no value of its own."""
    if position < 0:
        return "the value is a row of a captured tensor, read anew for every pair of query and key"
    if position < len(_INPUTS):
        return what_it_is(_INPUTS[position])
    names = depends_on(code, position)
    if not names:
        return "the value is known only when the kernel runs"
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return (
        f"the value is computed from {listed}, which stand{'s' * (len(names) == 1)} for all at once"
    )


# Which construct asked a symbol for its truth value -------------------------------------------

_BRANCH_FIXES = {
    "if": "use torch.where({test}, a, b), or compute the flag outside {mod}",
    "while": "a mod has no loops over traced values; use torch.where, or precompute a table",
    "assert": "check captured values before the call; a mod cannot assert on traced values",
    "and": "use & in place of `and`, with parentheses round each comparison",
    "or": "use | in place of `or`, with parentheses round each comparison",
    "not": "use ~ in place of `not`",
    "in": "use (x == a) | (x == b), or (captured_tensor == x).any(-1)",
    "chain": "write a chained comparison as (a <= x) & (x < b)",
    "min": "use torch.minimum in place of min",
    "max": "use torch.maximum in place of max",
    "sorted": "use torch.minimum and torch.maximum in place of sorted",
    "any": "use | between the terms in place of any()",
    "all": "use & between the terms in place of all()",
    "bool": "keep the symbol: comparisons of it are bool already",
}


def branch(mod: str) -> tuple[str, str]:
    """What construct is asking for a truth value now, and how to write it instead."""
    frame = user_frame()
    kind, test = ("if", None) if frame is None else _branching(frame)
    verbs = {"in": "`in`", "chain": "a chained comparison", "if": "`if`"}
    fix = _BRANCH_FIXES[kind].format(test=test or "condition", mod=mod)
    return verbs.get(kind, f"`{kind}`"), fix


def _branching(frame: FrameType) -> tuple[str, str | None]:
    tree = _module(frame.f_code.co_filename)
    if tree is None:
        return "if", None
    span = _span(frame)
    line = frame.f_lineno
    found: list[tuple[int, str, ast.expr]] = []
    for node in ast.walk(tree):
        for rank, kind, test in _tests(node):
            if not test.lineno <= line <= (test.end_lineno or test.lineno):
                continue
            here = (test.lineno, test.end_lineno, test.col_offset, test.end_col_offset)
            if span is None or span == here:
                found.append((rank, kind, test))
            else:
                found.append((rank + 10, kind, test))
    if not found:
        return "if", None
    _, kind, test = min(found, key=lambda entry: entry[0])
    return kind, ast.unparse(test)


def _span(frame: FrameType) -> tuple[int | None, ...] | None:
    positions = getattr(frame.f_code, "co_positions", None)  # Python 3.11 and later
    if positions is None:
        return None
    for number, (line, end_line, column, end_column) in enumerate(positions()):
        if number == frame.f_lasti // 2:
            return None if column is None else (line, end_line, column, end_column)
    return None


def _tests(node: ast.AST) -> Iterator[tuple[int, str, ast.expr]]:
    """(rank, construct, expression tested) for each truth value that ``node`` asks for."""
    match node:
        case ast.BoolOp(op, values):
            for value in values:
                yield 1, "and" if isinstance(op, ast.And) else "or", value
        case ast.UnaryOp(ast.Not(), operand):
            yield 0, "not", node
            yield 2, "not", operand
        case ast.Compare(_, ops, _):
            if any(isinstance(op, (ast.In, ast.NotIn)) for op in ops):
                yield 0, "in", node
            elif len(ops) > 1:
                yield 0, "chain", node
        case ast.Call(ast.Name(("min" | "max" | "sorted" | "any" | "all" | "bool") as name)):
            yield 0, name, node
        case ast.If(test) | ast.IfExp(test) | ast.comprehension(_, _, [test, *_]):
            yield 3, "if", test
        case ast.While(test):
            yield 3, "while", test
        case ast.Assert(test):
            yield 3, "assert", test


@functools.lru_cache(maxsize=16)
def _module(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return None
