"""f(q) against g(kv) on tiles, over the pairs that two guards leave: exact for < and <=.

A guard is a bool per position, or None. Where no position of an interval survives, its minimum
lies above its maximum, and nothing exists there.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from flexattn.analysis.tiles.frame import Axis, Frame
from flexattn.analysis.tiles.truth import Truth, exact
from flexattn.analysis.tiles.values import Array, UnknownNode
from flexattn.analysis.tiles.valuesets import some_equal

Guard: TypeAlias = "Array | None"

_HIGH = np.iinfo(np.int64).max
_NEGATED = {"ge": "lt", "gt": "le", "ne": "eq"}


def compare(op: str, f: Array, g: Array, frame: Frame, p: Guard = None, r: Guard = None) -> Truth:
    """The truth of ``f op g`` over the pairs with p(q) and r(kv).

    Args:
        op: lt, le, gt, ge, eq or ne.
        f: [B, H, Q], or 1 along an axis.
        g: [B, H, KV], or 1 along an axis.
    """
    if op in _NEGATED:
        return compare(_NEGATED[op], f, g, frame, p, r).negate()
    if f.dtype.kind == "f":
        if np.isnan(f).any() or np.isnan(g).any():
            raise UnknownNode("NaN")
        if op == "eq":
            raise UnknownNode("equal floats")
    f0, f1 = extremes(frame.q, f, p)
    g0, g1 = extremes(frame.kv, g, r)
    low, high = frame.rows(f0), frame.rows(f1)
    below, above = frame.cols(g0), frame.cols(g1)
    if op == "lt":
        return exact(low < above, high >= below)
    if op == "le":
        return exact(low <= above, high > below)
    # Pairs that differ are asked for under the guards as given, equal ones under tighter ones.
    inside = (low <= high) & (below <= above)
    differ = inside & ((low != above) | (high != below))
    if p is not None or r is not None:
        p, r = _transfer(f, g, p, r)
        (f0, f1), (g0, g1) = extremes(frame.q, f, p), extremes(frame.kv, g, r)
    overlap = (frame.rows(f0) <= frame.cols(g1)) & (frame.cols(g0) <= frame.rows(f1))
    may, some = some_equal(frame, (f, g), (p, r), overlap)
    return Truth(may, differ, some, differ)


def extremes(axis: Axis, values: Array, guard: Guard) -> tuple[Array, Array]:
    """Least and greatest value of each interval over the surviving positions: [B, H, intervals]."""
    if guard is None:
        return axis.reduce(np.minimum, values), axis.reduce(np.maximum, values)
    bound = np.inf if values.dtype.kind == "f" else _HIGH
    low = axis.reduce(np.minimum, np.where(guard, values, bound))
    return low, axis.reduce(np.maximum, np.where(guard, values, -bound))


def _transfer(f: Array, g: Array, p: Guard, r: Guard) -> tuple[Guard, Guard]:
    """What one guard says of the values of its side holds for the other, as they are equal."""
    if p is not None:
        low, high = _span(f, p)
        within = (g >= low) & (g <= high)
        r = within if r is None else r & within
    if r is not None:
        low, high = _span(g, r)
        within = (f >= low) & (f <= high)
        p = within if p is None else p & within
    return p, r


def _span(values: Array, guard: Array) -> tuple[Array, Array]:
    low = np.where(guard, values, _HIGH).min(-1, keepdims=True)
    return low, np.where(guard, values, -_HIGH).max(-1, keepdims=True)
