"""A program as JavaScript: one function for the score, one for the mask, a statement a node.

Nothing is hoisted or narrowed: a browser draws some thousand pairs, and the text is to be read.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np

from flexattn.ir.nodes import (
    BOOL,
    F32,
    FLOATS,
    I64,
    Apply,
    Const,
    DType,
    Input,
    Load,
    Node,
    walk,
)
from flexattn.ir.program import Program
from flexattn.lowering.javascript_spellings import SPELLINGS
from flexattn.lowering.spellings import kind

_ARGUMENTS = "b, h, q_idx, kv_idx, ints, floats, captures"
_NAMES = frozenset({"score", "b", "h", "q_idx", "kv_idx"})


@cache
def runtime() -> str:
    """The functions that every program calls."""
    folder = resources.files("codegen_templates") / "javascript"
    return (folder / "runtime.js").read_text()


def lower_javascript(program: Program) -> str:
    """An expression: a function of the runtime that gives ``{score, mask}``.

    Both take b, h, q_idx and kv_idx, lists of the lifted whole and other numbers, and captures as
    ``{shape, data}`` with flat data; ``score`` takes the score before them. They are null where
    the program has none.
    """
    round_to = "Math.fround" if program.compute == "f32" else "m.same"
    score = _function(program, program.score, f"score, {_ARGUMENTS}")
    mask = _function(program, program.mask, _ARGUMENTS)
    parts = f"    score: {score},\n    mask: {mask},\n"
    return f"(m) => {{\n  const F = {round_to};\n  return {{\n{parts}  }};\n}}"


def _function(program: Program, root: Node | None, arguments: str) -> str:
    if root is None:
        return "null"
    names: dict[Node, str] = {}  # of each node so far: a constant, an input or a t
    lines: list[str] = []
    for node in walk(root):
        text = _text(program, node, names)
        if isinstance(node, Load | Apply) and text not in names.values():
            lines.append(f"      const t{len(lines)} = {text};")
            text = f"t{len(lines) - 1}"
        names[node] = text
    return "\n".join([f"({arguments}) => {{", *lines, f"      return {names[root]};", "    }"])


def _text(program: Program, node: Node, names: dict[Node, str]) -> str:
    match node:
        case Const(value, dtype):
            return _constant(value, dtype)
        case Input(name):
            return _input(program, name)
        case Load(capture, indices, dtype):
            at = ", ".join(names[index] for index in indices)
            text = f"m.load(captures[{capture}], {at})" if at else f"m.load(captures[{capture}])"
            return f"{text} !== 0" if dtype == BOOL else f"F({text})" if dtype in FLOATS else text
        case Apply("pow", (base, Const(exponent)), dtype) if dtype in FLOATS:
            return _power(names[base], exponent, _constant(exponent, dtype))
        case Apply(op, args):
            last = args[0 if op == "override_grad" else -1]
            return SPELLINGS[op][kind(last.dtype)].format(*(names[arg] for arg in args))
    raise TypeError(f"not a node: {node!r}")


def _power(base: str, exponent: float, text: str) -> str:
    """The exponents that torch treats apart, as torch does."""
    known = {
        2.0: f"F({base} * {base})",
        3.0: f"F(F({base} * {base}) * {base})",
        0.5: f"F(Math.sqrt({base}))",
        -0.5: f"F(1 / Math.sqrt({base}))",
        -1.0: f"F(1 / {base})",
        -2.0: f"F(1 / F({base} * {base}))",
    }
    return known.get(exponent, f"F(m.pow({base}, {text}))")


def _input(program: Program, name: str) -> str:
    if name in _NAMES:
        return name
    if name.startswith("size"):
        capture, dim = name[4:].split("_")
        return f"captures[{capture}].shape[{dim}]"
    position = int(name[1:])
    dtype = program.numbers[position]
    place = sum((other == I64) == (dtype == I64) for other in program.numbers[:position])
    return f"ints[{place}]" if dtype == I64 else f"F(floats[{place}])"


def _constant(value: bool | int | float, dtype: DType) -> str:
    if dtype == BOOL:
        return "true" if value else "false"
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "(-Infinity)"
    if dtype not in FLOATS:
        text = str(int(value))
    elif dtype == F32:
        single = np.float32(value)
        text = str(single)  # the shortest that float32 reads so
        text = text if float(text) == float(single) else f"F({text})"
    else:
        text = repr(float(value))
    return f"({text})" if text.startswith("-") else text
