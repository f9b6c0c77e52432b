"""A closed form with the numbers and captures of one call: checked, and ready to be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from flexattn.analysis.closed.bits import INDEX_BITS
from flexattn.analysis.closed.derived import Derived
from flexattn.analysis.closed.pieces import (
    Ascending,
    ClosedForm,
    Inside,
    OneRun,
    Piece,
    Positive,
    Requirement,
    Small,
    StartTable,
)
from flexattn.analysis.tiles.values import Array, Ranges, UnknownNode, Values
from flexattn.ir.nodes import Input, Node, walk

AXES = ("b", "h", "q_idx", "kv_idx")
_LIMIT = 1 << INDEX_BITS


@dataclass(frozen=True)
class BoundForm:
    """A form whose requirements hold.

    Attributes:
        form: The form.
        shape: (B, H, Q_LEN, KV_LEN); B (H) is 1 where the mask does not read b (h).
        numbers: Values of the inputs ``n{i}``, bases of start tables among them.
        captures: The program's captures and the derived tables, as arrays.
        derived: What is known of the captures.
    """

    form: ClosedForm
    shape: tuple[int, int, int, int]
    numbers: Mapping[str, int]
    captures: Sequence[Array]
    derived: Derived
    _known: dict[Node, int] = field(default_factory=dict)

    @property
    def given_length(self) -> int:
        """Positions of the index that the expressions read."""
        return self.shape[AXES.index(self.form.given)]

    @property
    def solved_length(self) -> int:
        """Positions of the index the mask is solved for."""
        return self.shape[AXES.index(self.form.solved)]

    def grid(self, positions: Array, batches: range | None = None) -> Values:
        """Values of expressions at ``positions`` of the given index: [B, H, positions].

        Args:
            batches: Those wanted; all by default.
        """
        first, last = (0, self.shape[0]) if batches is None else (batches.start, batches.stop)
        batch = np.arange(first, last, dtype=np.int32)
        heads = np.arange(self.shape[1], dtype=np.int32)
        return self.at(batch.reshape(-1, 1, 1), heads.reshape(1, -1, 1), positions)

    def at(self, b: Array, h: Array, positions: Array) -> Values:
        """Values of expressions at indices that broadcast against one another."""
        inputs = {"b": b, "h": h, self.form.given: positions, **self.numbers}
        return Values(inputs, self.captures, self._ranges)

    @cached_property
    def _ranges(self) -> Ranges:
        lengths = {name: (0, max(length - 1, 0)) for name, length in zip(AXES, self.shape)}
        numbers = {name: (value, value) for name, value in self.numbers.items()}
        return Ranges(lengths | numbers, self.captures)

    def number(self, node: Node) -> int:
        """The value of an expression of numbers alone."""
        if node not in self._known:
            self._known[node] = int(values_of(self.numbers, self.captures)(node))
        return self._known[node]

    def never_negative(self, nodes: Sequence[Node], batches: range) -> Array:
        """Whether all of these, which read no position, are 0 or more: bool [slices, 1]."""
        grid, frame = self.grid(np.zeros(1, np.int32), batches), (len(batches), self.shape[1], 1)
        found = np.ones((1, 1), bool)
        for node in nodes:
            found = found & np.broadcast_to(grid(node) >= 0, frame).reshape(-1, 1)
        return found


def bind_form(
    form: ClosedForm,
    shape: tuple[int, int, int, int],
    numbers: Sequence[int],
    captures: Sequence[Array],
) -> BoundForm | None:
    """The form with the values of a call; None if they do not meet its requirements.

    Args:
        shape: (B, H, Q_LEN, KV_LEN).
        numbers: Values of ``n0``, ``n1``, …, without the bases of start tables.
        captures: The program's captures.
    """
    if any(abs(value) >= _LIMIT for value in (*numbers, *shape)):
        return None
    derived = Derived(captures, _lengths_read(form, shape, captures))
    named = {f"n{i}": value for i, value in enumerate(numbers)}
    try:
        if not all(_holds(r, derived, named, shape, captures) for r in form.requires):
            return None
        tables = []
        for table in form.tables:
            if isinstance(table, StartTable):
                starts, named[table.base] = derived.starts(table.capture)
                tables.append(starts)
            else:
                tables.append(derived.runs(table.capture))
    except UnknownNode:
        return None
    return BoundForm(form, shape, named, [*captures, *tables], derived)


def _lengths_read(
    form: ClosedForm, shape: tuple[int, int, int, int], captures: Sequence[Array]
) -> list[int | None]:
    """How far each table is read: as far as positions go if nothing but they are its indices."""
    found: list[int | None] = [max(shape[2:]) for _ in captures]
    for requirement in form.requires:
        match requirement:
            case Inside(capture, dim, node) if dim == captures[capture].ndim - 1:
                if not (isinstance(node, Input) and node.name in AXES[2:]):
                    found[capture] = None
    return found


def values_of(inputs: Mapping[str, Any], captures: Sequence[Array]) -> Values:
    """Values in 64 bits, as nothing is said of the inputs' ranges."""
    return Values(inputs, captures, Ranges({}, captures))


def _holds(
    requirement: Requirement,
    derived: Derived,
    numbers: Mapping[str, int],
    shape: tuple[int, int, int, int],
    captures: Sequence[Array],
) -> bool:
    match requirement:
        case Positive(node):
            return int(values_of(numbers, captures)(node)) > 0
        case Ascending(capture):
            return derived.ascends(capture) and derived.has_starts(capture)
        case OneRun(capture):
            return derived.has_one_run(capture)
        case Small(capture):
            return derived.is_small(capture, _LIMIT)
        case Inside(capture, dim, Input(name)) if name in AXES:
            return shape[AXES.index(name)] <= captures[capture].shape[dim]
        case Inside(capture, dim, node):
            index = _everywhere(node, numbers, shape, captures)
            return int(index.min()) >= 0 and int(index.max()) < captures[capture].shape[dim]
    raise TypeError(requirement)


def _everywhere(
    node: Node,
    numbers: Mapping[str, int],
    shape: tuple[int, int, int, int],
    captures: Sequence[Array],
) -> Array:
    """All values of an expression of b, h and one of the positions."""
    names = {n.name for n in walk(node) if isinstance(n, Input)}
    place = {"b": (-1, 1, 1), "h": (1, -1, 1)}
    inputs = {
        name: np.arange(length).reshape(place.get(name, (-1,)))
        for name, length in zip(AXES, shape)
        if name in names
    }
    return values_of({**inputs, **numbers}, captures)(node)


def plain_pieces(form: ClosedForm) -> tuple[Piece, ...] | None:
    """The pieces, if each is one range that is there for every position."""
    if any(piece.repeat is not None or piece.when is not None for piece in form.pieces):
        return None
    return form.pieces
