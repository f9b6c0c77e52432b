"""Wrong variants of every rule of closed forms: what stands in for what, under the rule's name.

A row is (where the rule lives, its name or key, what to put there). What each gives for masks must
be found wrong by `test_closed_rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from flexattn.analysis.closed import (
    bits,
    bound,
    conditions,
    derived,
    linear,
    requires,
    rows,
    shape,
    solve,
    unite,
)
from flexattn.analysis.closed.linear import Linear, plus
from flexattn.analysis.closed.pieces import Inside, OneRun, Positive, Small
from flexattn.ir.nodes import BOOL, I64, Const

Mutant = tuple[Any, str, Any]
ONE = Const(1, I64)


def later(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The ranges that ``rule`` gives, each beginning and ending one later."""

    def wrong(*args: Any) -> Any:
        return [tuple(end and plus(end, 1) for end in ends) for ends in rule(*args)]

    return wrong


def one_more(rule: Callable[..., Any]) -> Callable[..., Any]:
    """An expression one larger."""
    return lambda *args, **options: plus(rule(*args, **options), 1)


def same_ends(by: Any, low: Any, high: Any) -> Any:
    return low, high


def always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def method(cls: type, name: str, change: Callable[[Any], Any]) -> Mutant:
    """A method whose result is changed."""
    rule = getattr(cls, name)
    return cls, name, lambda self, *args: change(rule(self, *args))


def without(kind: type) -> Mutant:
    """Requirements of one kind forgotten."""
    rule = bound._holds
    return bound, "_holds", lambda r, *rest: isinstance(r, kind) or rule(r, *rest)


def first_two_swapped(pieces: Any) -> Any:
    return pieces[:-1]


def ends_with(**changes: Callable[[rows._Ends], Any]) -> Callable[[rows._Ends], rows._Ends]:
    """Ends in which some arrays are others."""

    def change(ends: rows._Ends) -> rows._Ends:
        fields = vars(ends) | {name: new(ends) for name, new in changes.items()}
        return rows._Ends(**fields)

    return change


def _shifted_tables(tables: Any) -> Any:
    starts, base = tables
    return np.minimum(starts + 1, starts.max()), base


_common = unite._common
_rises = derived._rises
_of_several = rows.of_several


_mark = rows._Finder._mark


def _shifted_marks(self: Any, ends: Any, marks: Any) -> None:
    _mark(self, ends, marks)
    marks[...] = np.maximum(marks - 1, 0)


def _common_without(part: str) -> Callable[..., Any]:
    def wrong(one: Any, other: Any) -> Any:
        found = _common(one, other)
        return type(found)(**(vars(found) | {part: getattr(one, part)}))

    return wrong


MUTANTS: dict[str, Mutant] = {
    **{f"SOLVED {op}": (solve.SOLVED, op, later(rule)) for op, rule in solve.SOLVED.items()},
    **{
        f"MIRRORED {op}": (solve.MIRRORED, op, op)
        for op, other in solve.MIRRORED.items()
        if op != other
    },
    **{f"UNDO {op}": (solve.UNDO, op, same_ends) for op in solve.UNDO},
    "undo shr": (solve, "_of_quotient", same_ends),
    "undo mod": method(solve.Solver, "_remainders", first_two_swapped),
    "undo of a choice": method(solve.Solver, "_choice", first_two_swapped),
    "undo of flags": method(solve.Solver, "_flags", first_two_swapped),
    "undo of a sum": (solve, "minus", one_more(linear.minus)),
    "undo of a table": method(solve.Solver, "_start", lambda node: plus(node, 1)),
    "one atom": method(solve.Solver, "_one_atom", lambda f: (f[0], abs(f[1]), f[2])),
    "condition of the given index": (solve, "both", always(None)),
    "opposite of a comparison": (solve.OPPOSITE, "lt", "gt"),
    "quotient": (solve, "quotient", lambda a, b, up=False: linear.quotient(a, b)),
    "product": (solve, "product", lambda a, b: a),
    "linear": (Linear, "scale", lambda self, by: self),
    "extreme": (linear, "_extreme", lambda op, a, b: a),
    "least": (unite, "least", lambda a, b: a),
    "greatest": (unite, "greatest", lambda a, b: a),
    "common low": (unite, "_common", _common_without("low")),
    "common high": (unite, "_common", _common_without("high")),
    "common repeat": (unite, "_common", _common_without("repeat")),
    "common condition": (unite, "_common", _common_without("when")),
    "two repeats": (unite, "_common_repeat", lambda one, other: one or other),
    "empty pieces": (unite, "_is_empty", always(True)),
    "union": (unite, "_joined", lambda one, other, needed: one),
    "union of neighbours": (unite, "_condition", lambda size: Positive(ONE)),
    "ends that are sure": (unite, "_is_sure", always(True)),
    "sizes fit": (solve, "fits", always(True)),
    "common requirements": (solve, "common_requirements", always([])),
    "requirement Inside": without(Inside),
    "requirement Positive": without(Positive),
    "requirement Small": without(Small),
    "requirement OneRun": without(OneRun),
    "large numbers": (bound, "_LIMIT", 1 << 70),
    "lengths read": (
        bound,
        "_lengths_read",
        lambda form, shape, captures: [max(shape[2:]) for _ in captures],
    ),
    "ascending tables": (derived, "_rises", lambda table: _rises(np.sort(table, axis=-1))),
    "start tables": method(derived.Derived, "starts", _shifted_tables),
    "run tables": method(derived.Derived, "runs", lambda found: found + 1),
    **{
        f"SLOPES {op}": (shape.SLOPES, op, lambda *slopes: (1, frozenset()))
        for op in ("sub", "neg", "minimum", "maximum", "add")
    },
    "slope of factors": (shape, "_times", lambda sign, slope: slope),
    "slope of unknown": method(
        shape._Finder, "slope", lambda found: (1, frozenset()) if found is None else found
    ),
    "slope of a choice": method(
        shape._Finder,
        "_slope_of_choice",
        lambda found: (1, frozenset()) if found is None else found,
    ),
    "conditions": (conditions, "_within", lambda piece, *_: replace(piece, when=None)),
    "ends under conditions": (conditions, "_at", lambda end, given, position: position),
    "from a position on": (conditions, "_before", lambda given, end: Const(False, BOOL)),
    "low below": method(shape._Finder, "below", lambda found: ()),
    "high above": method(shape._Finder, "above", lambda found: ()),
    "own value": method(shape._Finder, "_own_value", lambda found: found and found - 1),
    "chunks": method(shape._Finder, "_from_chunk", lambda found: ()),
    "sums": method(shape._Finder, "_from_sum", lambda found: ()),
    "lowest of a row": method(rows._Finder, "_ends", ends_with(low_min=lambda e: e.low_max)),
    "highest of a row": method(rows._Finder, "_ends", ends_with(high_max=lambda e: e.high_min)),
    "full from": method(rows._Finder, "_ends", ends_with(low_max=lambda e: e.low_min)),
    "full to": method(rows._Finder, "_ends", ends_with(high_min=lambda e: e.high_max)),
    "gaps in a row": method(
        rows._Finder, "_ends", ends_with(sure=lambda e: np.ones_like(e.low_min, bool))
    ),
    "first and last decide": method(rows._Finder, "_ends", ends_with(plain=lambda e: True)),
    "marks": (rows._Finder, "_mark", _shifted_marks),
    "pieces in order": (rows, "stand_apart", lambda marks: np.ones(len(marks), bool)),
    "pieces together": (
        rows,
        "of_several",
        lambda marks, which, tell: (_of_several(marks, which, tell)[0], which[:0], False),
    ),
    "surely partial": method(rows._Finder, "_told", np.ones_like),
    "surely full": method(rows._Finder, "_told", lambda told: np.full_like(told, 2)),
    "positions one by one": method(rows._Finder, "_touched", np.zeros_like),
    "bits": (bits.RULES, "mul", max),
    "divisions": (requires, "DIVISIONS", frozenset()),
}
