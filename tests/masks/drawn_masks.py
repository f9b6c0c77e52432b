"""Masks for the tests of operations: drawn by hypothesis, or written down."""

from __future__ import annotations

import torch
from dense_truth import MODS
from hypothesis import strategies as st

from flexattn import create_block_mask
from flexattn.masks import BlockMask, noop_mask
from flexattn.masks.tables import FULL, PARTIAL, from_classes

BLOCK = (8, 4)
LENGTHS = st.tuples(st.integers(1, 26), st.integers(1, 18))
NAMES = st.sampled_from([*sorted(MODS), "noop"])


def mod_of(name: str):  # type: ignore[no-untyped-def]
    return noop_mask if name == "noop" else MODS[name]


@st.composite
def masks(draw, lengths: tuple[int, int], frame: tuple[int, int]):  # type: ignore[no-untyped-def]
    """A mask of ``frame``, or shared along it: made from a mod, or a list at odds with its mod."""
    name = draw(NAMES)
    b, h = (draw(st.sampled_from([1, size])) for size in frame)
    if draw(st.booleans()):
        separate = draw(st.booleans())
        return create_block_mask(
            mod_of(name),
            b,
            h,
            *lengths,
            device="cpu",
            BLOCK_SIZE=BLOCK,
            separate_full_blocks=separate,
        )
    rows, cols = (-(-length // size) for length, size in zip(lengths, BLOCK))
    most = draw(st.sampled_from([PARTIAL, FULL]))
    seed = draw(st.integers(0, 1 << 20))
    classes = torch.randint(
        0, most + 1, (b, h, rows, cols), generator=torch.Generator().manual_seed(seed)
    ).byte()
    return BlockMask._make(
        *from_classes(classes, most == FULL),
        seq_lengths=lengths,
        BLOCK_SIZE=BLOCK,
        mask_mod=mod_of(name),
        _q_wanted=True,
    )


def spread(mask: BlockMask, frame: tuple[int, int]) -> BlockMask:
    """The same list written out for every batch and head: what a shared mask means."""
    tables = [
        None if pair is None else tuple(t.expand(*frame, *t.shape[2:]) for t in pair)
        for pair in (mask._partial, mask._full)
    ]
    return mask._with(*tables)


@st.composite
def several(draw, count: int):  # type: ignore[no-untyped-def]
    lengths = draw(LENGTHS)
    frame = draw(st.sampled_from([(1, 1), (2, 1), (2, 3)]))
    return frame, [draw(masks(lengths, frame)) for _ in range(count)]


def frame_of(*parts: BlockMask) -> tuple[int, int]:
    return tuple(max(part.shape[axis] for part in parts) for axis in (0, 1))  # type: ignore[return-value]


def listed(values: list[list[int]], mod=noop_mask, block: int = 8, **fields) -> BlockMask:  # type: ignore[no-untyped-def]
    """A mask with these classes."""
    table = torch.tensor(values, dtype=torch.uint8)[None, None]
    lengths = tuple(size * block for size in table.shape[2:])
    defaults = {"seq_lengths": lengths, "BLOCK_SIZE": (block, block), "_q_wanted": True}
    return BlockMask._make(*from_classes(table, True), mask_mod=mod, **defaults | fields)


def make(lengths=(24, 24), batch=2, heads=3, block=8) -> BlockMask:  # type: ignore[no-untyped-def]
    return create_block_mask(MODS["causal"], batch, heads, *lengths, device="cpu", BLOCK_SIZE=block)
