"""Classes of a mask's blocks by a Triton kernel, which evaluates every pair and keeps none.

A program takes one block, so that memory is a byte per block. The host waits at most once: where
the mask may read outside a captured tensor, to learn whether it did.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flexattn.kernel.triton_source import Choices
from flexattn.kernel.triton_tiles import choose_tile
from flexattn.masks.classify import lower_edges
from flexattn.masks.tables import PARTIAL, cdiv
from flexattn.op.faults import fault_error
from flexattn.op.kernels import facts_of
from flexattn.op.programs import Bound
from flexattn.op.request import Call
from flexattn.op.triton_captures import capture_arguments, captures_on, choices_of_captures
from flexattn.op.triton_device import machine_of
from flexattn.op.triton_faults import NONE, new_cell, on_host, position_in
from flexattn.op.triton_plan import Frame, kernel_of
from flexattn.op.triton_streams import is_capturing
from flexattn.op.triton_tables import block_of

Shape = tuple[int, int, int, int]

HEAD_DIM = 16  # of no meaning: there are no queries and no keys


def classes(bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device) -> Tensor:
    """EMPTY, PARTIAL or FULL per block: uint8 [B, H, rows, cols]; ``shape`` = (B, H, M, N)."""
    batch, heads, rows, keys = shape
    counts = (batch, heads, cdiv(rows, block[0]), cdiv(keys, block[1]))
    found = torch.empty(counts, dtype=torch.uint8, device=device)
    _run(bound, shape, block, found, None)
    return lower_edges(found, (rows, keys), block)


def listed_classes(bound: Bound, shape: Shape, block: tuple[int, int], listed: Tensor) -> Tensor:
    """Classes of some blocks alone: uint8, one for each entry of ``listed``.

    Pairs beyond the lengths are not asked for: a block that reaches beyond is FULL where all
    pairs that exist are kept.

    Args:
        listed: Numbers ((b * H + h) * rows + row) * cols + col, int32 on the mask's device.
    """
    found = torch.empty(listed.shape, dtype=torch.uint8, device=listed.device)
    _run(bound, shape, block, found, listed)
    return found


def settler(
    bound: Bound, shape: Shape, block: tuple[int, int], device: torch.device
) -> Callable[[tuple[np.ndarray, ...]], np.ndarray]:
    """Classes of blocks listed by slice, row and column, as `op.proofs` asks for them."""
    rows, cols = cdiv(shape[2], block[0]), cdiv(shape[3], block[1])

    def settle(tiles: tuple[np.ndarray, ...]) -> np.ndarray:
        slices, row, col = tiles
        # A fault is reported for the block listed first, so they are listed in order.
        numbers = (slices.astype(np.int64) * rows + row) * cols + col
        order = np.argsort(numbers)
        found = np.full(len(order), PARTIAL, np.uint8)
        # The kernel counts in 32 bits. To call a block beyond partial is right, if not exact.
        order = order[: np.searchsorted(numbers[order], 1 << 31)]
        listed = torch.from_numpy(numbers[order].astype(np.int32)).to(device)
        found[order] = listed_classes(bound, shape, block, listed).cpu().numpy()
        return found

    return settle


def _run(
    bound: Bound, shape: Shape, block: tuple[int, int], found: Tensor, listed: Tensor | None
) -> None:
    batch, heads, rows, keys = shape
    device, machine = found.device, machine_of(found.device)
    captures = captures_on(bound, device)
    cut = block_of(block, (rows, keys))
    tile = choose_tile("classes", machine.target, "f32", HEAD_DIM, HEAD_DIM, block=cut)
    dense, far = choices_of_captures(captures)
    choices = Choices(tile, listed=listed is not None, dense_captures=dense, far=far)
    frame = Frame(
        *(machine, "f32", torch.float32, HEAD_DIM, HEAD_DIM, shape, 1, cut, 0),
        *(facts_of(bound, shape), choices, ()),
    )
    kernel = kernel_of(bound.variant, "classes", frame, choices)
    cell = new_cell(device)
    kernel.launch(
        (found.numel(),),
        (
            *(found, cell if listed is None else listed),
            *(batch, heads, rows, keys, cdiv(rows, block[0]), cdiv(keys, block[1]), *cut),
            *(found.numel(), capture_arguments(bound, captures), cell),
        ),
        machine.index,
    )
    if kernel.source.hooks.fault is None or is_capturing(found):
        return
    place = int(cell)
    if place != NONE:
        raise fault_error(_as_call(bound, shape), position_in(place, heads, rows, keys))


def _as_call(bound: Bound, shape: Shape) -> Call:
    """A call of these lengths on vectors of no elements: what messages about faults start from."""
    batch, heads, rows, keys = shape
    query, key = (torch.empty((batch, heads, length, 0)) for length in (rows, keys))
    return Call(query, key, key, on_host(bound), [], (1, 1), 1.0, "triton", False, False)
