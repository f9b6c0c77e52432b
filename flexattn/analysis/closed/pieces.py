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


class Unsolved(Exception):
    """A mask, or a part of it, has no closed form that the rules find."""


BEGIN = Const(0, I64)
END = Const(1 << 40, I64)
"""An end no length reaches: the piece goes on to the last position."""


@dataclass(frozen=True)
class Repeat:
    """Of a range, the positions x with ``begin <= (x + shift) % period < end``.

    0 <= begin, end <= period, and period is positive; nothing is left where begin >= end.
    """

    period: Node
    shift: Node
    begin: Node
    end: Node


@dataclass(frozen=True)
class Piece:
    """The positions x with low <= x < high; none where low >= high.

    Attributes:
        low: i64.
        high: i64.
        repeat: What is left of the range, or None for all of it.
        when: A condition on the given index without which the piece is empty, or None.
    """

    low: Node = BEGIN
    high: Node = END
    repeat: Repeat | None = None
    when: Node | None = None


@dataclass(frozen=True)
class StartTable:
    """First positions of the values of a captured table that ascends along its last dimension.

    All dimensions but the last are the captured table's.

    Attributes:
        capture: Number of the table; integers.
        base: Name of the input that holds the least value, ``n{i}``.
    """

    capture: int
    base: str


@dataclass(frozen=True)
class RunTable:
    """The one run of true entries along the last dimension of a captured bool table.

    Entry 0 of its last dimension is where the run starts, entry 1 where it stops; both are 0 where
    nothing is true.
    """

    capture: int


Table: TypeAlias = "StartTable | RunTable"


@dataclass(frozen=True)
class Positive:
    """``node``, which reads numbers alone, must be positive."""

    node: Node


@dataclass(frozen=True)
class Ascending:
    """The captured table ``capture`` must not fall along its last dimension."""

    capture: int


@dataclass(frozen=True)
class OneRun:
    """The captured bool table ``capture`` has at most one run of true entries in each row."""

    capture: int


@dataclass(frozen=True)
class Inside:
    """The index ``node`` must lie in dimension ``dim`` of ``capture`` at every position."""

    capture: int
    dim: int
    node: Node


@dataclass(frozen=True)
class Small:
    """The entries of the captured table ``capture`` must be so small that sums do not wrap."""

    capture: int


Requirement: TypeAlias = "Positive | Ascending | OneRun | Inside | Small"


@dataclass(frozen=True)
class ClosedForm:
    """A mask solved for one index.

    Attributes:
        solved: ``kv_idx`` (ranges of keys for each query) or ``q_idx``.
        pieces: Their union is what the mask keeps; () keeps nothing. Pieces may overlap.
        requires: What the numbers and captures of a call must satisfy; else the form is not its.
        tables: Derived tables, in the order of the captures after the program's own.
        bases: How many numbers they add after the program's own.
    """

    solved: str
    pieces: tuple[Piece, ...]
    requires: tuple[Requirement, ...] = ()
    tables: tuple[Table, ...] = ()
    bases: int = 0

    @property
    def given(self) -> str:
        """The index that the expressions read."""
        return "q_idx" if self.solved == "kv_idx" else "kv_idx"
