"""How many pairs a closed form keeps, as a formula in N (and M): for causal, N (N + 1) / 2.

Counted are forms whose ends are sums of the given index, its quotients and remainders by one
number, and lifted numbers, and whose repeats have a known period. The count of a union is the
alternating sum of the counts of all intersections. Captures, b and h have no formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import sympy

from flexattn.analysis.closed.linear import Linear
from flexattn.analysis.closed.pieces import ClosedForm, Positive
from flexattn.analysis.formulas.chambers import (
    LONG,
    Chamber,
    Division,
    Key,
    Uncountable,
    in_lengths,
    is_met,
    parameter,
)
from flexattn.analysis.formulas.printers import as_latex, as_text
from flexattn.analysis.formulas.regions import Region, regions
from flexattn.analysis.formulas.sums import symbol
from flexattn.analysis.formulas.symbols import M, N
from flexattn.analysis.formulas.systems import Lengths, region_total
from flexattn.analysis.formulas.tidy import Vocabulary
from flexattn.ir.nodes import Input, Node

MOST_REGIONS = 6


@dataclass(frozen=True)
class Count:
    """A number of pairs as a formula.

    Attributes:
        expression: sympy expression in N, in M if the mask is not square, and in the numbers
            ``n_i`` whose values were not given.
        conditions: sympy relations under which it is exact.
        square: Whether M = N is one of them.
    """

    expression: Any
    conditions: tuple[Any, ...]
    square: bool
    _needs: Mapping[Key, int]
    _divisions: tuple[Division, ...]

    def at(self, N: int, M: int | None = None, **numbers: int) -> int | None:
        """The count for these lengths and numbers (``n_0=…``); None where the formula fails."""
        queries = N if M is None else M
        if self.square and queries != N:
            return None
        values: dict[Node, int] = {parameter("N"): N, parameter("M"): queries}
        values |= {parameter(name.replace("_", "")): value for name, value in numbers.items()}
        for division in self._divisions:
            length = values[parameter(division.length)] + division.shift
            values[division.quotient] = length // division.period
            rest = length % division.period
            if isinstance(division.rest, int):
                if rest != division.rest:
                    return None
            else:
                values[division.rest] = rest
        if not is_met(self._needs, values):
            return None
        symbols = {"N": N, "M": queries, **numbers}
        known = {sympy.Symbol(name, integer=True): value for name, value in symbols.items()}
        return int(self.expression.subs(known))

    def text(self) -> str:
        """``N·(N + 1)/2``, and the conditions, in Unicode."""
        return self._joined(partial(as_text, arranged=False), " if ")

    def latex(self) -> str:
        """The same as LaTeX for math mode."""
        return self._joined(partial(as_latex, arranged=False), r" \text{ if } ")

    def _joined(self, show: Any, word: str) -> str:
        shown = show(self.expression)
        return shown + (word + ", ".join(map(show, self.conditions)) if self.conditions else "")


def count_formula(
    form: ClosedForm,
    numbers: Mapping[str, int | float] | None = None,
    *,
    lengths: tuple[int, int] | None = None,
) -> Count | None:
    """How many pairs ``form`` keeps; None where no formula is found.

    Args:
        numbers: Values of lifted numbers by name (``n0``). The others stay symbols, which are
            taken to be positive and far less than the lengths.
        lengths: (M, N) at which the formula has to hold; elsewhere it may have another form.
            By default M = N, and long.
    """
    for pinned in (False, True):
        try:
            found = _count(form, numbers or {}, lengths, pinned)
        except Uncountable:
            continue
        if found is not None:
            return found
    return None


def flops_formula(count: Count, head_dim: int | None = None, *, backward: bool = False) -> Any:
    """Operations of one batch and head: 4 D per pair forward, 10 D backward; D is a symbol."""
    dim = sympy.Symbol("D", integer=True) if head_dim is None else sympy.Integer(head_dim)
    return (10 if backward else 4) * dim * count.expression


def _count(
    form: ClosedForm,
    numbers: Mapping[str, int | float],
    lengths: tuple[int, int] | None,
    pinned: bool,
) -> Count | None:
    """With remainders of lengths as parameters, or pinned at their samples; None if they may
    not be parameters."""
    square = lengths is None or lengths[0] == lengths[1]
    queries, keys = lengths or (LONG, LONG)
    samples: dict[Node, int] = {parameter("M"): queries, parameter("N"): keys}
    chamber = Chamber(samples, pinned, lengths is None)
    chamber.bounds |= dict.fromkeys(chamber.sample, (1, 1 << 62))
    of = {"q_idx": "N" if square else "M", "kv_idx": "N"}
    for need in form.requires:
        if isinstance(need, Positive):
            chamber.bounds[need.node] = (1, 1 << 62)
    words = Vocabulary(numbers)
    found = regions(form, words)
    if len(found) > MOST_REGIONS:
        raise Uncountable("many ranges")
    unknown = sorted({node.name for region in found for node in region.numbers()})
    scale = max(1, min(queries, keys) >> 20)
    samples |= {parameter(name): scale * i for i, name in enumerate(unknown, 1)}
    total = sympy.Integer(0)
    sizes = Lengths(chamber, of[form.given], of[form.solved])
    for size in range(1, len(found) + 1):
        for chosen in combinations(found, size):
            both = Region.common(chosen)
            if both is not None:
                total += (-1) ** (size + 1) * region_total(both, sizes)
    if chamber.relies_on_rests() and not pinned:
        return None
    return _told(chamber, total, square)


def _told(chamber: Chamber, total: Any, square: bool) -> Count:
    """The formula in lengths instead of quotients and remainders."""
    put: dict[Any, Any] = {}
    divisions = tuple(chamber.divisions.values())
    notes = {}
    for division in divisions:
        length = sympy.Symbol(division.length, integer=True)
        shifted, period = length + division.shift, sympy.Integer(division.period)
        rest = sympy.Mod(shifted, period, evaluate=False)
        if isinstance(division.rest, int):
            put[symbol(division.quotient)] = (shifted - division.rest) / period
            left = (division.rest - division.shift) % division.period
            plain = sympy.Mod(length, period, evaluate=False)
            notes[plain] = sympy.Eq(plain, left, evaluate=False)
        else:
            put[symbol(division.quotient)] = sympy.floor(shifted / period, evaluate=False)
            put[symbol(division.rest)] = rest
    for node in chamber.sample:
        if isinstance(node, Input) and node.name[0] == "n":
            put[symbol(node)] = sympy.Symbol(f"n_{node.name[1:]}", integer=True)
    relations = [_relation(need).xreplace(put) for need in in_lengths(chamber)]
    shown = sympy.sympify(_arranged(sympy.sympify(total).xreplace(put)))
    return Count(shown, (*notes.values(), *relations), square, chamber.conditions, divisions)


def _relation(need: Linear) -> Any:
    """``N >= n_0 - 1``: what is added on the left, the rest on the right."""
    left = sympy.Add(*(by * symbol(node) for node, by in need.terms.items() if by > 0))
    right = sympy.Add(*(-by * symbol(node) for node, by in need.terms.items() if by < 0))
    if left == 0:
        return sympy.Le(right, need.constant, evaluate=False)
    return sympy.Ge(left, right - need.constant, evaluate=False)


def _arranged(total: Any) -> Any:
    """As one product, or by powers of the lengths with factors in factored form."""
    total = sympy.expand(total)
    if total.has(sympy.floor, sympy.Mod) or total.is_number:
        return total
    whole = sympy.factor(total)
    if whole.is_Mul and sympy.Poly(total, N, M).total_degree() > 1:
        return whole
    parts = sympy.collect(total, [N, M], evaluate=False)
    return sum(power * sympy.factor(by) for power, by in parts.items())
