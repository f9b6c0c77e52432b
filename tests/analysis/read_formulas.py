"""Reads printed formulas back and evaluates them: what a text means, whoever wrote it.

Python's own precedence is what decides, once the signs are translated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
import torch

SIGNS = {
    "−": "-", "·": "*", "≤": "<=", "≥": ">=", " = ": " == ", "≠": "!=", " ∧ ": " and ",
    " ∨ ": " or ", "¬": " not ", " ⇔ ": " == ", "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")",
    "²": "**2", " mod ": " % ",
}  # fmt: skip
FUNCTIONS = {"floor": math.floor, "ceil": math.ceil, "abs": abs, "max": max, "min": min}


def value(text: str, names: Mapping[str, Any]) -> Any:
    """The value of a formula that uses ``names``."""
    main, *rest = text.split(", where ")
    names = dict(names)
    for definition in split(rest[0]) if rest else []:
        name, _, part = definition.partition(" = ")
        names[name] = value(part, names)
    return eval(python(main), {"__builtins__": {}}, FUNCTIONS | names)


@lru_cache
def python(text: str) -> CodeType:
    """The formula as a Python expression."""
    text = re.sub(r"\|(\S(?:[^|]*\S)?)\|", r"abs(\1)", text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return compile(text.strip(), text, "eval")


TEX = {
    r"\left\lfloor{": "floor(", r"}\right\rfloor": ")", r"\left\lceil{": "ceil(",
    r"}\right\rceil": ")", r"\left|{": "abs(", r"}\right|": ")", r"\left(": "(", r"\right)": ")",
    r"\left[": "int(", r"\right]": ")", r"\bmod": "%", r"\le ": "<= ", r"\ge ": ">= ",
    r"\neq ": "!= ", r"\wedge": "and", r"\vee": "or", r"\neg": "not", r"\Leftrightarrow": "==",
    r"\mathbin{\&}": "&", r"\mathbin{|}": "|", r"\max": "max", r"\min": "min",
    r"\begin{cases}": "((", r"& \text{if }": ") if (", r"& \text{otherwise} \end{cases}": "))",
    r"\\": ") else (", r"\mathrm{start}": "start", r"\mathrm{run}": "run",
}  # fmt: skip
WORDS = frozenset({"and", "or", "not", "if", "else", "in", "%", "&", "|", "*", "/", "**"})


def latex_value(latex: str, names: Mapping[str, Any]) -> Any:
    """The value of a formula in LaTeX that uses ``names``."""
    main, *rest = latex.split(r" \text{ where } ")
    names = dict(names)
    for definition in split(rest[0]) if rest else []:
        name, _, part = definition.partition(" = ")
        names[latex_python(name)] = latex_value(part, names)
    return eval(_compiled(main), {"__builtins__": {}}, FUNCTIONS | {"int": int} | names)


@lru_cache
def _compiled(text: str) -> CodeType:
    return compile(latex_python(text), text, "eval")


def latex_python(text: str) -> str:
    """LaTeX as a Python expression: what stands side by side is multiplied."""
    for sign, word in TEX.items():
        text = text.replace(sign, word)
    text = re.sub(r" = ", " == ", text)
    text = re.sub(r"_\{(\d+)\}", r"_\1", text)
    while r"\frac" in text:
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", _powers(text))
    text = _powers(text)
    tokens = re.findall(r"\*\*|[<>=!]=|[A-Za-z_]\w*|[\d.]+|\S", text)
    out = ""
    for before, token in zip(["+", *tokens], tokens):
        ends = bool(re.match(r"[\w.)\]]", before[-1])) and before not in WORDS
        starts = bool(re.match(r"[\w(]", token)) and token not in WORDS
        called = token == "(" and before in (*FUNCTIONS, "int")
        out += " * " if ends and starts and not called else " "
        out += token
    return out.strip()


def _powers(text: str) -> str:
    return re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text)


def kept(text: str, names: Mapping[str, Any]) -> bool:
    """Whether a printed form keeps the pair (``q``, ``k``) of ``names``."""
    if " ∈ " not in text:
        return all(holds(part, names) for part in split(text))
    name, _, union = text.partition(" ∈ ")
    if union == "∅":
        return False
    return any(member(name, part, names) for part in union.split(" ∪ "))


def member(name: str, part: str, names: Mapping[str, Any]) -> bool:
    if part.startswith("{"):
        head, _, conditions = part[1:-1].partition(" : ")
        assert head == name
        return kept(conditions, names)
    assert part[0] == "[" and part[-1] == ")"
    low, high = split(part[1:-1])
    return bool(value(low, names) <= names[name] < value(high, names))


def holds(condition: str, names: Mapping[str, Any]) -> bool:
    alike = re.fullmatch(r"(.+) ≡ (.+) \(mod (.+)\)", condition)
    if alike:
        a, b, m = (value(x, names) for x in alike.groups())
        return bool((a - b) % m == 0)
    return bool(value(condition, names))


def split(text: str) -> list[str]:
    """At the commas outside all brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{⌊") - (sign in ")]}⌋")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


class Table:
    """A captured tensor as formulas index it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, index: Any) -> Any:
        places = index if isinstance(index, tuple) else (index,)
        return self.array[tuple(int(i) for i in places)].item()


class Starts:
    """``start[v]``: the first position of an ascending table whose entry is v or more."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, v: Any) -> int:
        return int((self.array < v).sum())


def pairs(mod: Any, m: int, n: int) -> np.ndarray:
    """What a mask keeps of batch 0 and head 0, bool [m, n], by calling it on all pairs."""
    zero = torch.zeros((1, 1), dtype=torch.int64)
    found = mod(zero, zero, torch.arange(m)[:, None], torch.arange(n)[None])
    return torch.as_tensor(found).expand(m, n).numpy()
