"""Pieces put together: what two unions have in common, and one union with few pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexattn.analysis.closed.linear import Linear, both, greatest, least, linear, plus
from flexattn.analysis.closed.pieces import (
    BEGIN,
    END,
    Piece,
    Positive,
    Repeat,
    Requirement,
    Unsolved,
)
from flexattn.ir.nodes import Input, Node

MOST = 12
"""Pieces of a union; a mask that needs more has no closed form."""


def intersect(first: Sequence[Piece], second: Sequence[Piece]) -> list[Piece]:
    """What two unions have in common."""
    found = [_common(one, other) for one in first for other in second]
    return few([piece for piece in found if not _is_empty(piece)])


def few(pieces: list[Piece]) -> list[Piece]:
    """``pieces``, each once, if there are not too many."""
    found = list(dict.fromkeys(pieces))
    if len(found) > MOST:
        raise Unsolved("too many pieces")
    return found


def unite(pieces: list[Piece], requires: dict[Requirement, None]) -> list[Piece]:
    """An equal union with fewer pieces; adds to ``requires`` what that relies on."""
    found = list(pieces)
    merged = True
    while merged:
        merged = False
        for i, one in enumerate(found):
            for j, other in enumerate(found):
                if i == j:
                    continue
                joined = _joined(one, other, requires)
                if joined is not None:
                    found = [joined, *(p for n, p in enumerate(found) if n not in (i, j))]
                    merged = True
                    break
            if merged:
                break
    return found


def _common(one: Piece, other: Piece) -> Piece:
    low = one.low if other.low is BEGIN else other.low if one.low is BEGIN else None
    high = one.high if other.high is END else other.high if one.high is END else None
    return Piece(
        greatest(one.low, other.low) if low is None else low,
        least(one.high, other.high) if high is None else high,
        _common_repeat(one.repeat, other.repeat),
        both(one.when, other.when),
    )


def _common_repeat(one: Repeat | None, other: Repeat | None) -> Repeat | None:
    if one is None or other is None or one == other:
        return one or other
    if one.period is not other.period or one.shift is not other.shift:
        raise Unsolved("two conditions that repeat")
    return replace(one, begin=greatest(one.begin, other.begin), end=least(one.end, other.end))


def _is_empty(piece: Piece) -> bool:
    gap = _gap(piece.low, piece.high)
    return not gap.terms and gap.constant <= 0


def _gap(low: Node, high: Node) -> Linear:
    return linear(high).add(linear(low), -1)


def _joined(one: Piece, other: Piece, requires: dict[Requirement, None]) -> Piece | None:
    """One piece for both, if there is one."""
    if one.when is not other.when or one.repeat != other.repeat:
        return None
    if one.low is other.low:
        high = END if END in (one.high, other.high) else greatest(one.high, other.high)
        return replace(one, high=high)
    if one.high is other.high:
        low = BEGIN if BEGIN in (one.low, other.low) else least(one.low, other.low)
        return replace(one, low=low)
    before, after = _gap(other.low, one.low), _gap(one.high, other.high)
    if not before.terms and not after.terms and before.constant >= 0 and after.constant >= 0:
        return other  # one lies inside it
    if _gap(one.high, other.low) == Linear():
        # Neighbours. Were one of them reversed, the union would not be from low to high.
        sizes = [_gap(one.low, one.high), _gap(other.low, other.high)]
        needed = (
            [] if all(map(_is_sure, sizes)) else [_condition(s) for s in sizes if not _is_sure(s)]
        )
        if None not in needed:
            requires.update(dict.fromkeys(n for n in needed if n is not None))
            return replace(one, high=other.high)
    return None


def _is_sure(size: Linear) -> bool:
    """Whether a sum is never negative: a position plus something that is not."""
    positions = all(isinstance(a, Input) and a.name.endswith("_idx") for a in size.terms)
    return positions and size.constant >= 0 and all(by > 0 for by in size.terms.values())


def _condition(size: Linear) -> Requirement | None:
    """That a sum of numbers is not negative."""
    numbers = all(isinstance(a, Input) and a.name[0] == "n" for a in size.terms)
    return Positive(plus(size.node(), 1)) if numbers else None
