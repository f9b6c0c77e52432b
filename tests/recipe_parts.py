"""Which recipes the slow tests take: all, or the part FLEXATTN_TEST_PART names, such as 2/4."""

from __future__ import annotations

import os
from collections.abc import Sequence


def chosen(names: Sequence[str]) -> list[str]:
    """Every N-th name; a run of the N parts takes each name once."""
    number, _, of = os.environ.get("FLEXATTN_TEST_PART", "1/1").partition("/")
    return list(names[int(number) - 1 :: int(of)])
