"""Regions as sums over boxes: the given index taken apart, or the repeats counted one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flexattn.analysis.closed.linear import Linear, linear
from flexattn.analysis.closed.pieces import Repeat
from flexattn.analysis.formulas.chambers import Chamber, Uncountable, minus, parameter, plus, times
from flexattn.analysis.formulas.regions import Region
from flexattn.analysis.formulas.sums import Axis, Box, Sums
from flexattn.ir.nodes import Apply, Const, Input, Node

OUTER, INNER = parameter("u"), parameter("v")
MOST_WIDTH = 64
"""Positions of a period that are counted one after another."""


@dataclass(frozen=True)
class Lengths:
    """Names of the lengths that the two indices run up to, in a chamber."""

    chamber: Chamber
    given: str
    solved: str


def region_total(region: Region, sizes: Lengths) -> Any:
    """How many pairs ``region`` keeps.

    Raises:
        Uncountable: No formula is found.
    """
    if region.repeat is not None:
        return _repeated(region, region.repeat, sizes)
    split, boxes, place = _taken_apart(region.atoms(), sizes)
    solved = _length(sizes, sizes.solved, split)
    lows = [place(x) for x in region.lows] + [Linear()]
    highs = [place(x) for x in region.highs] + [solved]
    needs = [place(x) for x in region.needs]
    sums = Sums(sizes.chamber)
    parts = [part for box in boxes for part in sums.where(needs, box)]
    return sum(sums.total(lows, highs, part) for part in parts)


def _taken_apart(atoms: Iterable[Node], sizes: Lengths) -> Any:
    """How the given index is split: (period, shift) or None, its boxes, and sums in terms of it.

    An index q is C u + v - c where quotients (q + c) // C occur, which are u then.
    """
    splits = {_division(atom) for atom in atoms} - {None}
    if not splits:
        length = times(parameter(sizes.given))
        return None, [(Axis(INNER, Linear(), length),)], _plain
    periods = {period for period, _ in splits}  # type: ignore[misc]
    period = periods.pop()
    shifts = {shift % period for _, shift in splits}  # type: ignore[misc]
    if periods or len(shifts) > 1:
        raise Uncountable("quotients by two numbers")
    shift = shifts.pop()
    place = lambda x: _split_sum(x, period, shift)  # noqa: E731
    return (period, shift), _boxes(sizes, period, shift), place


def _division(atom: Node) -> tuple[int, int] | None:
    """(C, c) of ``(q + c) // C`` and ``(q + c) % C``; None for the index and for numbers."""
    match atom:
        case Input(name) if name not in ("b", "h") and not name.startswith("size"):
            return None
        case Apply("floordiv" | "mod", (top, Const(period))) if period > 0:
            terms = linear(top).terms
            if [(_is_index(n), by) for n, by in terms.items()] == [(True, 1)]:
                return int(period), linear(top).constant
    raise Uncountable("something that is no sum of the index and of numbers")


def _is_index(node: Node) -> bool:
    return isinstance(node, Input) and node.name in ("q_idx", "kv_idx")


def _plain(x: Linear) -> Linear:
    return Linear({INNER if _is_index(n) else n: by for n, by in x.terms.items()}, x.constant)


def _split_sum(x: Linear, period: int, shift: int) -> Linear:
    found = Linear(constant=x.constant)
    for atom, by in x.terms.items():
        match atom:
            case Apply("floordiv", (top, _)):
                found = found.add(times(OUTER, 1, (linear(top).constant - shift) // period), by)
            case Apply("mod", _):
                found = found.add(times(INNER), by)
            case _ if _is_index(atom):
                found = found.add(times(OUTER, period, -shift).add(times(INNER)), by)
            case _:
                found = found.add(Linear({atom: 1}), by)
    return found


def _boxes(sizes: Lengths, period: int, shift: int) -> list[Box]:
    """All (u, v) of positions below the length: whole periods, and what is left at the ends."""
    chamber = sizes.chamber
    division = chamber.divide(sizes.given, period, shift)
    whole = times(division.quotient)
    rest = division.rest
    part = Linear(constant=rest) if isinstance(rest, int) else times(rest)
    every, zero = Linear(constant=period), Linear()
    if not shift:
        found = [_box((zero, whole), (zero, every))]
    elif chamber.hold(plus(whole, -1)):
        one = Linear(constant=1)
        found = [
            _box((zero, one), (Linear(constant=shift), every)),
            _box((one, whole), (zero, every)),
        ]
    else:  # all positions lie in the first period
        return [_box((zero, Linear(constant=1)), (Linear(constant=shift), part))]
    found.append(_box((whole, plus(whole, 1)), (zero, part)))
    return [box for box in found if not _is_empty(chamber, box)]


def _box(outer: tuple[Linear, Linear], inner: tuple[Linear, Linear]) -> Box:
    return Axis(OUTER, *outer), Axis(INNER, *inner)


def _is_empty(chamber: Chamber, box: Box) -> bool:
    """Whether it has no position; the formula relies on that."""
    spans = (minus(axis.high, axis.low) for axis in box)
    return any(chamber.value(size) <= 0 and chamber.hold(size.scale(-1)) for size in spans)


def _length(sizes: Lengths, name: str, split: tuple[int, int] | None) -> Linear:
    """A length, taken apart where the given index is."""
    if split is None:
        return times(parameter(name))
    period, shift = split
    return sizes.chamber.divide(name, period, shift if name == sizes.given else 0).linear()


# Repeats -----------------------------------------------------------------------------------------


def _repeated(region: Region, repeat: Repeat, sizes: Lengths) -> Any:
    """x = m y + z - s for every z of the period that is kept: sums over y of ranges of q."""
    period, begin, end = (_known(n) for n in (repeat.period, repeat.begin, repeat.end))
    if any(_division(atom) for atom in region.atoms()) or end - begin > MOST_WIDTH:
        raise Uncountable("a repeat of a range of quotients")
    shift = linear(repeat.shift)
    return sum(
        _repeated_one(region, period, plus(shift.scale(-1), z), sizes) for z in range(begin, end)
    )


def _repeated_one(region: Region, period: int, residue: Linear, sizes: Lengths) -> Any:
    """The pairs with x = ``period`` y + ``residue``, for any y."""
    given, solved = (
        sizes.chamber.divide(name, period, 0).linear() for name in (sizes.given, sizes.solved)
    )
    index = next((n for n in residue.terms if _is_index(n)), None)
    x = times(OUTER, period).add(residue)
    ends = [*(minus(x, low) for low in (*region.lows, Linear()))]
    ends += [plus(minus(high, x), -1) for high in (*region.highs, solved)]
    lows, highs, needs = [Linear()], [given], []
    for end in map(_plain, (*ends, *region.needs)):
        match end.terms.pop(INNER, 0):
            case 0:
                needs.append(end)
            case 1:
                lows.append(end.scale(-1))
            case -1:
                highs.append(plus(end, 1))
            case _:
                raise Uncountable("a multiple of the index")
    sums = Sums(sizes.chamber)
    slope = 0 if index is None else residue.terms.pop(index)
    box = _all_turns(given, solved, period, Turns(sizes.chamber, residue, slope))
    return sum(sums.total(lows, highs, part) for part in sums.where(needs, box))


@dataclass(frozen=True)
class Turns:
    """x = m y + ``slope`` q + ``residue``."""

    chamber: Chamber
    residue: Linear
    slope: int


def _all_turns(given: Linear, solved: Linear, period: int, turns: Turns) -> Box:
    """All y for which x may lie in [0, solved), for some q in [0, given); and a few more."""
    low, high = turns.residue.scale(-1), minus(solved, turns.residue)
    if turns.slope > 0:
        low = low.add(given, -turns.slope)
    else:
        high = high.add(given, -turns.slope)
    spare = 2 + abs(turns.slope)
    return (Axis(OUTER, *(_about(turns.chamber, x, period, by) for x, by in
                          ((low, -spare), (high, spare)))),)  # fmt: skip


def _about(chamber: Chamber, x: Linear, period: int, spare: int) -> Linear:
    """x / period, give or take: what is no multiple of the period must be small."""
    terms = {n: by // period for n, by in x.terms.items() if by % period == 0}
    rest = Linear({n: by for n, by in x.terms.items() if by % period})
    if None in chamber.ends(rest):
        raise Uncountable("a residue that is not known")
    return Linear(terms, x.constant // period + spare)


def _known(node: Node) -> int:
    if not isinstance(node, Const):
        raise Uncountable("a period that is not known")
    return int(node.value)
