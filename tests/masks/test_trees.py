"""BlockMask as a pytree, and mask functions taken apart and pickled."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dense_truth import MODS, dense
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._pytree import (
    GetAttrKey,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)

from flexattn.masks import BlockMask, and_masks, noop_mask, or_masks
from flexattn.masks.closures import put_back, take_out

LENGTHS = (40, 48)


def make(mod=noop_mask, separate: bool = True) -> BlockMask:  # type: ignore[no-untyped-def]
    theirs = create_block_mask(
        MODS["causal"], 1, 2, *LENGTHS, device="cpu", BLOCK_SIZE=8, separate_full_blocks=separate
    )
    mask = BlockMask.from_torch(theirs)
    mask.mask_mod = mod
    return mask


def document_mod(ids: torch.Tensor, window: int = 5):  # type: ignore[no-untyped-def]
    def same(b, h, q, kv):  # type: ignore[no-untyped-def]
        return ids[q] == ids[kv]

    return and_masks(same, lambda b, h, q, kv: q - kv < window)


class Stateful:
    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def __call__(self, b, h, q, kv):  # type: ignore[no-untyped-def]
        return self.ids[q] == self.ids[kv]


def by_keyword(ids, b, h, q, kv, *, shift):  # type: ignore[no-untyped-def]
    return ids[q] == ids[kv] + shift


IDS = torch.arange(48) // 5
WAYS = {
    "lambda": lambda b, h, q, kv: q >= kv + 1,
    "nested": document_mod(IDS),
    "partial": functools.partial(by_keyword, IDS, shift=torch.tensor(0)),
    "default": lambda b, h, q, kv, ids=IDS: ids[q] == ids[kv],
    "object": Stateful(IDS),
    "method": Stateful(IDS).__call__,
    "importable": noop_mask,
    "sliced": make(MODS["causal"])[:, 1:, [2, 0]].mask_mod,
    "or of and": or_masks(document_mod(IDS), document_mod(IDS, 3)),
}


# Pytrees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [True, False])
def test_leaves_are_tables_and_captured_tensors(separate: bool) -> None:
    mask = make(document_mod(IDS), separate)
    leaves, spec = tree_flatten(mask)
    assert len(leaves) == (5 if separate else 3)
    assert leaves[0] is mask.kv_num_blocks and leaves[-1] is IDS
    back = tree_unflatten(leaves, spec)
    assert isinstance(back, BlockMask) and torch.equal(dense(back), dense(mask))
    assert back.q_indices is not None and back.seq_lengths == LENGTHS
    keyed, _ = tree_flatten_with_path(mask)
    assert keyed[0][0] == (GetAttrKey("kv_num_blocks"),)


def test_trees_of_like_masks_are_equal() -> None:
    specs = [
        tree_flatten(make(document_mod(ids, window)))[1]
        for ids, window in ((IDS, 5), (IDS + 1, 5), (IDS, 6))
    ]
    assert specs[0] == specs[1]  # other tensors are other leaves
    assert specs[0] != specs[2]  # another constant is another function
    assert tree_flatten(make(MODS["causal"]))[1] != tree_flatten(make(MODS["window"]))[1]


def test_tree_map_reaches_captured_tensors_and_odd_leaves() -> None:
    mask = make(document_mod(IDS))
    moved = tree_map(lambda leaf: leaf.to("meta"), mask)
    assert {leaf.device.type for leaf in tree_flatten(moved)[0]} == {"meta"}
    shifted = tree_map(lambda leaf: leaf.flip(-1) if leaf.ndim == 1 else leaf, mask)
    assert shifted.mask_mod(0, 0, torch.tensor(0), torch.tensor(2))  # ids 9 9 9 8 …
    assert not shifted.mask_mod(0, 0, torch.tensor(2), torch.tensor(3))
    axes = tree_map(lambda leaf: None, mask)
    assert axes.kv_indices is None
    assert IDS[0] == 0


@pytest.mark.parametrize("name", sorted(WAYS))
def test_taken_apart_and_put_back(name: str) -> None:
    mod = WAYS[name]
    tensors, rest = take_out(mod)
    changed = put_back(rest, [tensor * 0 for tensor in tensors])
    at = tuple(map(torch.tensor, (0, 0, 3, 1)))
    assert put_back(rest, tensors)(*at) == mod(*at)
    assert take_out(changed)[1] == rest and hash(take_out(changed)[1]) == hash(rest)
    if not tensors:
        assert changed is mod
    elif name in ("nested", "default"):
        assert changed(0, 0, torch.tensor(9), torch.tensor(7))  # all ids are 0 now


def test_functions_that_hold_themselves() -> None:
    def again(b, h, q, kv, depth=2):  # type: ignore[no-untyped-def]
        return (IDS_INSIDE[q] == 0) if depth == 0 else again(b, h, q, kv, depth - 1)

    IDS_INSIDE = IDS
    tensors, rest = take_out(again)
    assert len(tensors) == 1
    assert put_back(rest, tensors)(0, 0, torch.tensor(1), torch.tensor(0))


# Pickle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WAYS))
def test_pickled(name: str) -> None:
    mask = make(WAYS[name])
    other = pickle.loads(pickle.dumps(mask))
    assert isinstance(other, BlockMask) and other.shape == mask.shape
    assert torch.equal(other.full_kv_indices, mask.full_kv_indices)
    if name != "sliced":
        assert torch.equal(dense(other), dense(mask))
    if name == "importable":
        assert other.mask_mod is noop_mask


def test_pickled_into_another_process(tmp_path: Path) -> None:
    ids = torch.arange(48) // 7
    mask = make(lambda b, h, q, kv: ids[q] == ids[kv])
    (tmp_path / "mask.pickle").write_bytes(pickle.dumps(mask))
    code = (
        f"import pickle, torch; m = pickle.load(open({str(tmp_path / 'mask.pickle')!r}, 'rb'))\n"
        "print(m.shape, bool(m.mask_mod(0, 0, torch.tensor(6), torch.tensor(0))),"
        " bool(m.mask_mod(0, 0, torch.tensor(7), torch.tensor(6))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.split("\n")[0] == "(1, 2, 40, 48) True False", run.stderr


# torch.compile ----------------------------------------------------------------------------------


def test_inside_compiled_regions() -> None:
    """Tables without values are not checked; slices and lists of one's own are traced through."""

    def region(counts, columns):  # type: ignore[no-untyped-def]
        mask = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=8, mask_mod=MODS["causal"])
        part = mask[:, :, 1]
        return part.kv_indices, part, mask.q_num_blocks

    tables = torch.full((1, 1, 3), 2), torch.arange(3).expand(1, 1, 3, 3)
    compiled = torch.compile(region, backend="eager", fullgraph=True)
    (indices, part, columns), (wanted, _, wanted_columns) = compiled(*tables), region(*tables)
    assert torch.equal(indices, wanted) and torch.equal(columns, wanted_columns)
    assert part.shape == (1, 1, 8, 24) and bool(part.mask_mod(*map(torch.tensor, (0, 0, 0, 8))))
