"""Masks as graphs, bound to values, and what they keep: by their closed form and by brute force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tile_truth import true_classes
from torch import Tensor

from flexattn.analysis.closed.bound import BoundForm, bind_form
from flexattn.analysis.closed.conditions import without_conditions
from flexattn.analysis.closed.rows import rows_of
from flexattn.analysis.closed.solve import solve
from flexattn.analysis.runs import to_classes
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import Node
from flexattn.ir.program import CaptureType

NAMES = ("b", "h", "q_idx", "kv_idx")
Shape = tuple[int, int, int, int]
DTYPES = {
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float32: "f32",
}


def bound_of(
    root: Node,
    captures: Sequence[Tensor],
    numbers: Sequence[int],
    shape: Shape,
    solved: str = "kv_idx",
    *,
    plain: bool = False,
) -> BoundForm | None:
    """The closed form of ``root`` with these values, if it has one.

    Args:
        plain: The one without conditions.
    """
    types = tuple(CaptureType(DTYPES[t.dtype], t.ndim) for t in captures)
    form = solve(root, types, len(numbers), solved)
    if plain and form is not None:
        form = without_conditions(form, types, len(numbers))
    return None if form is None else bind_form(form, shape, numbers, [t.numpy() for t in captures])


def brute(root: Node, captures: Sequence[Tensor], numbers: Sequence[int], shape: Shape) -> Tensor:
    """What ``root`` keeps, by the interpreter: bool [B, H, Q, KV]."""
    env = {
        name: torch.arange(n).reshape([-1 if axis == d else 1 for axis in range(4)])
        for d, (name, n) in enumerate(zip(NAMES, shape))
    }
    env |= {f"n{i}": torch.tensor(value) for i, value in enumerate(numbers)}
    return evaluate(root, env, list(captures)).expand(shape)


def kept_by(bound: BoundForm) -> np.ndarray:
    """What the pieces keep: bool [B, H, Q, KV]."""
    form, shape = bound.form, bound.shape
    values = bound.grid(np.arange(bound.given_length))
    x = np.arange(bound.solved_length)
    kept = np.zeros((*shape[:2], bound.given_length, bound.solved_length), bool)
    for piece in form.pieces:
        low, high = (values(end)[..., None] for end in (piece.low, piece.high))
        held = (low <= x) & (x < high)
        if piece.when is not None:
            held = held & values(piece.when)[..., None]
        if piece.repeat is not None:
            period, shift, begin, end = (
                values(part)[..., None]
                for part in (
                    piece.repeat.period,
                    piece.repeat.shift,
                    piece.repeat.begin,
                    piece.repeat.end,
                )
            )
            left = (x + shift) % period
            held = held & (begin <= left) & (left < end)
        kept = kept | held
    return kept if form.solved == "kv_idx" else kept.swapaxes(-1, -2)


def fault_of(
    root: Node,
    captures: Sequence[Tensor],
    numbers: Sequence[int],
    shape: Shape,
    block: tuple[int, int],
    solved: str = "kv_idx",
) -> str | None:
    """What is wrong with the closed form of a mask, or ``none`` if it has none; None if nothing."""
    bound = bound_of(root, captures, numbers, shape, solved)
    if bound is None:
        return "none"
    kept = brute(root, captures, numbers, shape).numpy()
    fault = _fault_of(bound, kept, shape, block, solved)
    if fault is None and any(piece.when is not None for piece in bound.form.pieces):
        plain = bound_of(root, captures, numbers, shape, solved, plain=True)
        return plain and _fault_of(plain, kept, shape, block, solved)
    return fault


def _fault_of(
    bound: BoundForm, kept: np.ndarray, shape: Shape, block: tuple[int, int], solved: str
) -> str | None:
    """What is wrong with a form of a mask that keeps ``kept``; None if nothing."""
    if not np.array_equal(np.broadcast_to(kept_by(bound), shape), kept):
        return "the form keeps other pairs"
    rows = rows_of(bound, block)
    if rows is None:
        return None
    truth = true_classes(kept, block)
    classes = to_classes(rows.runs)
    if solved == "q_idx":  # rows are columns of blocks
        truth, block, shape = truth.swapaxes(-1, -2), block[::-1], (*shape[:2], *shape[:1:-1])
    slices = np.broadcast_to(rows.runs.slices, shape[:2])
    if not np.array_equal(classes[slices], truth):
        return "the runs are other blocks"
    if rows.by_ends and not (by_ends(bound, block) == truth).all():
        return "first and last positions give other blocks"
    return None


def by_ends(bound: BoundForm, block: tuple[int, int]) -> np.ndarray:
    """The classes that a kernel finds from first and last positions, as `ir/program.py` says.

    uint8 [B|1, H|1, rows, cols]. ``block``: positions of the given and of the solved index.
    """
    batch, heads = bound.shape[:2]
    q_len, kv_len = bound.given_length, bound.solved_length
    rows, cols = -(-q_len // block[0]), -(-kv_len // block[1])
    found = np.zeros((batch, heads, rows, cols), np.uint8)
    first = np.arange(rows) * block[0]
    last = np.minimum(first + block[0], q_len) - 1
    at_first, at_last = bound.grid(first), bound.grid(last)
    begin = np.arange(cols) * block[1]
    for piece in bound.form.pieces:
        low0, high0 = (at_first(end)[..., None] for end in (piece.low, piece.high))
        low1, high1 = (at_last(end)[..., None] for end in (piece.low, piece.high))
        low0, low1 = np.maximum(low0, 0), np.maximum(low1, 0)
        high0, high1 = np.minimum(high0, kv_len), np.minimum(high1, kv_len)
        visited = (low0 // block[1] <= begin // block[1]) & (begin < high1) & (low0 < high1)
        filled = (low1 <= begin) & (begin + block[1] <= high0)
        filled = filled & (first + block[0] <= q_len)[:, None]
        found = np.maximum(found, np.where(filled, 2, visited.astype(np.uint8)))
    return found
