"""The block structure of a mask: from its closed form where it has one, else by proof."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import torch

from flexattn.analysis.runs import RowSource, Runs
from flexattn.op.blocks import block_runs, proves
from flexattn.op.programs import Bound

Shape: TypeAlias = tuple[int, int, int, int]


def structure(
    bound: Bound,
    shape: Shape,
    block: tuple[int, int],
    device: torch.device,
    backend: str | None = None,
    census: Any = None,
) -> tuple[Runs | RowSource, Any]:
    """The blocks that a mask keeps, and its `op.mask_forms.MaskForm` if kernels can use that.

    Args:
        shape: (B, H, Q_LEN, KV_LEN).
        block: (queries, keys) of a block.
        backend: What evaluates every pair, instead of forms and proofs.
        census: An `analysis.tiles.census.Census` that takes counts of what was decided how.
    """
    if proves(device, backend):
        # For those who make masks: a part of the time to import flexattn.
        found = import_module("flexattn.op.closed").closed_rows(bound, shape, block)
        if found is not None:
            rows, form = found
            if census is not None:
                tiles = rows.runs.slices.size * rows.runs.rows * rows.runs.cols
                census.tiles[1, "form"] += tiles
            if not rows.by_ends:
                return rows.runs, None
            forms = import_module("flexattn.op.mask_forms")
            return rows.runs, forms.MaskForm.of(bound.mask, form, shape, block)
    return block_runs(bound, shape, block, device, backend, census), None
