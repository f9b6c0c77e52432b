"""How many tiles were decided, on which level, at which stage, and by which rules: for reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from flexattn.analysis.tiles.truth import Truth
from flexattn.analysis.tiles.values import Array


@dataclass
class Census:
    """Tiles counted while blocks are proved; pass one to have them counted.

    Attributes:
        tiles: (side, stage) to tiles of the mask. The side says how many tiles of the mask, one
            way, were decided at once: 1, 8, 64 …; the stage is ``proof``, ``witness``,
            ``segments`` or ``evaluation``.
        rules: Rule to tiles of the mask that were decided, while the rule decided a condition
            on them.
    """

    tiles: Counter[tuple[int, str]] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, other: Census) -> None:
        """Add what another one counted."""
        self.tiles.update(other.tiles)
        self.rules.update(other.rules)

    def note(
        self,
        side: int,
        decided: Array,
        weight: Array,
        leaves: list[tuple[str, Truth]],
    ) -> None:
        """Count what was proved on the tiles of one frame.

        Args:
            decided: Which.
            weight: How many tiles of the mask each of them has.
        """
        self.tiles[side, "proof"] += _weigh(decided, weight)
        by_rule: dict[str, Array] = {}
        for rule, leaf in leaves:
            by_it = ~(leaf.may & leaf.may_not) | (leaf.some & leaf.some_not)
            by_rule[rule] = by_it | by_rule[rule] if rule in by_rule else by_it
        for rule, by_it in by_rule.items():
            self.rules[rule] += _weigh(decided & by_it, weight)

    def share(self, stage: str) -> float:
        """The part of all tiles that was decided at a stage."""
        total = sum(self.tiles.values())
        return sum(n for (_, at), n in self.tiles.items() if at == stage) / max(1, total)


def _weigh(chosen: Array, weight: Array) -> int:
    return int(np.broadcast_to(weight, chosen.shape)[chosen].sum())
