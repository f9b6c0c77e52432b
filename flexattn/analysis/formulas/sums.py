"""Sums of ``max(0, min(highs) - max(lows))`` over boxes of positions, as polynomials.

All ends are sums of the box's variables and of parameters. A box is cut where a comparison
changes, until in each part one low and one high count; there the sum is elementary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import sympy

from flexattn.analysis.closed.linear import Linear
from flexattn.analysis.formulas.chambers import Chamber, Uncountable, minus, plus
from flexattn.ir.nodes import Input, Node

MOST_SINGLE = 8
"""Values of a variable that are treated one by one, where a comparison mixes two variables."""


@dataclass(frozen=True, eq=False)
class Axis:
    """A variable that takes the values ``low <= variable < high``."""

    variable: Node
    low: Linear
    high: Linear

    @property
    def single(self) -> bool:
        """Whether it has one value, ``low``."""
        size = minus(self.high, self.low)
        return not size.terms and size.constant == 1


Box = tuple[Axis, ...]


@dataclass(frozen=True)
class Sums:
    """Sums over boxes, in one chamber."""

    chamber: Chamber

    def total(self, lows: Sequence[Linear], highs: Sequence[Linear], box: Box) -> Any:
        """The sum over ``box`` of the numbers of integers x with lows <= x < highs."""
        if len(lows) > 1:
            first, second, *others = lows
            return sum(
                self.total([first if above else second, *others], highs, part)
                for part, above in self.split(minus(first, second), box, ties=True)
            )
        if len(highs) > 1:
            first, second, *others = highs
            return sum(
                self.total(lows, [second if above else first, *others], part)
                for part, above in self.split(minus(first, second), box, ties=True)
            )
        size = minus(highs[0], lows[0])
        parts = self.split(size, box, ties=True)
        return sum(elementary(size, part) for part, some in parts if some)

    def where(self, needs: Sequence[Linear], box: Box) -> list[Box]:
        """The parts of ``box`` where all ``needs`` are 0 or more."""
        parts = [box]
        for need in needs:
            parts = [cut for part in parts for cut, holds in self.split(need, part) if holds]
        return parts

    def split(self, x: Linear, box: Box, *, ties: bool = False) -> list[tuple[Box, bool]]:
        """``box`` in parts, each with whether x >= 0 in it; with ``ties``, x = 0 may be either."""
        chamber = self.chamber
        for axis in box:
            if axis.single and axis.variable in x.terms:
                x = _put(x, axis.variable, axis.low)
        axes = [axis for axis in box if axis.variable in x.terms]
        least, greatest = _ends(x, axes)
        if chamber.value(least) >= 0:
            return [(box, chamber.hold(least))]
        if ties and chamber.value(greatest) <= 0:
            return [(box, not chamber.hold(greatest.scale(-1)))]
        if chamber.value(greatest) < 0:
            return [(box, chamber.hold(greatest))]
        if len(axes) == 1:
            return self._cut(x, axes[0], box)
        if x.terms[axes[0].variable] < 0:
            return [(part, not holds) for part, holds in self.split(plus(x.scale(-1), -1), box)]
        return self._cut_mixed(x, axes, box)

    def _cut(self, x: Linear, axis: Axis, box: Box) -> list[tuple[Box, bool]]:
        """At the one value of an axis where x changes its sign."""
        by = x.terms[axis.variable]
        rest = _put(x, axis.variable, Linear())
        if by > 0:  # x >= 0 from -rest / by on, rounded up
            at = self.chamber.floor(plus(rest.scale(-1), by - 1), by)
        else:
            at = plus(self.chamber.floor(rest, -by), 1)
        return [(part, (by > 0) == above) for part, above in self._parts(axis, [at], box)]

    def _cut_mixed(self, x: Linear, axes: list[Axis], box: Box) -> list[tuple[Box, bool]]:
        """Along the first axis: below, above, and one by one where the second matters."""
        axis = axes[0]
        by = x.terms[axis.variable]
        least, greatest = _ends(_put(x, axis.variable, Linear()), axes[1:])
        first, last = (
            self.chamber.floor(plus(end.scale(-1), by - 1), by) for end in (greatest, least)
        )
        middle = minus(last, first)
        if middle.terms or middle.constant > MOST_SINGLE:
            raise Uncountable("a comparison of two variables")
        cuts = [plus(first, i) for i in range(middle.constant + 1)]
        hold = self.chamber.hold
        inside = [
            cut
            for cut in cuts
            if hold(plus(minus(cut, axis.low), -1)) and hold(plus(minus(axis.high, cut), -1))
        ]
        if not inside:
            return self.split(x, self._pin(axis, box))
        found = []
        for part, _ in self._parts(axis, inside, box):
            found += self.split(x, part)
        return found

    def _pin(self, axis: Axis, box: Box) -> Box:
        """``box`` with the one value that ``axis`` has at the sample as its only one."""
        size = minus(axis.high, axis.low)
        if self.chamber.value(size) != 1:
            raise Uncountable("a comparison of two variables")
        self.chamber.hold(plus(size, -1))
        self.chamber.hold(plus(size.scale(-1), 1))
        single = replace(axis, high=plus(axis.low, 1))
        return tuple(single if other is axis else other for other in box)

    def _parts(self, axis: Axis, cuts: Sequence[Linear], box: Box) -> list[tuple[Box, bool]]:
        """``box`` cut along ``axis``, each part with whether it is the last."""
        ends = [axis.low, *cuts, axis.high]
        for low, high in pairwise(ends):
            if not self.chamber.hold(minus(high, low)):
                raise Uncountable("a cut outside its box")
        at = box.index(axis)
        found = []
        for i, (low, high) in enumerate(pairwise(ends)):
            cut = replace(axis, low=low, high=high)
            found.append(((*box[:at], cut, *box[at + 1 :]), i == len(cuts)))
        return found


def elementary(x: Linear, box: Box) -> Any:
    """The sum of x over ``box``, a polynomial in symbols named as the parameters."""
    sizes = {axis.variable: symbolic(axis.high) - symbolic(axis.low) for axis in box}
    count = sympy.prod(sizes.values())
    variables = {axis.variable: axis for axis in box}
    rest = Linear({n: by for n, by in x.terms.items() if n not in variables}, x.constant)
    whole = symbolic(rest) * count
    for variable, axis in variables.items():
        by = x.terms.get(variable, 0)
        if by:
            low, high = symbolic(axis.low), symbolic(axis.high)
            others = sympy.prod(size for v, size in sizes.items() if v is not variable)
            # 0 + 1 + … + (n - 1) is n (n - 1) / 2
            whole += by * others * (high * (high - 1) - low * (low - 1)) / 2
    return sympy.expand(whole)


def symbolic(x: Linear) -> Any:
    """A sum of parameters as a sympy expression."""
    terms = [by * symbol(node) for node, by in x.terms.items()]
    return sympy.Add(sympy.Integer(x.constant), *terms)


def symbol(node: Node) -> Any:
    """The symbol of a parameter."""
    assert isinstance(node, Input)
    return sympy.Symbol(node.name, integer=True)


def _put(x: Linear, variable: Node, value: Linear) -> Linear:
    rest = Linear({n: by for n, by in x.terms.items() if n is not variable}, x.constant)
    return rest.add(value, x.terms[variable])


def _ends(x: Linear, axes: Sequence[Axis]) -> tuple[Linear, Linear]:
    """The least and the greatest value of x over ``axes``."""
    least = greatest = x
    for axis in axes:
        ends = (axis.low, plus(axis.high, -1))
        if x.terms[axis.variable] < 0:
            ends = ends[::-1]
        least, greatest = (_put(y, axis.variable, end) for y, end in zip((least, greatest), ends))
    return least, greatest
