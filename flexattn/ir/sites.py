"""The places of a program that could fail on some value: gathers, integer divisions, shifts.

Analysis proves things about sites and passes guard the ones left, so both number them here: a
site's number is its place in `find_sites`, the same in every process for equal programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flexattn.ir.nodes import INTS, Apply, Const, Load, Node, walk
from flexattn.ir.program import Program

# What a proof can say of a site.
INSIDE = "inside"  # an index in [0, size), a divisor or a count that is fine, at every position
WRAPS = "wraps"  # an index in [-size, size), at every position
GUARDED = "guarded"  # what is read where it would fail never reaches a kept result

Proof: TypeAlias = tuple[int, str]  # site number, and one of the above

# A proof and the weaker ones that follow from it, strongest first.
IMPLIES = {INSIDE: (INSIDE, WRAPS, GUARDED), WRAPS: (WRAPS, GUARDED), GUARDED: (GUARDED,)}

DIVISIONS = frozenset({"floordiv", "truncdiv", "mod", "fmod"})
SHIFTS = frozenset({"shl", "shr"})


@dataclass(frozen=True)
class Site:
    """One place: dimension ``dim`` of a Load, or (``dim`` -1) the second argument of an Apply."""

    number: int
    node: Node
    dim: int

    @property
    def operand(self) -> Node:
        """The index, divisor or count that has to be fine."""
        return self.node.args[self.dim]


def find_sites(program: Program) -> tuple[Site, ...]:
    """All sites of a program, score first; constants that are fine make none."""
    sites: list[Site] = []
    for node in walk(program.score, program.mask):
        for dim in _dims(node):
            sites.append(Site(len(sites), node, dim))
    return tuple(sites)


def _dims(node: Node) -> range:
    if isinstance(node, Load):
        return range(len(node.indices))
    if not isinstance(node, Apply) or node.dtype not in INTS:
        return range(0)
    last = node.args[-1] if node.args else None
    if node.op in DIVISIONS and not (isinstance(last, Const) and last.value != 0):
        return range(-1, 0)
    if node.op in SHIFTS and not (isinstance(last, Const) and 0 <= last.value < 64):
        return range(-1, 0)
    return range(0)
