"""Makes expressions small before they are printed: known numbers put in, sums in normal form.

Nothing is proved and nothing is solved here: what is printed is what the mask says, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from flexattn.analysis.closed.linear import Linear, greatest, least, linear
from flexattn.analysis.closed.pieces import END
from flexattn.ir.nodes import (
    BOOL,
    FLOATS,
    I64,
    INTS,
    Apply,
    Const,
    Input,
    Load,
    Node,
    rebuild,
    rewrite,
    walk,
)

Span: TypeAlias = "tuple[int | None, int | None]"

_NEGATED = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
_NONNEGATIVE = frozenset({"q_idx", "kv_idx", "b", "h"})


@dataclass(frozen=True)
class Vocabulary:
    """What is known of a program's inputs.

    Attributes:
        numbers: Values of lifted numbers, by name (``n0``); the others are printed as symbols.
        captures: Names of captures, in order; what lies beyond is called ``c_i``.
        tables: Of captures that hold derived tables, what they are called.
        bases: Of captures that hold start tables, the names of their bases.
        positive: What is known to be above 0.
    """

    numbers: Mapping[str, int | float] = field(default_factory=dict)
    captures: tuple[str, ...] = ()
    tables: Mapping[int, str] = field(default_factory=dict)
    bases: Mapping[int, str] = field(default_factory=dict)
    positive: frozenset[Node] = frozenset()

    def capture(self, number: int) -> str:
        """What capture ``number`` is called."""
        if number in self.tables:
            return self.tables[number]
        return self.captures[number] if number < len(self.captures) else f"c_{number}"


DEPTH = 6
"""How deep below a node its span is looked for."""

MOST_NODES = 150
"""A formula of more, written out, has its common parts named."""

LEAST_NODES = 6
"""What is smaller is written out, however often it appears."""


def tidy(node: Node, words: Vocabulary) -> Node:
    """``node`` with the known numbers in it, sums gathered, casts and clamps of loads left out."""
    return rewrite(node, lambda found: _tidy(found, words))


def _tidy(node: Node, words: Vocabulary) -> Node:
    match node:
        case Input(name, dtype) if name in words.numbers:
            return Const(words.numbers[name], dtype)
        case Load(capture, indices, dtype):
            *leading, last = indices or (None,)
            if last is None:
                return node
            return Load(capture, [*leading, _index(capture, last, words)], dtype)
        case Apply("not", (Apply(op, (a, b)),), "bool") if op in _NEGATED and a.dtype in INTS:
            return Apply(_NEGATED[op], (a, b), BOOL)
        case Apply("to_i64" | "to_i32" | "detach", (a,)):
            return a
        case Apply("to_int", (a,)) if a.dtype in INTS:
            return a
        case Apply("to_float", (a,)) if a.dtype in FLOATS:
            return a
        case Apply("maximum", (a, b), dtype) if dtype in INTS:
            return END if END in (a, b) else _extreme(greatest, a, b, words)
        case Apply("minimum", (a, b), dtype) if dtype in INTS:
            return _extreme(least, a, b, words) if END not in (a, b) else b if a is END else a
        case Apply("mod", (Const(x), Const(y)), dtype) if dtype in INTS and y:
            return Const(x % y, dtype)
        case Apply("floordiv", (a, Const(y)), dtype) if dtype in INTS and y:
            return _quotient(node, linear(a), int(y))
        case Apply("add" | "sub" | "neg" | "mul" | "shl", _, dtype) if dtype in INTS:
            return linear(node).node()
    return node


def _extreme(pick: Callable[[Node, Node], Node], a: Node, b: Node, words: Vocabulary) -> Node:
    """The lesser (or greater) of two, where their shapes show which it is."""
    low, high = _span_of_sum(linear(a).add(linear(b), -1), words)
    if high is not None and high <= 0:
        return a if pick is least else b
    if low is not None and low >= 0:
        return b if pick is least else a
    return pick(a, b)


def _quotient(node: Node, top: Linear, by: int) -> Node:
    """A quotient, taken apart where every term is divisible."""
    if any(factor % by for factor in top.terms.values()):
        return node
    terms = {atom: factor // by for atom, factor in top.terms.items()}
    return Linear(terms, top.constant // by).node()


def _index(capture: int, index: Node, words: Vocabulary) -> Node:
    """A last index; that of a start table as the value looked for, without clamps and base."""
    if capture not in words.bases:
        return index
    base = words.bases[capture]
    value = linear(_unclamped(capture, index))
    if base in words.numbers:
        value.constant += int(words.numbers[base])
    else:
        value = value.add(Linear({Input(base, I64): 1}))
    return value.node()


def _unclamped(capture: int, index: Node) -> Node:
    """x of ``min(max(x, 0), size - 1)``, where either may have been left out."""
    match index:
        case Apply("minimum", (a, b)):
            for x, limit in ((a, b), (b, a)):
                names = [atom.name for atom in linear(limit).terms if isinstance(atom, Input)]
                if any(name.startswith(f"size{capture}_") for name in names):
                    return _unclamped(capture, x)
        case Apply("maximum", (x, Const(0))) | Apply("maximum", (Const(0), x)):
            return x
    return index


def span(node: Node, words: Vocabulary, depth: int = DEPTH) -> Span:
    """The least and the greatest value of an integer that its shape alone shows; None unknown."""
    if node in words.positive:
        return 1, None
    if not depth:
        return None, None

    def ends(*nodes: Node) -> tuple[list[int | None], list[int | None]]:
        pairs = [span(n, words, depth - 1) for n in nodes]
        return [low for low, _ in pairs], [high for _, high in pairs]

    match node:
        case Const(value):
            return int(value), int(value)
        case Input(name):
            return (0 if name in _NONNEGATIVE or name.startswith("size") else None), None
        case Load(capture):
            return (0 if capture in words.tables else None), None
        case Apply("maximum", args):
            low, high = ends(*args)
            return _of_known(max, low), _of_all(max, high)
        case Apply("minimum", args):
            low, high = ends(*args)
            return _of_all(min, low), _of_known(min, high)
        case Apply("mod", (_, Const(value))) if value > 0:
            return 0, int(value) - 1
        case Apply("floordiv", (a, Const(value))) if value > 0:
            first, last = (x if x is None else x // int(value) for x in span(a, words, depth - 1))
            return first, last
    found = linear(node)
    return (None, None) if node in found.terms else _span_of_sum(found, words, depth - 1)


def _span_of_sum(found: Linear, words: Vocabulary, depth: int = DEPTH) -> Span:
    ends: list[int | None] = [found.constant, found.constant]
    for atom, by in found.terms.items():
        pair = span(atom, words, depth)
        for i, x in enumerate(pair if by > 0 else reversed(pair)):
            whole = ends[i]
            ends[i] = None if x is None or whole is None else whole + by * x
    return ends[0], ends[1]


def _of_known(pick: Callable[..., int], values: Sequence[int | None]) -> int | None:
    known = [x for x in values if x is not None]
    return pick(known) if known else None


def _of_all(pick: Callable[..., int], values: Sequence[int | None]) -> int | None:
    known = [x for x in values if x is not None]
    return pick(known) if len(known) == len(values) else None


def is_nonnegative(node: Node, words: Vocabulary) -> bool:
    """Whether the shape of the integer ``node`` alone shows that it is 0 or more."""
    low, _ = span(node, words)
    return low is not None and low >= 0


def share(root: Node) -> tuple[Node, list[tuple[Input, Node]]]:
    """``root`` with its common parts as inputs ``x_1``, …, and what each stands for.

    Nothing is named in a formula that is short anyway. Written out, a graph may be
    exponentially larger than it is.
    """
    size: dict[Node, int] = {}
    uses: dict[Node, int] = {}
    for node in walk(root):
        size[node] = 1 + sum(size[arg] for arg in node.args)
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    if size[root] <= MOST_NODES:
        return root, []
    named: list[tuple[Input, Node]] = []
    short: dict[Node, Node] = {}
    for node in walk(root):
        found = rebuild(node, tuple(short[arg] for arg in node.args))
        if uses.get(node, 0) > 1 and size[node] >= LEAST_NODES:
            name = Input(f"x_{len(named) + 1}", node.dtype)
            named.append((name, found))
            found = name
        short[node] = found
    return short[root], named


def residue(node: Node, period: Node) -> Node:
    """An equal residue that is shorter: ``q % m + m`` is ``q``."""
    total = Linear(constant=linear(node).constant)
    for atom, by in linear(node).terms.items():
        match atom:
            case Apply("mod", (inner, m)) if m is period:
                total = total.add(linear(inner), by)
            case _ if atom is not period:
                total = total.add(linear(atom), by)
    if isinstance(period, Const):
        total.constant %= int(period.value)
    return total.node()
