"""f(q) against g(kv) on tiles, over the pairs that two guards leave: exact for < and <=.

A guard is a bool per position, or None. Where no position of an interval survives, no pair
exists there, whatever its extremes say.
"""

from __future__ import annotations

import numpy as np

from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.frame import Frame
from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.truth import YES, Truth, exact
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.analysis.tiles.valuesets import some_equal

_NEGATED = {"ge": "lt", "gt": "le", "ne": "eq"}


def compare(
    op: str,
    sides: tuple[Line, Line],
    facts: Facts,
    frame: Frame,
    guards: tuple[Line | None, Line | None] = (None, None),
) -> Truth:
    """The truth of ``f op g`` for ``sides`` = (f, g) over the pairs with p(q) and r(kv).

    Args:
        op: lt, le, gt, ge, eq or ne.
        guards: (p, r).
    """
    if op in _NEGATED:
        return compare(_NEGATED[op], sides, facts, frame, guards).negate()
    f, g = sides
    (f0, f1), (g0, g1) = f.extremes(frame.q, guards[0]), g.extremes(frame.kv, guards[1])
    if f0.dtype.kind == "f" or g0.dtype.kind == "f":
        _check_floats(op, f1, g1)
    low, high = frame.rows(f0), frame.rows(f1)
    below, above = frame.cols(g0), frame.cols(g1)
    exists = _exists(frame, guards)
    if op == "lt":
        return exact(exists & (low < above), exists & (high >= below))
    if op == "le":
        return exact(exists & (low <= above), exists & (high > below))
    # Pairs that differ are asked for under the guards as given, equal ones under tighter ones.
    differ = exists & ((low != above) | (high != below))
    if guards != (None, None):
        guards = _transfer(facts, sides, guards)
        (f0, f1), (g0, g1) = f.extremes(frame.q, guards[0]), g.extremes(frame.kv, guards[1])
        low, high = frame.rows(f0), frame.rows(f1)
        below, above = frame.cols(g0), frame.cols(g1)
        exists = _exists(frame, guards)
    overlap = exists & (low <= above) & (below <= high)
    may, some = some_equal(facts, frame, sides, guards, overlap)
    return Truth(may, differ, some, differ)


def _check_floats(op: str, *tops: Array) -> None:
    if any(np.isnan(top).any() for top in tops):  # a maximum is NaN where a value is
        raise UnknownNode("NaN")
    if op == "eq":
        raise UnknownNode("equal floats")


def _exists(frame: Frame, guards: tuple[Line | None, Line | None]) -> Array:
    """Where a pair survives the guards."""
    p, r = guards
    found: Array = YES
    if p is not None:
        found = frame.rows(p.extremes(frame.q)[1])
    if r is not None:
        alive = frame.cols(r.extremes(frame.kv)[1])
        found = alive if found is YES else found & alive
    return found


def _transfer(
    facts: Facts, sides: tuple[Line, Line], guards: tuple[Line | None, Line | None]
) -> tuple[Line | None, Line | None]:
    """What one guard says of the values of its side holds for the other, as they are equal."""
    key = ("transfer", *sides, *guards)
    if key not in facts.made:
        f, g = sides
        p, r = guards
        if p is not None:
            r = _within(g, f, p, r)
        if r is not None:
            p = _within(f, g, r, p)
        facts.made[key] = p, r
    found: tuple[Line | None, Line | None] = facts.made[key]
    return found


def _within(line: Line, other: Line, guard: Line, old: Line | None) -> Line:
    """Positions whose value lies between those of ``other`` that survive ``guard``."""
    values, kept = other.values, guard.values
    if values.dtype.kind == "f":
        raise UnknownNode("equal floats")
    info = np.iinfo(values.dtype)
    low = np.where(kept, values, info.max).min(-1, keepdims=True)
    high = np.where(kept, values, info.min).max(-1, keepdims=True)
    inside = (line.values >= low) & (line.values <= high)
    return Line(line.places, None, inside if old is None else inside & old.values)
