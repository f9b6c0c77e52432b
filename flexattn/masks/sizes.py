"""How many blocks may be listed or laid out one by one, and the refusal beyond that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flexattn.errors import BlockMaskSizeError

TABLE_LIMIT = 1 << 26
"""Entries of a table: 268 MB of int32. A causal mask of a million tokens has as many."""

LISTED_LIMIT = 1 << 24
"""Blocks that a mask may list whose runs are made on demand, to be turned into runs at once."""


def check_table(name: str, shape: Sequence[int], itemsize: int = 4) -> None:
    """Raise BlockMaskSizeError if ``name``, of this shape, would have too many entries."""
    entries = math.prod(shape)
    if entries >= TABLE_LIMIT:
        raise BlockMaskSizeError(
            f"{name} would have {entries} entries ({entries * itemsize / 1e6:.0f} MB).",
            why=f"tables of {TABLE_LIMIT} entries or more are not made: the mask is kept as runs "
            "of blocks, which take little.",
            fix="take a part, mask[b, h, rows, columns], or larger blocks. Printing, sparsity(), "
            "cost(), &, |, ~, slices and extend_kv need no table.",
        )


def check_listed(count: int) -> None:
    """Raise BlockMaskSizeError if ``count`` listed blocks are too many to be kept as runs."""
    if count > LISTED_LIMIT:
        raise BlockMaskSizeError(
            f"the mask lists {count} blocks ({count * 9 / 1e6:.0f} MB or more as runs).",
            why=f"its runs are made row by row when needed; up to {LISTED_LIMIT} listed blocks "
            "they can be kept.",
            fix="take a part, mask[b, h, rows, columns], or larger blocks.",
        )
