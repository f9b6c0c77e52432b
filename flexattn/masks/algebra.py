"""Masks made of masks: ``&``, ``|``, ``~``, and concatenation over the batch.

Block lists combine by number, as EMPTY < PARTIAL < FULL: and is the lesser, or the greater, not
turns the order around. What one mask leaves to the other stays PARTIAL, and the mask_mods decide
there. A list may hide or keep pairs against its mask_mod; where the combined mask_mod would be
asked about such a block, the list goes into it as a captured table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL
from flexattn.errors import BlockMaskError
from flexattn.ir.nodes import Input, walk
from flexattn.masks import grids
from flexattn.masks.grids import Grid
from flexattn.masks.mods import (
    MaskMod,
    and_masks,
    batched_mask,
    listed_mask,
    noop_mask,
    not_mask,
    or_masks,
)
from flexattn.trace import Traced, trace_mod

if TYPE_CHECKING:
    from flexattn.masks.block_mask import BlockMask


@dataclass(frozen=True)
class Rule:
    """One way to combine two masks.

    Attributes:
        sign: What the user wrote.
        classes: Combines classes of blocks.
        mods: Combines mask_mods.
        neutral: The class of a block that leaves the decision to the other mask.
    """

    sign: str
    classes: grids.Rule
    mods: Callable[..., MaskMod]
    neutral: int


AND = Rule("&", ((0, 0, 0), (0, 1, 1), (0, 1, 2)), and_masks, FULL)
OR = Rule("|", ((0, 1, 2), (1, 1, 2), (2, 2, 2)), or_masks, EMPTY)


def combine(first: BlockMask, second: BlockMask, rule: Rule) -> BlockMask:
    """The mask that keeps what both, or either, of two masks keep."""
    frame = _frame((first, second), rule.sign)
    masks = (first, second)
    one, other = map(_classes, masks)
    classes = grids.combine(one, other, rule.classes)
    mods: list[MaskMod] = []
    alone = True
    for mask, own in zip(masks, (one, other)):
        left_open = only(rule.neutral, PARTIAL)
        mod, mod_alone = _mod_for(mask, partial(grids.meet, own, classes, left_open), rule)
        alone &= mod_alone
        if not any(mod is known for known in mods):
            mods.append(mod)
    if rule is AND:
        mods = [mod for mod in mods if mod is not noop_mask] or [noop_mask]
    return grids.with_grid(
        first,
        classes,
        frame,
        separate_full=first._has_full or second._has_full,
        mask_mod=mods[0] if len(mods) == 1 else rule.mods(*mods),
        _mod_alone=alone,
        _q_wanted=first._q_wanted or second._q_wanted,
    )


def invert(mask: BlockMask) -> BlockMask:
    """The mask that keeps what ``mask`` does not."""
    classes = _classes(mask)
    edges = grids.edges(classes, mask.seq_lengths, mask.BLOCK_SIZE)
    turned = grids.combine(classes, edges, grids.INVERTED)
    mod, alone = _mod_for(mask, partial(grids.meet, classes, edges, grids.MARKED_EMPTY), None)
    return grids.with_grid(
        mask, turned, mask._heads, separate_full=True, mask_mod=not_mask(mod), _mod_alone=alone
    )


def concatenate(masks: Sequence[BlockMask]) -> BlockMask:
    """The batches of all ``masks``, one after another."""
    single = hasattr(masks, "_heads")  # whose batches a tuple would take one by one, forever
    masks = () if single else tuple(masks)
    if single or not all(hasattr(mask, "_heads") for mask in masks):
        raise BlockMaskError(
            "BlockMask.cat was not given masks alone.",
            why="it joins the batches of a list of masks.",
            fix="pass a list: BlockMask.cat([first, second]).",
        )
    if not masks:
        raise BlockMaskError(
            "there are no masks to concatenate.",
            why="a mask has lengths, a block size and a device, and none are given.",
            fix="pass one mask or more: BlockMask.cat([first, second]).",
        )
    first = masks[0]
    if len(masks) == 1:
        return first
    heads = _frame(masks, "BlockMask.cat", same_batch=False)[1]
    frames = [mask._heads for mask in masks]
    return grids.with_grid(
        first,
        grids.joined([grids.grid_of(mask) for mask in masks], frames, heads),
        (sum(batch for batch, _ in frames), heads),
        separate_full=any(mask._has_full for mask in masks),
        mask_mod=_mod_by_batch(masks),
        _mod_alone=all(mod_alone(mask, "h") for mask in masks),
        _q_wanted=any(mask._q_wanted for mask in masks),
    )


# What a mask_mod says without its list -------------------------------------------------------


def mod_alone(mask: BlockMask, axes: str = "bh") -> bool:
    """Whether the mask_mod keeps exactly what list and mask_mod together keep.

    A list with one entry for all batches (or heads) of a mask_mod that tells them apart says
    something else for every entry but the first.
    """
    if not mask._mod_alone:
        return False
    shared = {axis for axis, size in zip("bh", mask.shape) if size == 1 and axis in axes}
    return not shared or not shared & inputs_of(mask.mask_mod)


def inputs_of(mod: MaskMod) -> frozenset[str]:
    """Which of b, h, q_idx and kv_idx ``mod`` reads; all of them if it cannot be traced."""
    traced = _traced(mod)
    if traced is None:
        return frozenset(("b", "h", "q_idx", "kv_idx"))
    return frozenset(node.name for node in walk(traced.graph()) if isinstance(node, Input))


def same_mod(one: MaskMod, other: MaskMod) -> bool:
    """Whether two mask_mods have the same operations, numbers and captured values.

    False says only that this was not shown.
    """
    if one is other:
        return True
    a, b = _traced(one), _traced(other)
    if a is None or b is None or a.structure != b.structure:
        return False
    return [*map(repr, a.numbers)] == [*map(repr, b.numbers)] and all(
        x is y or (x.device == y.device and torch.equal(x, y))
        for x, y in zip(a.captures, b.captures)
    )


def _traced(mod: MaskMod) -> Traced | None:
    try:
        return trace_mod(mod, "mask")
    except Exception:  # what cannot be traced is reported by the call that needs it
        return None


def _mod_for(mask: BlockMask, hides: Callable[[], bool], rule: Rule | None) -> tuple[MaskMod, bool]:
    """The mod of ``mask`` for a combination, and whether it says by itself what the mask keeps.

    ``hides`` says whether there are blocks where the combined mod is asked although the list of
    ``mask`` had decided.
    """
    if mod_alone(mask):
        return mask.mask_mod, True
    if rule is AND and mask.mask_mod is noop_mask:
        return noop_mask, False  # it keeps everything, as a full block does
    if not all(mask.seq_lengths) or not hides():
        return mask.mask_mod, False
    classes = grids.dense(grids.grid_of(mask), "the list in a mask_mod", mask.device)
    return listed_mask(mask.mask_mod, classes, mask.seq_lengths, mask.BLOCK_SIZE), True


def only(one: int, other: int) -> grids.Rule:
    """PARTIAL where the classes of two grids are ``one`` and ``other``, elsewhere EMPTY."""
    return tuple(
        (0, 0, 0) if i != one else (int(other == 0), int(other == 1), int(other == 2))
        for i in range(3)
    )


def _classes(mask: BlockMask) -> Grid:
    """The classes of the blocks; a partial block that noop_mask fills is FULL."""
    classes = grids.grid_of(mask)
    if mask.mask_mod is not noop_mask:
        return classes
    edges = grids.edges(classes, mask.seq_lengths, mask.BLOCK_SIZE)
    return grids.combine(classes, edges, grids.FILLED)


# Concatenation --------------------------------------------------------------------------------


def _mod_by_batch(masks: Sequence[BlockMask]) -> MaskMod:
    """One mod for all batches: neighbours with the same mod that does not read b share it."""
    parts: list[tuple[int, int, MaskMod]] = []
    shared = False  # the last part does not read b
    start = 0
    for mask in masks:
        end = start + mask.shape[0]
        if shared and same_mod(parts[-1][2], mask.mask_mod):
            parts[-1] = (parts[-1][0], end, parts[-1][2])
        else:
            parts.append((start, end, mask.mask_mod))
            shared = "b" not in inputs_of(mask.mask_mod)
        start = end
    return parts[0][2] if shared and len(parts) == 1 else batched_mask(parts)


def _frame(masks: Sequence[BlockMask], sign: str, same_batch: bool = True) -> tuple[int, int]:
    """B and H of the result; raise unless the masks are of one grid."""
    first = masks[0]
    for mask in masks[1:]:
        for name, one, other in (
            ("BLOCK_SIZE", first.BLOCK_SIZE, mask.BLOCK_SIZE),
            ("seq_lengths", first.seq_lengths, mask.seq_lengths),
            ("device", first.device, mask.device),
        ):
            if one != other:
                raise BlockMaskError(
                    f"{sign} got masks with {name} {one} and {other}.",
                    why="their blocks are combined one by one.",
                    fix=_FIXES[name],
                )
    sizes = [{mask.shape[axis] for mask in masks} - {1} for axis in (0, 1)]
    for axis, found in list(zip("BH", sizes))[0 if same_batch else 1 :]:
        if len(found) > 1:
            raise BlockMaskError(
                f"{sign} got masks with {axis} of {' and '.join(map(str, sorted(found)))}.",
                why=f"a mask serves every {axis} only if it was made with {axis}=None or 1.",
                fix="make both for the same number, or one for all; or slice the larger one.",
            )
    batch, heads = (max(found, default=1) if 0 not in found else 0 for found in sizes)
    return batch, heads


_FIXES = {
    "BLOCK_SIZE": "make them with one BLOCK_SIZE.",
    "seq_lengths": "bring one to the other's lengths: mask._adjust(q_len, kv_len).",
    "device": "move one of them: mask.to(device).",
}
