"""What a closed form is made of: ranges of one index as expressions of the other.

A form says of a mask that a pair is kept exactly where one of its pieces holds the solved index.
Its expressions are nodes of the IR: of ``b``, ``h``, the other index (called the *given* one),
lifted numbers, captures, and start tables. They know no lengths: whoever uses a piece cuts it to
[0, length).

A start table belongs to a captured table that ascends: ``starts[v - base]`` is the first position
whose entry is ``v`` or more. It is one more capture, numbered after those of the program, and its
``base`` is one more number. So ``ids[q] == ids[kv]`` becomes
``starts[ids[q] - base] <= kv < starts[ids[q] + 1 - base]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flexattn.ir.nodes import I64, Const, Node

BEGIN = Const(0, I64)
END = Const(1 << 40, I64)
"""An end no length reaches: the piece goes on to the last position."""


@dataclass(frozen=True)
class Repeat:
    """Of a range, the positions x with ``(x - residue) % period < width``; period is positive."""

    period: Node
    residue: Node
    width: Node


@dataclass(frozen=True)
class Piece:
    """The positions x with low <= x < high; none where low >= high.

    Attributes:
        low: i64.
        high: i64.
        repeat: What is left of the range, or None for all of it.
    """

    low: Node = BEGIN
    high: Node = END
    repeat: Repeat | None = None


@dataclass(frozen=True)
class StartTable:
    """First positions of the values of a captured table that ascends along its last dimension.

    Attributes:
        capture: Number of the table; integers.
        leading: Its indices before the last: b, h, or numbers.
        base: Name of the input that holds the least value, ``n{i}``.
    """

    capture: int
    leading: tuple[Node, ...]
    base: str


@dataclass(frozen=True)
class Positive:
    """``node``, which reads numbers alone, must be positive."""

    node: Node


@dataclass(frozen=True)
class Ascending:
    """The captured table ``capture`` must not fall along its last dimension."""

    capture: int


Requirement: TypeAlias = "Positive | Ascending"


@dataclass(frozen=True)
class ClosedForm:
    """A mask solved for one index.

    Attributes:
        solved: ``kv_idx`` (ranges of keys for each query) or ``q_idx``.
        pieces: Their union is what the mask keeps; () keeps nothing. Pieces may overlap.
        requires: What the numbers and captures of a call must satisfy; else the form is not its.
        tables: Start tables, in the order of the captures after the program's own.
    """

    solved: str
    pieces: tuple[Piece, ...]
    requires: tuple[Requirement, ...] = ()
    tables: tuple[StartTable, ...] = ()

    @property
    def given(self) -> str:
        """The index that the expressions read."""
        return "q_idx" if self.solved == "kv_idx" else "kv_idx"
