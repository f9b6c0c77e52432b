"""Reads printed formulas back and evaluates them: what a text means, whoever wrote it.

Python's own precedence is what decides, once the signs are translated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

SIGNS = {
    "−": "-", "·": "*", "≤": "<=", "≥": ">=", " = ": " == ", "≠": "!=", " ∧ ": " and ",
    " ∨ ": " or ", "¬": " not ", " ⇔ ": " == ", "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")",
    " mod ": " % ",
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


def python(text: str) -> str:
    """The formula as a Python expression."""
    text = re.sub(r"\|(\S(?:[^|]*\S)?)\|", r"abs(\1)", text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return text.strip()


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
