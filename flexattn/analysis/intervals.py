"""The interval of a node where something is known to hold: under a ``where``, behind a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flexattn.ir.nodes import BOOL, Apply, Const, Node
from flexattn.ir.program import CaptureType
from flexattn.ir.ranges import Range, node_range

_WIDE = 1 << 61

# (whether the first argument is the lower one, how far apart they are at least)
_ORDER = {"lt": (True, 1), "le": (True, 0), "gt": (False, 1), "ge": (False, 0)}
_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


class Scope:
    """Intervals of nodes at the positions where a set of conditions holds.

    Args:
        inputs: Ranges of the inputs by name.
        captures: Storage types, for what is loaded.
        facts: Narrower intervals of some nodes, from the conditions.

    A scope whose conditions exclude each other is `empty`: everything is true there.
    """

    def __init__(
        self,
        inputs: Mapping[str, Range],
        captures: Sequence[CaptureType],
        facts: Mapping[Node, Range] | None = None,
        empty: bool = False,
    ) -> None:
        self.inputs, self.captures = inputs, captures
        self.facts = dict(facts or {})
        self.empty = empty
        self._known: dict[Node, Range | None] = {}
        self._inner: dict[tuple[Node, bool], Scope] = {}

    def range(self, node: Node) -> Range | None:
        """The interval of ``node`` here; None for a float."""
        if node in self._known:
            return self._known[node]
        found = node_range(node, [self.range(arg) for arg in node.args], self.inputs, self.captures)
        fact = self.facts.get(node)
        if fact is not None and found is not None:
            low, high = max(found[0], fact[0]), min(found[1], fact[1])
            found = (low, high) if low <= high else found
        self._known[node] = found
        return found

    def where(self, condition: Node, holds: bool, usable: frozenset[Node] | None = None) -> Scope:
        """The scope inside this one in which ``condition`` is ``holds``.

        Args:
            usable: The comparisons that may be believed; None is all.
        """
        cached = self._inner.get((condition, holds))
        if cached is not None:
            return cached
        facts = dict(self.facts)
        empty = self.empty
        for comparison in _conjuncts(condition, holds):
            if usable is not None and comparison[0] not in usable:
                continue
            for node, fact in self._facts(*comparison):
                old = facts.get(node, fact)
                facts[node] = (max(old[0], fact[0]), min(old[1], fact[1]))
                empty = empty or facts[node][0] > facts[node][1]
        inner = Scope(self.inputs, self.captures, facts, empty)
        self._inner[condition, holds] = inner
        return inner

    def _facts(self, condition: Node, holds: bool) -> Iterator[tuple[Node, Range]]:
        if not isinstance(condition, Apply) or condition.op not in _OPPOSITE:
            return
        x, y = condition.args
        a, b = self.range(x), self.range(y)
        if a is None or b is None:
            return
        op = condition.op if holds else _OPPOSITE[condition.op]
        if op == "eq":
            both = max(a[0], b[0]), min(a[1], b[1])
            yield from self._inward(x, both)
            yield from self._inward(y, both)
        elif op == "ne":
            yield x, _without(a, b)
            yield y, _without(b, a)
        elif op in _ORDER:
            ascending, gap = _ORDER[op]
            (low, below), (high, above) = ((x, a), (y, b)) if ascending else ((y, b), (x, a))
            yield from self._inward(low, (below[0], min(below[1], above[1] - gap)))
            yield from self._inward(high, (max(above[0], below[0] + gap), above[1]))
            if _small(a) and _small(b) and x.dtype != BOOL:
                yield Apply("sub", (high, low), x.dtype), (gap, _WIDE)
                yield Apply("sub", (low, high), x.dtype), (-_WIDE, -gap)

    def _inward(self, node: Node, fact: Range) -> Iterator[tuple[Node, Range]]:
        """``fact`` about ``node``, and what follows for the node it is made from."""
        yield node, fact
        match node:
            case Apply("abs", (inner,)) if _small(self.range(inner)):
                yield from self._inward(inner, (-fact[1], fact[1]))
            case Apply("add", (inner, Const(shift))) if _small(self.range(inner)):
                yield from self._inward(inner, (fact[0] - int(shift), fact[1] - int(shift)))
            case Apply("sub", (inner, Const(shift))) if _small(self.range(inner)):
                yield from self._inward(inner, (fact[0] + int(shift), fact[1] + int(shift)))


def _without(a: Range, b: Range) -> Range:
    """``a`` less the single value ``b``, where it stands at an end."""
    if b[0] != b[1] or a[0] == a[1]:
        return a
    return a[0] + (a[0] == b[0]), a[1] - (a[1] == b[0])


def _small(found: Range | None) -> bool:
    """Whether sums and differences of such numbers cannot wrap around."""
    return found is not None and found[0] > -_WIDE and found[1] < _WIDE


def _conjuncts(condition: Node, holds: bool) -> Iterator[tuple[Node, bool]]:
    """What must all be true for ``condition`` to be ``holds``."""
    match condition:
        case Apply("not", (inner,), dtype) if dtype == BOOL:
            yield from _conjuncts(inner, not holds)
        case Apply("and", args, dtype) if holds and dtype == BOOL:
            for arg in args:
                yield from _conjuncts(arg, True)
        case Apply("or", args, dtype) if not holds and dtype == BOOL:
            for arg in args:
                yield from _conjuncts(arg, False)
        case _:
            yield condition, holds
