"""A mask solved for one index: its graph to pieces, by elimination.

A condition is taken apart into ands and ors of comparisons. A comparison is brought to the form
``X < T``, where T does not read the index solved for and X is one step from it: the index itself,
a quotient or multiple of it, an entry of a table that ascends. The step is undone until the index
stands alone. What no rule undoes raises `Unsolved`, and the mask has no closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from flexattn.analysis.closed.bits import fits
from flexattn.analysis.closed.linear import (
    Linear,
    both,
    greatest,
    least,
    linear,
    minus,
    plus,
    product,
    quotient,
)
from flexattn.analysis.closed.pieces import (
    BEGIN,
    END,
    Ascending,
    ClosedForm,
    OneRun,
    Piece,
    Positive,
    Repeat,
    Requirement,
    RunTable,
    StartTable,
    Table,
    Unsolved,
)
from flexattn.analysis.closed.requires import common_requirements
from flexattn.analysis.closed.unite import few, intersect, unite
from flexattn.analysis.tiles.rewrites import OPPOSITE, RULES
from flexattn.ir.nodes import BOOL, I64, INTS, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType

Bound: TypeAlias = "Node | None"  # None is no bound on that side

ZERO = Const(0, I64)


def solve(
    root: Node, captures: Sequence[CaptureType], numbers: int, solved: str = "kv_idx"
) -> ClosedForm | None:
    """The closed form of a mask; None where no rule finds one.

    Args:
        root: What the mask keeps; bool.
        captures: Types of its captures.
        numbers: How many numbers ``n{i}`` it reads.
        solved: ``kv_idx`` or ``q_idx``.
    """
    solver = Solver(captures, numbers, solved)
    try:
        pieces = solver.pieces(root, True)
        common = common_requirements(root, captures)
        if common is None:
            return None
        pieces = unite(pieces, solver.requires)
    except (Unsolved, RecursionError):
        return None
    if not fits(root, captures) or not all_fit(pieces, captures):
        return None
    requires = dict.fromkeys([*common, *solver.requires])
    bases = sum(isinstance(table, StartTable) for table in solver.tables)
    return ClosedForm(solved, tuple(pieces), tuple(requires), tuple(solver.tables), bases)


def all_fit(pieces: Sequence[Piece], captures: Sequence[CaptureType]) -> bool:
    """Whether no integer of any piece can leave 64 bits."""
    parts = [n for p in pieces for n in (p.low, p.high, p.when) if n is not None]
    parts += [n for p in pieces if p.repeat for n in vars(p.repeat).values()]
    return all(fits(node, captures) for node in parts)


class Solver:
    """Collects what the pieces of one mask rely on.

    Attributes:
        requires: Requirements, in the order in which they came up.
        tables: Derived tables and their capture numbers.
    """

    def __init__(self, captures: Sequence[CaptureType], numbers: int, solved: str) -> None:
        self.captures, self.numbers, self.solved = captures, numbers, solved
        self.requires: dict[Requirement, None] = {}
        self.tables: dict[Table, int] = {}
        self._reads: dict[Node, frozenset[str]] = {}

    def reads(self, node: Node) -> frozenset[str]:
        """Which inputs ``node`` reads."""
        found = self._reads.get(node)
        if found is None:
            found = frozenset(n.name for n in walk(node) if isinstance(n, Input))
            self._reads[node] = found
        return found

    def pieces(self, node: Node, holds: bool) -> list[Piece]:
        """Where ``node`` is ``holds``."""
        if isinstance(node, Const):
            return [Piece()] if bool(node.value) == holds else []
        if self.solved not in self.reads(node):
            return [Piece(when=node if holds else Apply("not", (node,), BOOL))]
        match node:
            case Apply("not", (inner,)) if node.dtype == BOOL:
                return self.pieces(inner, not holds)
            case Apply("and" | "or" as op, (a, b)) if node.dtype == BOOL:
                first, second = self.pieces(a, holds), self.pieces(b, holds)
                joined = intersect if (op == "and") == holds else _either
                return joined(first, second)
            case Load(capture, indices) if node.dtype == BOOL:
                return self._flags(capture, indices, holds)
            case Apply(op, (a, b)) if op in OPPOSITE and a.dtype in INTS:
                return self._comparison(op if holds else OPPOSITE[op], a, b)
        equal = RULES[node.op](node) if isinstance(node, Apply) and node.op in RULES else None
        if equal is None:
            raise Unsolved(node)
        return self.pieces(equal, holds)

    def _comparison(self, op: str, a: Node, b: Node) -> list[Piece]:
        """Where ``a op b``."""
        atom, by, rest = self._one_atom(linear(a).add(linear(b), -1))
        if by < 0:
            by, op = -by, MIRRORED[op]
            rest = rest.scale(-1)
        # by * atom op target
        target, divisor = rest.scale(-1).node(), Const(by, I64)
        up, down = quotient(target, divisor, up=True), quotient(target, divisor)
        ranges = SOLVED[op](up, plus(down, 1))
        return few([piece for ends in ranges for piece in self._undo(atom, *ends)])

    def _one_atom(self, whole: Linear) -> tuple[Node, int, Linear]:
        """The one atom of ``whole`` that reads the index, its factor, and the rest."""
        own = [atom for atom in whole.terms if self.solved in self.reads(atom)]
        if len(own) != 1:
            raise Unsolved("the index occurs in no term, or in several")
        first, rest = whole.split(set(own))
        return own[0], first.terms[own[0]], rest

    def _undo(self, node: Node, low: Bound, high: Bound) -> list[Piece]:
        """Where low <= node < high."""
        match node:
            case Input(name) if name == self.solved:
                return [_piece(low, high)]
            case Apply(op, (inner, by)) if op in UNDO and not self._reads_indices(by):
                self._positive(by)
                return self._undo_sum(inner, *UNDO[op](by, low, high))
            case Apply("shr", (inner, Const(count))) if 0 <= count < 31:
                return self._undo_sum(inner, *_of_quotient(Const(1 << int(count), I64), low, high))
            case Apply("mod", (inner, by)) if not self._reads_indices(by):
                self._positive(by)
                return self._remainders(inner, by, low, high)
            case Apply("where" | "abs" | "minimum" | "maximum") if node.dtype in INTS:
                return self._choice(node, low, high)
            case Load(capture, (*leading, last)) if (
                node.dtype in INTS and capture < len(self.captures)  # derived ones may not ascend
            ):
                self._check_leading(leading, last)
                self.requires.setdefault(Ascending(capture))
                starts = (x and self._start(capture, leading, x) for x in (low, high))
                return self._undo_sum(last, *starts)
        raise Unsolved(node)

    def _choice(self, node: Apply, low: Bound, high: Bound) -> list[Piece]:
        """Where low <= node < high, for a node that is one of several values."""
        within = self._undo_sum
        match node:
            case Apply("where", (c, a, b)):
                first = intersect(self.pieces(c, True), within(a, low, high))
                return _either(first, intersect(self.pieces(c, False), within(b, low, high)))
            case Apply("abs", (a,)):
                near, far = [Piece()], [Piece()]
                if high is not None:
                    near = within(a, plus(minus(ZERO, high), 1), high)
                if low is not None:
                    far = _either(within(a, low, None), within(a, None, plus(minus(ZERO, low), 1)))
                return intersect(near, far)
            case Apply("minimum", (a, b)):
                above = intersect(within(a, low, None), within(b, low, None))
                return intersect(above, _either(within(a, None, high), within(b, None, high)))
            case Apply("maximum", (a, b)):
                below = intersect(within(a, None, high), within(b, None, high))
                return intersect(below, _either(within(a, low, None), within(b, low, None)))
        raise Unsolved(node)

    def _undo_sum(self, node: Node, low: Bound, high: Bound) -> list[Piece]:
        """Where low <= node < high, of a sum."""
        if low is None and high is None:
            return [Piece()]
        if self.solved not in self.reads(node):
            ends = [(low, "ge"), (high, "lt")]
            tests = [Apply(op, (node, end), BOOL) for end, op in ends if end is not None]
            return [Piece(when=both(tests[0], tests[-1]))]
        atom, by, rest = self._one_atom(linear(node))
        if by < 0:
            # by * atom + rest >= low: -by * atom <= rest - low, and so on
            low, high = (None if x is None else minus(plus(rest.node(), 1), x) for x in (high, low))
        else:
            low, high = (None if x is None else minus(x, rest.node()) for x in (low, high))
        factor = Const(abs(by), I64)
        return self._undo(
            atom, *(None if x is None else quotient(x, factor, up=True) for x in (low, high))
        )

    def _remainders(self, node: Node, by: Node, low: Bound, high: Bound) -> list[Piece]:
        """Where low <= node % by < high, for node = rest + index or rest - index."""
        atom, sign, rest = self._one_atom(linear(node))
        if not isinstance(atom, Input) or abs(sign) != 1:
            raise Unsolved(node)
        begin = ZERO if low is None else greatest(low, ZERO)
        end = by if high is None else least(high, by)
        if sign == 1:
            return [Piece(repeat=Repeat(by, rest.node(), begin, end))]
        # rest - x leaves j where x - rest - 1 leaves by - 1 - j.
        shift = rest.scale(-1).add(Linear(constant=-1)).node()
        return [Piece(repeat=Repeat(by, shift, minus(by, end), minus(by, begin)))]

    def _flags(self, capture: int, indices: tuple[Node, ...], holds: bool) -> list[Piece]:
        """Where an entry of a bool table with one run of true ones is ``holds``."""
        *leading, last = indices
        self._check_leading(leading, last)
        self.requires.setdefault(OneRun(capture))
        table = self._table(RunTable(capture))
        begin, end = (Load(table, (*leading, Const(i, I64)), I64) for i in (0, 1))
        if holds:
            return self._undo_sum(last, begin, end)
        return self._undo_sum(last, None, begin) + self._undo_sum(last, end, None)

    def _start(self, capture: int, leading: Sequence[Node], value: Node) -> Node:
        """The first position whose entry is ``value`` or more."""
        known = [t for t in self.tables if isinstance(t, StartTable)]
        fresh = f"n{self.numbers + len(known)}"
        base = next((t.base for t in known if t.capture == capture), fresh)
        table = self._table(StartTable(capture, base))
        last = Apply("sub", (Input(f"size{table}_{len(leading)}", I64), Const(1, I64)), I64)
        at = Apply("maximum", (minus(value, Input(base, I64)), ZERO), I64)
        return Load(table, (*leading, Apply("minimum", (at, last), I64)), I64)

    def _table(self, table: Table) -> int:
        return self.tables.setdefault(table, len(self.captures) + len(self.tables))

    def _check_leading(self, leading: Sequence[Node], last: Node) -> None:
        if any(self.reads(index) & {"q_idx", "kv_idx"} for index in leading):
            raise Unsolved("a table that is not one per batch or head")
        if self.reads(last) & {"q_idx", "kv_idx", "b", "h"} != {self.solved}:
            raise Unsolved("a table read at a position of both indices")

    def _reads_indices(self, node: Node) -> bool:
        return any(isinstance(n, Load) for n in walk(node)) or bool(
            self.reads(node) & {"b", "h", "q_idx", "kv_idx"}
        )

    def _positive(self, node: Node) -> None:
        if not isinstance(node, Const):
            self.requires.setdefault(Positive(node))
        elif node.value <= 0:
            raise Unsolved("a divisor that is not positive")


def _piece(low: Bound, high: Bound) -> Piece:
    return Piece(BEGIN if low is None else low, END if high is None else high)


def _either(first: list[Piece], second: list[Piece]) -> list[Piece]:
    return few([*first, *second])


def _of_quotient(by: Node, low: Bound, high: Bound) -> tuple[Bound, Bound]:
    """The range of x with low <= x // by < high."""
    low, high = (None if end is None else product(end, by) for end in (low, high))
    return low, high


def _of_product(by: Node, low: Bound, high: Bound) -> tuple[Bound, Bound]:
    """The range of x with low <= x * by < high."""
    low, high = (None if end is None else quotient(end, by, up=True) for end in (low, high))
    return low, high


MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}

SOLVED: dict[str, Callable[[Node, Node], list[tuple[Bound, Bound]]]] = {
    # Ranges of X in ``m X op T``, from ``up`` = T / m rounded up and ``over``, the first above it.
    "lt": lambda up, over: [(None, up)],
    "le": lambda up, over: [(None, over)],
    "gt": lambda up, over: [(over, None)],
    "ge": lambda up, over: [(up, None)],
    "eq": lambda up, over: [(up, over)],
    "ne": lambda up, over: [(None, up), (over, None)],
}

UNDO: dict[str, Callable[[Node, Bound, Bound], tuple[Bound, Bound]]] = {
    "floordiv": _of_quotient,
    "mul": _of_product,
}
