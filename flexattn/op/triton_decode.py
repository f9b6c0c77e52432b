"""Attention of few queries to many keys: the keys are split among programs, whose parts are joined.

The number of parts follows from shapes and the machine, never from what the block lists hold, so
that a CUDA graph serves every step of a decoding loop with caches of one size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import KernelOptionError
from flexattn.kernel.triton_source import Choices
from flexattn.kernel.triton_tiles import Tile, choose_tile, is_legal
from flexattn.masks.tables import cdiv
from flexattn.op.decoding import may_pack
from flexattn.op.options import option
from flexattn.op.outputs import strides_like
from flexattn.op.request import Call
from flexattn.op.triton_plan import (
    PACKED,
    Frame,
    kernel_of,
    plain_kernel,
    row_strides,
    rows_of_lists,
)

LEAST_KEYS = 512  # fewer are not worth a second launch
KEYS_PER_PART = 256
MOST_PARTS = 128
PARTS_PER_PROCESSOR = 2


def is_decoding(call: Call, frame: Frame) -> bool:
    """Whether the call has few queries for many keys, or is told to be taken so.

    Raises:
        KernelOptionError: It is told to, and its queries lie in several rows of blocks.
    """
    asked = option(frame.options, "fwd", "BACKEND") if frame.options else None
    fits = not frame.tables or frame.rows == 1
    if asked == "TRITON_DECODE":
        if not fits:
            raise KernelOptionError(
                "kernel_options ask for BACKEND 'TRITON_DECODE'.",
                why=f"it takes queries of one row of blocks, and there are {frame.rows}.",
                fix="leave it out, or make the mask with a BLOCK_SIZE of all queries.",
            )
        return True
    if asked == "TRITON" or option(frame.options, "fwd", "FORCE_USE_FLEX_ATTENTION"):
        return False
    rows = frame.lengths[2] * (frame.group if may_pack(call) else 1)
    least = LEAST_KEYS if call.query.is_cuda else PACKED
    return fits and rows <= PACKED and frame.lengths[3] >= max(least, 4 * frame.lengths[2])


class Decode:
    """All of a decoding launch that follows from shapes, strides and dtypes."""

    __slots__ = (
        *("after", "combine", "combined", "faults", "frame", "grid", "kernel", "out_shape"),
        *("out_strides", "part_shape"),
    )

    def __init__(self, call: Call, frame: Frame, tile: Tile) -> None:
        self.frame = frame
        batch, heads, rows, keys = frame.lengths
        self.out_shape = (batch, heads, rows, frame.DV)
        self.out_strides = strides_like(self.out_shape, call.query.stride())
        pack = frame.group > 1 and may_pack(call)
        count = rows * frame.group if pack else rows
        choices = _choices(frame, tile, count, pack)
        tile = choices.tile
        units = batch * (heads // frame.group if pack else heads) * cdiv(count, tile.bm)
        splits = _splits(call, frame, units, tile.bn)
        self.kernel = kernel_of(call.bound.variant, "decode", frame, choices)
        self.faults = self.kernel.source.hooks.fault is not None
        self.grid = (units * splits,)
        self.part_shape = (splits, batch, heads, rows)
        self.after = (
            *row_strides(call.query),
            *row_strides(call.key),
            *row_strides(call.value),
            *(batch, heads, frame.group, rows, keys, splits, call.scale),
        )
        tile = choose_tile("combine", frame.machine.target, frame.dtype, frame.DV, frame.DV)
        self.combine = plain_kernel(
            "combine",
            frame,
            Choices(tile, aligned=choices.aligned, splits=1 << (splits - 1).bit_length()),
        )
        self.combined = (*self.out_strides[:3], batch, heads, rows, splits)

    def launch(
        self,
        call: Call,
        captures: tuple[Any, ...],
        outputs: tuple[Tensor, Tensor, Tensor],
        cell: Tensor,
    ) -> None:
        """Fill ``outputs`` = (out, lse, max_scores)."""
        frame, lse = self.frame, outputs[1]
        part_out = torch.empty(
            (*self.part_shape, frame.DV), dtype=frame.stats, device=call.query.device
        )
        part_max = torch.empty(self.part_shape, dtype=frame.stats, device=call.query.device)
        part_sum = torch.empty_like(part_max)
        tables, _ = rows_of_lists(call, frame, None, lse)
        self.kernel.launch(
            self.grid,
            (
                *(call.query, call.key, call.value, part_out, part_max, part_sum),
                *self.after,
                *(tables, captures, cell),
            ),
            frame.machine.index,
        )
        self.combine.launch(
            (cdiv(lse.numel(), self.combine.source.choices.tile.bm),),
            (part_out, part_max, part_sum, *outputs, *self.combined),
            frame.machine.index,
        )


def _choices(frame: Frame, tile: Tile, rows: int, pack: bool) -> Choices:
    """Choices whose tile holds all ``rows``, if that can be: then keys are read once."""
    choices = frame.choices("decode", tile)
    bm = max(16, min(PACKED, 1 << (rows - 1).bit_length()))
    tile = replace(choices.tile, bm=bm)
    if not is_legal("decode", tile, frame.machine.target, frame.dtype, frame.D, frame.DV):
        tile = choices.tile
    return replace(choices, tile=tile, pack=pack, ordered=False)


def _splits(call: Call, frame: Frame, units: int, bn: int) -> int:
    """Parts of the keys: enough to fill the machine twice, each worth a program."""
    asked = option(frame.options, "fwd", "SPLIT_KV") if frame.options else None
    if asked is not None:
        return max(1, min(MOST_PARTS, asked, cdiv(frame.lengths[3], bn)))
    each = KEYS_PER_PART if call.query.is_cuda else bn
    wanted = cdiv(PARTS_PER_PROCESSOR * frame.machine.processors, units)
    return max(1, min(MOST_PARTS, wanted, frame.lengths[3] // each))
