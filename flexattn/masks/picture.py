"""A block mask drawn with characters, two per block."""

from __future__ import annotations

from torch import Tensor

from flexattn.masks.tables import EMPTY, FULL, cdiv

SIGNS = {EMPTY: "  ", FULL: "██"}
MIXED = "░░"


def draw(classes: Tensor, grid: tuple[int, int]) -> str:
    """One head's ``classes`` (uint8 [rows, cols]) in at most ``grid`` lines and columns.

    ``██`` stands for blocks that are all kept, spaces for blocks of which nothing is, and
    ``░░`` for the rest: blocks that the mask_mod cuts, or several that differ.
    """
    rows, cols = classes.shape
    if not rows or not cols:
        return "(no elements)\n"
    down, across = (max(1, cdiv(n, most)) for n, most in zip((rows, cols), grid))
    lines = []
    for top in range(0, rows, down):
        band = classes[top : top + down].cpu()
        cells = (band[:, left : left + across] for left in range(0, cols, across))
        lines.append("".join(_sign(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def _sign(cell: Tensor) -> str:
    least, most = int(cell.min()), int(cell.max())
    return SIGNS.get(least, MIXED) if least == most else MIXED
