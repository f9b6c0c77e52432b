"""Rules of the prover made wrong: what stands in for a function, and whether a mask shows it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import claims
import numpy as np
import pytest
import torch

from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.truth import NO, Truth
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node

Change = Callable[[Any], Any]
"""From a function, or another value, to what stands in for it and is wrong."""

Row = tuple[str, str, Change]
"""Where the rule is looked up, below `flexattn.analysis.tiles`; a mask, as text; the change."""


def node(op: str, *args: Any) -> Node:
    return Apply(op, [Const(a, I64) if isinstance(a, int) else a for a in args], I64)


def less(a: Node, b: Any) -> Node:
    return Apply("lt", (a, Const(b, I64) if isinstance(b, int) else b), BOOL)


Q, KV = Input("q_idx", I64), Input("kv_idx", I64)
NAMES: dict[str, Any] = {
    **{name: value for name, value in vars(claims).items() if isinstance(value, torch.Tensor)},
    "torch": torch,
    "TOP": 2**63 - 1,
    "NANS": torch.where(torch.arange(claims.N) % 9 == 0, float("nan"), claims.REAL),
    "LAYERS": torch.stack([claims.TREE, ~claims.TREE]),
}
# Masks that no mask_mod is traced to.
GRAPHS = {
    "wide": less(node("mod", node("to_i64", node("add", Q, KV)), 16), 3),
    "detached": less(node("mod", node("detach", node("add", Q, KV)), 16), 3),
    "wide sum": less(node("to_i64", node("add", Load(2, (Q,), I64), KV)), 30),
    "detached sum": less(node("detach", node("add", Load(2, (Q,), I64), KV)), 30),
    "negative index": less(Load(2, (node("sub", Q, 50),), I64), KV),
}


def mask_of(text: str) -> Any:
    return GRAPHS[text] if text in GRAPHS else eval(f"lambda b, h, q, k: {text}", dict(NAMES))


def owner_of(place: str) -> tuple[Any, str]:
    """The module or class that holds what ``place`` names, and the name there."""
    module, *inner, name = place.split(".")
    owner = import_module(f"flexattn.analysis.tiles.{module}")
    for part in inner:
        owner = getattr(owner, part)
    return owner, name


def covered(place: str) -> str:
    """The function that ``place`` names, by the module it is defined in."""
    owner, name = owner_of(place)
    found = inspect.getattr_static(owner, name)
    found = getattr(found, "fget", None) or getattr(found, "func", None) or found
    found = getattr(found, "__func__", found)
    ours = "flexattn.analysis.tiles."
    if not inspect.isfunction(found) or not found.__module__.startswith(ours):
        return place
    return f"{found.__module__.removeprefix(ours)}.{found.__qualname__}"


def assert_caught(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    place, text, change = row
    mask = mask_of(text)
    assert not claims.is_caught(mask, monkeypatch), "the mask is wrong as it is"
    owner, name = owner_of(place)
    monkeypatch.setattr(owner, name, change(inspect.getattr_static(owner, name)))
    assert claims.is_caught(mask, monkeypatch), "nothing shows the change"


# What stands in for a function -------------------------------------------------------------------


def after(change: Callable[[Any], Any]) -> Change:
    """Changes what a function, or a property, gives."""

    def stand_in(function: Any) -> Any:
        if isinstance(function, property):
            return property(lambda self: change(function.fget(self)))
        if isinstance(function, classmethod):
            return classmethod(lambda cls, *a: change(function.__func__(cls, *a)))
        return lambda *a, **k: change(function(*a, **k))

    return stand_in


def before(change: Callable[..., tuple[Any, ...]]) -> Change:
    """Changes what a function is given."""
    return lambda function: lambda *a, **k: function(*change(*a), **k)


def given(value: Any) -> Change:
    """Gives always the same."""
    return lambda function: lambda *a, **k: value


def renamed(**names: str) -> Change:
    """Compares by another operator."""
    return lambda function: lambda op, *a, **k: function(names.get(op, op), *a, **k)


def for_op(op: str, wrong: Callable[[Any], Any]) -> Change:
    """Changes what a method says of nodes of one operation; ``input`` is one here."""

    def stand_in(function: Any) -> Any:
        def find(self: Any, found: Any) -> Any:
            said = function(self, found)
            name = found.op if isinstance(found, Apply) else type(found).__name__.lower()
            return wrong(said) if name == op and said is not None else said

        return find

    return stand_in


def never(truth: Truth) -> Truth:
    """What is true nowhere."""
    return Truth(truth.may & NO, truth.may_not, truth.some & NO, truth.some_not)


def opposite(truth: Truth) -> Truth:
    return truth.negate()


def swapped(pair: Any) -> Any:
    return pair[1], pair[0]


def first_of(pair: Any) -> Any:
    return pair[0], pair[0]


def backwards(values: Any) -> Any:
    return values if values is None else values[..., ::-1]


def inverted(values: Any) -> Any:
    return ~values


def guards_inverted(guards: Any) -> Any:
    return guards[0], Line(guards[1].places, None, ~guards[1].values)


def for_stage(stage: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Changes the classes that `singly` takes at one stage."""

    def stand_in(function: Any) -> Any:
        def take(self: Any, classes: Any, at: str) -> None:
            function(self, change(classes) if at == stage else classes, at)

        return take

    return stand_in
