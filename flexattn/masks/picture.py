"""A block mask drawn with characters, two per block."""

from __future__ import annotations

import torch
from torch import Tensor

from flexattn.masks.tables import EMPTY, FULL, PARTIAL, cdiv

SIGNS = {EMPTY: "  ", PARTIAL: "░░", FULL: "██"}


def draw(classes: Tensor, grid: tuple[int, int]) -> str:
    """One head's ``classes`` (uint8 [rows, cols]) in at most ``grid`` lines and columns.

    ``██`` stands for blocks that are all kept, spaces for blocks of which nothing is, and
    ``░░`` for the rest: blocks that the mask_mod cuts, or several that differ.
    """
    if not classes.numel():
        return "(no elements)\n"
    lines = coarsen(classes, grid).tolist()
    return "".join("".join(map(SIGNS.__getitem__, line)) + "\n" for line in lines)


def coarsen(classes: Tensor, grid: tuple[int, int]) -> Tensor:
    """``classes`` in at most ``grid`` cells, on the CPU; PARTIAL where those of a cell differ."""
    small = classes
    for dim in (0, 1):
        step = max(1, cdiv(classes.shape[dim], grid[dim]))
        if step > 1:
            cells = small.split(step, dim)
            least = torch.stack([cell.amin(dim) for cell in cells], dim)
            most = torch.stack([cell.amax(dim) for cell in cells], dim)
            small = torch.where(least == most, least, PARTIAL)
    return small.cpu()
