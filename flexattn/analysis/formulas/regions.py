"""Closed forms as unions of simple ranges: greatest of sums to least of sums, under conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from flexattn.analysis.closed.linear import Linear, linear
from flexattn.analysis.closed.pieces import END, ClosedForm, Repeat
from flexattn.analysis.formulas.chambers import Uncountable, minus, plus
from flexattn.analysis.formulas.tidy import Vocabulary, residue, tidy
from flexattn.ir.nodes import I64, INTS, Apply, Const, Input, Node

MOST_ENDS = 8


@dataclass(frozen=True, eq=False)
class Region:
    """The solved index from the greatest of ``lows`` to below the least of ``highs``.

    Attributes:
        lows: Sums of atoms: the given index, its quotients and remainders, numbers.
        highs: The same.
        needs: Sums of the same atoms that must be 0 or more.
        repeat: What is left of the range.
    """

    lows: tuple[Linear, ...]
    highs: tuple[Linear, ...]
    needs: tuple[Linear, ...] = ()
    repeat: Repeat | None = None

    @staticmethod
    def common(several: Sequence[Region]) -> Region | None:
        """What regions have in common.

        Raises:
            Uncountable: They repeat in different ways.
        """
        repeats = {region.repeat for region in several} - {None}
        if len(repeats) > 1:
            raise Uncountable("two repeats")
        return Region(
            _distinct(x for region in several for x in region.lows),
            _distinct(x for region in several for x in region.highs),
            _distinct(x for region in several for x in region.needs),
            next(iter(repeats), None),
        )

    def atoms(self) -> Iterator[Node]:
        """All atoms of its sums."""
        for x in (*self.lows, *self.highs, *self.needs):
            yield from x.terms
        if self.repeat is not None:
            yield from linear(self.repeat.shift).terms

    def numbers(self) -> set[Input]:
        """The lifted numbers it reads."""
        return {n for n in self.atoms() if isinstance(n, Input) and n.name[1:].isdigit()}


def regions(form: ClosedForm, words: Vocabulary) -> list[Region]:
    """The regions whose union ``form`` is.

    Raises:
        Uncountable: It reads captures, or is of a shape that has no formula.
    """
    found = []
    for piece in form.pieces:
        lows = _alternatives(tidy(piece.low, words), "maximum", "minimum")
        highs = _alternatives(tidy(piece.high, words), "minimum", "maximum")
        needs = [[]] if piece.when is None else _needs(tidy(piece.when, words), True)
        repeat = None if piece.repeat is None else _repeat(piece.repeat, words)
        for low, high, need in product(lows, highs, needs):
            found.append(Region(tuple(low), _ended(high), tuple(need), repeat))
    return found


def _ended(highs: list[Linear]) -> tuple[Linear, ...]:
    """Without those that no length reaches."""
    assert isinstance(END, Const)
    end = END.value // 2
    return tuple(x for x in highs if x.terms or x.constant < end)


def _alternatives(node: Node, joins: str, parts: str) -> list[list[Linear]]:
    """An end as a union (of ``parts``) of lists of ends that hold together (``joins``)."""
    whole = linear(node)
    for atom, by in whole.terms.items():
        if isinstance(atom, Apply) and atom.op in (joins, parts):
            rest = Linear({n: f for n, f in whole.terms.items() if n is not atom}, whole.constant)
            ends = [rest.add(linear(arg), by).node() for arg in atom.args]
            first, second = (_alternatives(end, joins, parts) for end in ends)
            if (atom.op == joins) == (by > 0):
                found = [[*a, *b] for a, b in product(first, second)]
            else:
                found = [*first, *second]
            if len(found) > MOST_ENDS:
                raise Uncountable("many ends")
            return found
    return [[whole]]


_LESS = {  # a op b as differences that are 0 or more, all of one list at once
    "lt": lambda a, b: [[plus(minus(b, a), -1)]],
    "le": lambda a, b: [[minus(b, a)]],
    "gt": lambda a, b: [[plus(minus(a, b), -1)]],
    "ge": lambda a, b: [[minus(a, b)]],
    "eq": lambda a, b: [[minus(a, b), minus(b, a)]],
    "ne": lambda a, b: [[plus(minus(a, b), -1)], [plus(minus(b, a), -1)]],
}
_NOT = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def _needs(node: Node, holds: bool) -> list[list[Linear]]:
    """A condition as alternatives of sums that must all be 0 or more."""
    match node:
        case Const(value):
            return [[]] if bool(value) == holds else []
        case Apply("not", (a,)):
            return _needs(a, not holds)
        case Apply("and" | "or" as op, (a, b)):
            first, second = _needs(a, holds), _needs(b, holds)
            if (op == "and") == holds:
                return [[*x, *y] for x, y in product(first, second)]
            return [*first, *second]
        case Apply(op, (a, b)) if op in _LESS and a.dtype in INTS:
            return _LESS[op if holds else _NOT[op]](linear(a), linear(b))
    raise Uncountable("a condition that compares no sums")


def _repeat(repeat: Repeat, words: Vocabulary) -> Repeat:
    """An equal repeat that begins with remainder 0."""
    period, shift, begin, end = (
        tidy(node, words) for node in (repeat.period, repeat.shift, repeat.begin, repeat.end)
    )
    shift = residue(minus(linear(shift), linear(begin)).node(), period)
    return Repeat(period, shift, Const(0, I64), minus(linear(end), linear(begin)).node())


def _distinct(sums: Iterator[Linear]) -> tuple[Linear, ...]:
    """Each once: equal terms and constants."""
    found = {(frozenset(x.terms.items()), x.constant): x for x in sums}
    return tuple(found.values())
