"""Pieces that are there for some positions only, with that written into their ends.

The condition of a piece is solved for the given index, as a mask is for the other one. What it
gives are ranges of positions, [first, stop). From ``stop`` on the piece begins at `END`, and before
``first`` it ends at `BEGIN`: either way it is empty, and its ends rise if they did before. So the
first and the last position of a row tell its blocks, and a kernel needs no condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexattn.analysis.closed.linear import greatest, least, plus
from flexattn.analysis.closed.pieces import BEGIN, END, ClosedForm, Piece, StartTable, Unsolved
from flexattn.analysis.closed.solve import Solver, all_fit
from flexattn.analysis.closed.unite import few, unite
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node, rewrite, walk
from flexattn.ir.program import CaptureType


def without_conditions(
    form: ClosedForm, captures: Sequence[CaptureType], numbers: int
) -> ClosedForm | None:
    """An equal form whose pieces have no condition; None where no rule solves one.

    Args:
        captures: Types of the program's captures.
        numbers: How many numbers it reads.
    """
    if all(piece.when is None for piece in form.pieces):
        return form
    if any(piece.repeat is not None for piece in form.pieces):
        return None
    solver = Solver(captures, numbers, form.given)
    solver.requires = dict.fromkeys(form.requires)
    solver.tables = {table: len(captures) + i for i, table in enumerate(form.tables)}
    try:
        pieces = few([part for piece in form.pieces for part in _parts(piece, solver)])
        pieces = unite(pieces, solver.requires)
    except (Unsolved, RecursionError):
        return None
    if not all_fit(pieces, captures):
        return None
    return replace(
        form,
        pieces=tuple(pieces),
        requires=tuple(solver.requires),
        tables=tuple(solver.tables),
        bases=sum(isinstance(table, StartTable) for table in solver.tables),
    )


def _parts(piece: Piece, solver: Solver) -> list[Piece]:
    """The piece, for each range of positions at which it is there."""
    if piece.when is None:
        return [piece]
    found = solver.pieces(piece.when, True)
    if any(there.repeat is not None for there in found):
        raise Unsolved("a condition that repeats")
    return [_within(piece, there, Input(solver.solved, I64)) for there in found]


def _within(piece: Piece, there: Piece, given: Node) -> Piece:
    """The piece at positions in ``there``, empty at others."""
    low, high = piece.low, piece.high
    # First and last positions of a row are to tell where the piece begins and ends in it.
    if there.low is not BEGIN and not any(isinstance(node, Load) for node in walk(low)):
        low = _at(low, given, greatest(given, there.low))  # tables do not go so far
    if there.high is not END:
        high = _at(high, given, greatest(least(given, plus(there.high, -1)), BEGIN))
        low = Apply("where", (_before(given, there.high), low, END), I64)
    if there.low is not BEGIN:
        high = Apply("where", (_before(given, there.low), BEGIN, high), I64)
    if there.when is not None:  # one of batch or head
        low = Apply("where", (there.when, low, END), I64)
    return Piece(low, high)


def _before(given: Node, end: Node) -> Node:
    return Apply("lt", (given, end), BOOL)


def _at(end: Node, given: Node, position: Node) -> Node:
    """``end`` at another position."""
    if isinstance(end, Const):
        return end
    return rewrite(end, lambda node: position if node is given else node)
