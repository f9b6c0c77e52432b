"""Sums of lengths and numbers, compared at one sample; what that relies on is remembered.

A formula that counts pairs is a polynomial as long as no comparison of its parameters changes.
So each comparison is decided by sample values, and noted as a condition under which the formula
holds: it is exact wherever the conditions are met, whatever the sample was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import TypeAlias

from flexattn.analysis.closed.linear import Linear
from flexattn.ir.nodes import I64, Input, Node

Key: TypeAlias = tuple[tuple[Node, int], ...]

LONG = 1 << 40
"""Sample of a length of which nothing is known."""

MOST_TURNS = 4
"""Values that a quotient of remainders may take."""


class Uncountable(Exception):
    """No formula is found."""


def parameter(name: str) -> Input:
    """A length or number by name."""
    return Input(name, I64)


def times(node: Node, by: int = 1, constant: int = 0) -> Linear:
    """``by * node + constant``."""
    return Linear({node: by} if by else {}, constant)


def minus(a: Linear, b: Linear) -> Linear:
    """``a - b``."""
    return a.add(b, -1)


def plus(a: Linear, constant: int) -> Linear:
    """``a + constant``."""
    return a.add(Linear(constant=constant))


@dataclass(frozen=True)
class Division:
    """A length as ``period * quotient + rest - shift``, 0 <= rest < period.

    Attributes:
        rest: A parameter, or the known value.
    """

    length: str
    period: int
    shift: int
    quotient: Node
    rest: Node | int

    def linear(self) -> Linear:
        """The length in these parameters."""
        rest = Linear(constant=self.rest) if isinstance(self.rest, int) else times(self.rest)
        return plus(times(self.quotient, self.period).add(rest), -self.shift)


@dataclass
class Chamber:
    """Where a formula holds.

    Attributes:
        sample: Values by which comparisons are decided.
        pinned: Whether remainders of lengths are fixed: at their samples, or, where the lengths
            are only known to be long, as those of multiples.
        long: Whether the samples of the lengths stand for any that are long.
        bounds: Least and greatest value of parameters that have such.
        conditions: For a sum without its constant, the least constant seen: the two together
            must be 0 or more.
        divisions: Of lengths, by length, period and shift.
    """

    sample: dict[Node, int]
    pinned: bool = False
    long: bool = False
    bounds: dict[Node, tuple[int, int]] = field(default_factory=dict)
    conditions: dict[Key, int] = field(default_factory=dict)
    divisions: dict[tuple[str, int, int], Division] = field(default_factory=dict)

    def divide(self, length: str, period: int, shift: int) -> Division:
        """``length + shift`` by ``period``, 0 <= shift < period."""
        key = (length, period, shift)
        if key not in self.divisions:
            value = self.sample[parameter(length)] + shift
            quotient = parameter(f"U:{length}:{period}:{shift}")
            rest = parameter(f"R:{length}:{period}:{shift}")
            left = value % period
            if self.long:
                left = shift if self.pinned else period // 2
            self.sample |= {quotient: value // period, rest: left}
            self.bounds[rest] = (0, period - 1)
            self.divisions[key] = Division(*key, quotient, left if self.pinned else rest)
        return self.divisions[key]

    def value(self, x: Linear) -> int:
        """``x`` at the sample."""
        return x.constant + sum(by * self.sample[node] for node, by in x.terms.items())

    def hold(self, x: Linear) -> bool:
        """Whether x >= 0, which the formula relies on from now on."""
        found = self.value(x) >= 0
        need = x if found else plus(x.scale(-1), -1)
        low, _ = self.ends(need)
        if low is None or low < 0:
            key = tuple(sorted(need.terms.items(), key=lambda term: _name(term[0])))
            self.conditions[key] = min(need.constant, self.conditions.get(key, need.constant))
        return found

    def ends(self, x: Linear) -> tuple[int | None, int | None]:
        """The least and the greatest value of ``x`` that bounds alone allow."""
        ends: list[int | None] = [x.constant, x.constant]
        for node, by in x.terms.items():
            low, high = self.bounds.get(node, (None, None))
            if low is None and _name(node).startswith("U:"):
                low = 0
            for i, end in enumerate((low, high) if by > 0 else (high, low)):
                whole = ends[i]
                ends[i] = None if end is None or whole is None else whole + by * end
        return ends[0], ends[1]

    def floor(self, x: Linear, by: int) -> Linear:
        """``x / by`` rounded down; by is positive.

        Raises:
            Uncountable: It is no sum of parameters.
        """
        whole = {node: factor // by for node, factor in x.terms.items() if factor % by == 0}
        rest = {node: factor for node, factor in x.terms.items() if factor % by}
        left = Linear(rest, x.constant)
        low, high = self.ends(left)
        if low is None or high is None or high - low > MOST_TURNS * by:
            raise Uncountable("a length divided by a number")
        quotient = self.value(left) // by
        if low // by != high // by:
            self.hold(plus(left, -quotient * by))
            self.hold(minus(Linear(constant=quotient * by + by - 1), left))
        return Linear({node: n for node, n in whole.items() if n}, quotient)

    def relies_on_rests(self) -> bool:
        """Whether a condition speaks of the remainder of a length."""
        return any(_name(node).startswith("R:") for key in self.conditions for node, _ in key)


def _name(node: Node) -> str:
    assert isinstance(node, Input)
    return node.name


def is_met(conditions: Mapping[Key, int], values: Mapping[Node, int]) -> bool:
    """Whether all conditions hold for ``values``."""
    return all(
        constant + sum(by * values[node] for node, by in key) >= 0
        for key, constant in conditions.items()
    )


def in_lengths(chamber: Chamber) -> list[Linear]:
    """The conditions of ``chamber`` in lengths where they can be, each once, the strongest."""
    known = {division.quotient: division for division in chamber.divisions.values()}
    strongest: dict[Key, int] = {}
    for key, constant in chamber.conditions.items():
        need = Linear(dict(key), constant)
        for quotient in [node for node in need.terms if node in known]:
            need = _without(need, quotient, known[quotient])
        factor = gcd(*need.terms.values())
        terms = [(node, by // factor) for node, by in need.terms.items()]
        key = tuple(sorted(terms, key=lambda term: _name(term[0])))
        constant = need.constant // factor
        strongest[key] = min(constant, strongest.get(key, constant))
    needs = [Linear(dict(key), constant) for key, constant in strongest.items()]
    return [need for need in needs if (chamber.ends(need)[0] or -1) < 0]


def _without(need: Linear, quotient: Node, division: Division) -> Linear:
    """An equal condition that speaks of the length instead of its quotient, if there is one."""
    by, length, period = need.terms[quotient], parameter(division.length), division.period
    rest = Linear({n: f for n, f in need.terms.items() if n is not quotient}, need.constant)
    if isinstance(division.rest, int):
        return rest.scale(period).add(times(length, 1, division.shift - division.rest), by)
    if rest.terms:
        return need
    if by > 0:  # quotient >= least
        least = -(rest.constant // by)
        return times(length, 1, division.shift - least * period)
    most = rest.constant // -by
    return times(length, -1, (most + 1) * period - 1 - division.shift)
