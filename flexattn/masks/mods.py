"""Mask functions and what can be made of them: and, or, not, and a mask seen through a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import ModSignatureError
from flexattn.masks.tables import FULL, PARTIAL

MaskMod: TypeAlias = Callable[[Any, Any, Any, Any], Any]
"""``mask_mod(b, h, q_idx, kv_idx) -> bool``: whether this query attends to this key."""

AxisMap: TypeAlias = Callable[[Any], Any]
"""An index of a sliced mask to the index of the mask that it was cut from."""


def noop_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The mask_mod that keeps every pair."""
    return b.new_ones((), dtype=torch.bool)


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that keeps what all of ``mask_mods`` keep; everything when there are none."""
    for mod in mask_mods:
        check_callable(mod, "and_masks")
    if not mask_mods:
        return noop_mask
    first, *others = mask_mods

    def and_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result = first(b, h, q_idx, kv_idx)
        for mod in others:
            result = result & mod(b, h, q_idx, kv_idx)
        return result

    return and_mask


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that keeps what any of ``mask_mods`` keeps; nothing when there are none."""
    for mod in mask_mods:
        check_callable(mod, "or_masks")
    if not mask_mods:
        return not_mask(noop_mask)
    first, *others = mask_mods

    def or_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result = first(b, h, q_idx, kv_idx)
        for mod in others:
            result = result | mod(b, h, q_idx, kv_idx)
        return result

    return or_mask


def not_mask(mask_mod: MaskMod) -> MaskMod:
    """The mask_mod that keeps what ``mask_mod`` does not."""
    check_callable(mask_mod, "not_mask")

    def inverted_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        # `~True` is -2 for a mod that returns a Python bool; exclusive or is right for both.
        return mask_mod(b, h, q_idx, kv_idx) ^ True

    return inverted_mask


def check_callable(mod: object, where: str) -> None:
    """Raise ModSignatureError unless ``mod`` can be called; ``where`` names the caller."""
    if not callable(mod):
        raise ModSignatureError(
            f"{where} got {mod!r:.80}, which is not callable.",
            why="a mask is described by a function mask_mod(b, h, q_idx, kv_idx) -> bool.",
            fix=f"pass the function itself, such as {where}(causal).",
        )


def rebase(
    mask_mod: MaskMod,
    b_map: AxisMap,
    h_map: AxisMap,
    q_map: AxisMap,
    kv_map: AxisMap,
    lengths: tuple[int | None, int | None] = (None, None),
) -> MaskMod:
    """``mask_mod`` for a mask whose indices are mapped before they are used.

    Queries (keys) that map to ``lengths[0]`` (``lengths[1]``) and beyond never existed, and are
    dropped; None where there are none such.
    """
    q_len, kv_len = lengths

    def sliced_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mask_mod(b_map(b), h_map(h), q_map(q_idx), kv_map(kv_idx))

    def padded_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        q, kv = q_map(q_idx), kv_map(kv_idx)
        there = True
        if q_len is not None:
            there, q = q < q_len, q.clamp(max=q_len - 1)
        if kv_len is not None:
            there, kv = there & (kv < kv_len), kv.clamp(max=kv_len - 1)
        return there & mask_mod(b_map(b), h_map(h), q, kv)

    return sliced_mask if lengths == (None, None) else padded_mask


def listed_mask(
    mask_mod: MaskMod, classes: Tensor, lengths: tuple[int, int], block: tuple[int, int]
) -> MaskMod:
    """What a block list and its ``mask_mod`` keep together, as a mod that captures the list.

    Args:
        mask_mod: Decides in partial blocks, and outside of ``lengths``.
        classes: EMPTY, PARTIAL or FULL: uint8 [B, H, rows, cols]; B and H may be 1.
        lengths: (Q_LEN, KV_LEN), 1 or more, that the list is for.
        block: (queries, keys) of one.
    """
    q_len, kv_len = lengths
    has_batch, has_heads = (size > 1 for size in classes.shape[:2])
    table = classes.squeeze(0) if not has_batch else classes
    table = table.squeeze(-3) if not has_heads else table

    def listed(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        row = q_idx.clamp(max=q_len - 1) // block[0]
        column = kv_idx.clamp(max=kv_len - 1) // block[1]
        heads = ((b,) if has_batch else ()) + ((h,) if has_heads else ())
        at = (*heads, row, column)
        kind = table[at]
        inside = (q_idx < q_len) & (kv_idx < kv_len)
        asked = (kind == PARTIAL) | (inside ^ True)
        return (inside & (kind == FULL)) | (asked & mask_mod(b, h, q_idx, kv_idx))

    return listed


def batched_mask(parts: Sequence[tuple[int, int, MaskMod]]) -> MaskMod:
    """Batches ``start`` to ``end`` (exclusive) of each part have its mod, counted from 0."""
    chosen = tuple(parts)

    def batch_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result: Any = False
        for start, end, mask_mod in chosen:
            own = (b - start).clamp(0, end - start - 1)  # others are dropped, but may be read
            mine = (b >= start) & (b < end)
            result = (mine & mask_mod(own, h, q_idx, kv_idx)) | result
        return result

    return batch_mask


def identity_map(index: Any) -> Any:
    """The axis was not sliced."""
    return index


def constant_map(value: int) -> AxisMap:
    """The axis was cut to one entry, which serves every index (a mask of B=1 broadcasts)."""

    def constant(index: Any) -> Any:
        return index * 0 + value

    return constant


def offset_map(start: int) -> AxisMap:
    """The axis was cut to a contiguous range from ``start``."""

    def offset(index: Any) -> Any:
        return index + start

    return offset


def lookup_map(table: Tensor, block: int) -> AxisMap:
    """The axis was cut to the blocks of ``block`` indices that ``table`` (int64) lists."""

    def lookup(index: Any) -> Any:
        return table[index // block] * block + index % block

    def lookup_one(index: Any) -> Any:
        return table[index]

    return lookup_one if block == 1 else lookup
