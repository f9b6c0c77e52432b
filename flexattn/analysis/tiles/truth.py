"""What is known of a condition on every tile: two-sided, so that nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flexattn.analysis.tiles.values import Array


class Truth(NamedTuple):
    """Four bool arrays that broadcast over the tiles.

    Attributes:
        may: Some pair may satisfy the condition; False proves that none does.
        may_not: Some pair may fail it; False proves that all satisfy it.
        some: Some pair certainly satisfies it.
        some_not: Some pair certainly fails it.
    """

    may: Array
    may_not: Array
    some: Array
    some_not: Array

    def negate(self) -> Truth:
        """The truth of the opposite condition."""
        return Truth(self.may_not, self.may, self.some_not, self.some)


YES, NO = np.ones((), bool), np.zeros((), bool)
UNKNOWN = Truth(YES, YES, NO, NO)
ALWAYS = Truth(YES, NO, YES, NO)
NEVER = Truth(NO, YES, NO, YES)


def exact(some: Array, some_not: Array) -> Truth:
    """The truth where both sides are known exactly."""
    return Truth(some, some_not, some, some_not)


def union(arrays: Iterable[Array]) -> Array:
    """True where one is."""
    found: Array = NO
    for array in arrays:
        found = array if found is NO else found | array
    return found


def meet(arrays: Iterable[Array]) -> Array:
    """True where all are."""
    found: Array = YES
    for array in arrays:
        found = array if found is YES else found & array
    return found
