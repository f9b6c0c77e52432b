"""The truth of a condition on every tile, from the conditions it is made of.

A condition is taken apart into conjuncts (an or is a failed and). Those of q alone become one, so
do those of kv alone and those of the distance; what is left is proved one by one, the first two
guarding it. Whatever has no rule is unknown, which is never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flexattn.analysis.tiles.bounds import Bounds
from flexattn.analysis.tiles.compare import compare
from flexattn.analysis.tiles.facts import Facts
from flexattn.analysis.tiles.forms import KV, Q
from flexattn.analysis.tiles.frame import Frame
from flexattn.analysis.tiles.lines import Line
from flexattn.analysis.tiles.rewrites import OPPOSITE, Signed, conjuncts, is_disjunction
from flexattn.analysis.tiles.tables import of_table
from flexattn.analysis.tiles.truth import (
    ALWAYS,
    NEVER,
    UNKNOWN,
    Truth,
    exact,
    meet,
    union,
)
from flexattn.analysis.tiles.values import UnknownNode
from flexattn.ir.nodes import FLOATS, INTS, Apply, Const, Load, Node

T = TypeVar("T")


@dataclass
class Group:
    """Conjuncts by what they depend on."""

    row: list[Signed] = field(default_factory=list)
    col: list[Signed] = field(default_factory=list)
    distance: list[Signed] = field(default_factory=list)
    other: list[Signed] = field(default_factory=list)


class Prover:
    """Truths on the tiles of one frame.

    Attributes:
        leaves: (rule, truth) of every condition that a rule was asked about, for reports.
    """

    def __init__(self, facts: Facts, frame: Frame) -> None:
        self.facts, self.frame = facts, frame
        self.bounds = Bounds(facts, frame, lambda node: self.truth(node, True))
        self.leaves: list[tuple[str, Truth]] = []
        self._known: dict[Signed, Truth] = {}

    def truth(self, node: Node, holds: bool) -> Truth:
        """The truth of ``node`` being ``holds``."""
        key = node, holds
        if key not in self._known:
            opposite = self._known.get((node, not holds))
            self._known[key] = self._find(node, holds) if opposite is None else opposite.negate()
        return self._known[key]

    def _find(self, node: Node, holds: bool) -> Truth:
        if isinstance(node, Const):
            return ALWAYS if bool(node.value) == holds else NEVER
        plans = self.facts.plans
        key = node, holds
        if key not in plans:
            plans[key] = self._grouped(list(conjuncts(node, holds, self._is_whole)))
        return self._all(plans[key])

    def _is_whole(self, node: Node) -> bool:
        forms = self.facts.forms
        return not {Q, KV} <= forms.reads(node) or forms.of_distance(node)

    def _all(self, group: Group) -> Truth:
        """The truth of all parts of ``group`` together."""
        facts, unknown = self.facts, list[Truth]()
        p = self._joint(group.row, lambda part: facts.joint(0, part, self.frame.q), unknown)
        r = self._joint(group.col, lambda part: facts.joint(1, part, self.frame.kv), unknown)
        d = self._joint(
            group.distance, lambda part: facts.distances(part).truth(self.frame), unknown
        )
        alone = len(group.other) + len(group.distance) == 1 and not unknown
        found = [] if d is None else [self._note("distance", d)]
        literals = [item for item in group.other if _is_comparison(item[0])]
        found += [self._leaf(item) for item in group.other]
        pairs = self._independent(p, r)
        truth = self._combine(pairs, [*found, *unknown])
        if p is None and r is None:
            return truth
        for item in [*literals, *group.distance]:
            truth = self._guarded(truth, item, (p, r), alone=alone)
        return truth

    def _grouped(self, parts: list[Signed]) -> Group:
        group = Group()
        for item in parts:
            reads = self.facts.forms.reads(item[0])
            if KV not in reads:
                group.row.append(item)
            elif Q not in reads:
                group.col.append(item)
            elif self.facts.forms.of_distance(item[0]):
                group.distance.append(item)
            else:
                group.other.append(item)
        return group

    def _joint(
        self, items: list[Signed], ask: Callable[[list[Signed]], T], unknown: list[Truth]
    ) -> T | None:
        """What ``ask`` says of all of ``items`` but those without values; None if none is left."""
        if not items:
            return None
        try:
            return ask(items)
        except UnknownNode:
            known = [item for item in items if _is_answered(ask, item)]
        unknown += [UNKNOWN] * (len(items) - len(known))
        # What is known one by one may be too much at once; then nothing is said of it.
        if len(known) < len(items):
            return self._joint(known, ask, unknown)
        unknown += [UNKNOWN] * len(items)
        return None

    def _independent(self, p: Line | None, r: Line | None) -> Truth:
        """The truth of p(q) & r(kv): they choose their positions freely, so it is exact."""
        truth = ALWAYS
        for rule, guard, axis, place in (
            ("row", p, self.frame.q, self.frame.rows),
            ("col", r, self.frame.kv, self.frame.cols),
        ):
            if guard is not None:
                all_, some = map(place, guard.extremes(axis))
                one = self._note(rule, exact(some, ~all_))
                truth = one if truth is ALWAYS else exact(truth[0] & one[0], truth[1] | one[1])
        return truth

    def _combine(self, pairs: Truth, others: list[Truth]) -> Truth:
        """All together: where at most one of them is not proved full, that one decides."""
        truths = [pairs, *others] if pairs is not ALWAYS else others
        if not truths:
            return ALWAYS
        if len(truths) == 1:
            return truths[0]
        may = meet(t.may for t in truths)
        may_not = union(t.may_not for t in truths)
        some_not = union(t.some_not for t in truths)
        certain = []
        for i, one in enumerate(truths):
            rest = union(t.may_not for j, t in enumerate(truths) if j != i)
            certain.append(one.some & ~rest)
        return Truth(may, may_not, union(certain), some_not)

    def _guarded(
        self, truth: Truth, item: Signed, guards: tuple[Line | None, Line | None], *, alone: bool
    ) -> Truth:
        """``truth`` with what is known of one comparison where p(q) and r(kv) hold."""
        node, holds = item
        if not isinstance(node, Apply) or node.op not in OPPOSITE:
            return truth
        try:
            sides = self._sides(node)
            if sides is None:
                return truth
            op = node.op if holds else OPPOSITE[node.op]
            here = self._note("guard", compare(op, sides, self.facts, self.frame, guards))
        except UnknownNode:
            return truth
        some = truth.some | here.some if alone else truth.some
        return truth._replace(may=truth.may & here.may, some=some)

    def _leaf(self, item: Signed) -> Truth:
        node, holds = item
        if is_disjunction(node, holds):
            return self.truth(node, not holds).negate()
        try:
            found = self._rule(node)
        except UnknownNode:
            return UNKNOWN
        return found if holds else found.negate()

    def _rule(self, node: Node) -> Truth:
        """A condition that holds, by the first rule that knows its form."""
        if isinstance(node, Load):
            return self._note("table", of_table(node, self.facts, self.frame))
        if not isinstance(node, Apply) or node.op not in OPPOSITE:
            raise UnknownNode(type(node).__name__)
        sides = self._sides(node)
        if sides is not None:
            rule = "equality" if node.op in ("eq", "ne") else "order"
            return self._note(rule, compare(node.op, sides, self.facts, self.frame))
        if node.args[0].dtype not in INTS:
            raise UnknownNode("floats of both positions")
        return self._note("bounds", self.bounds.compare(node.op, *node.args))

    def _sides(self, node: Apply) -> tuple[Line, Line] | None:
        """f(q) and g(kv) such that the comparison is between them, in its order."""
        a, b = node.args
        forms = self.facts.forms
        if a.dtype in FLOATS and KV not in forms.reads(a) and Q not in forms.reads(b):
            return self.facts.row(a), self.facts.col(b)
        x, y = forms.separate(a), forms.separate(b)
        return None if x is None or y is None else self.facts.sides(x.add(y.scale(-1)))

    def _note(self, rule: str, truth: Truth) -> Truth:
        self.leaves.append((rule, truth))
        return truth


def _is_answered(ask: Callable[[list[Signed]], object], item: Signed) -> bool:
    try:
        ask([item])
    except UnknownNode:
        return False
    return True


def _is_comparison(node: Node) -> bool:
    return isinstance(node, Apply) and node.op in OPPOSITE
