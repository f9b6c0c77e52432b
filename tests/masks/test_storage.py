"""Masks in files: what was saved comes back, and files that hold no mask are refused."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_truth import MODS, dense
from drawn_masks import several
from hypothesis import given, settings
from test_trees import WAYS

from flexattn import create_block_mask
from flexattn.errors import BlockMaskError
from flexattn.masks import BlockMask, noop_mask, storage


def through_a_file(mask: BlockMask, **keywords: Any) -> BlockMask:
    file = io.BytesIO()
    mask.save(file)
    file.seek(0)
    return BlockMask.load(file, **keywords)


def make(name: str = "documents", frame: tuple[int, int] = (1, 2)) -> BlockMask:
    return create_block_mask(MODS[name], *frame, 40, 48, device="cpu", BLOCK_SIZE=8)


@settings(max_examples=60, deadline=None)
@given(several(1))
def test_saved_and_loaded(drawn) -> None:  # type: ignore[no-untyped-def]
    _, (mask,) = drawn
    other = through_a_file(mask)
    for mine, theirs in zip(mask.as_tuple()[:-1], other.as_tuple()[:-1]):
        same = torch.equal if isinstance(mine, torch.Tensor) else lambda a, b: a == b
        assert same(mine, theirs)
    assert torch.equal(dense(other), dense(mask))
    assert other._mod_alone == mask._mod_alone


@pytest.mark.parametrize("name", sorted(WAYS))
def test_every_kind_of_mod(name: str) -> None:
    mask = make()
    mask.mask_mod = WAYS[name]
    other = through_a_file(mask)
    if name != "sliced":
        assert torch.equal(dense(other), dense(mask))


def test_a_path_and_another_process(tmp_path: Path) -> None:
    ids = torch.arange(48) // 7
    mask = create_block_mask(lambda b, h, q, kv: ids[q] == ids[kv], 1, 1, 40, 48, BLOCK_SIZE=8)
    mask.save(tmp_path / "mask.pt")
    code = (
        f"from flexattn import BlockMask; m = BlockMask.load({str(tmp_path / 'mask.pt')!r})\n"
        "print(m.shape, m.sparsity(exact=True))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == f"{mask.shape} {mask.sparsity(exact=True)}", run.stderr


def test_with_a_mod_of_ones_own_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes) -> None:
        raise AssertionError

    mask = make()
    monkeypatch.setattr(storage, "load_mod", refuse)
    other = through_a_file(mask, mask_mod=noop_mask)
    assert other.mask_mod is noop_mask and not other._mod_alone
    assert torch.equal(other.kv_indices, mask.kv_indices)
    with pytest.raises(AssertionError):
        through_a_file(mask)


def test_files_are_small() -> None:
    """Neither repeated heads nor the rest of a whole mask are written."""
    many, part = make(frame=(64, 32)), make("heads", (4, 8))[1, 2, 3]

    def size(mask: BlockMask) -> int:
        file = io.BytesIO()
        mask.save(file)
        return len(file.getvalue())

    shared = create_block_mask(MODS["causal"], 64, 32, 400, 480, device="cpu", BLOCK_SIZE=8)
    own = create_block_mask(MODS["causal"], 1, 1, 400, 480, device="cpu", BLOCK_SIZE=8)
    assert size(shared) - size(own) < 100
    assert through_a_file(shared).kv_indices.stride()[:2] == (0, 0)
    assert through_a_file(part).kv_indices.untyped_storage().nbytes() == 4 * 6
    assert through_a_file(many).shape == many.shape


def test_device() -> None:
    moved = through_a_file(make(), device="cpu")
    assert moved.device.type == "cpu"
    ids = torch.arange(48) // 7
    mask = make()
    mask.mask_mod = lambda b, h, q, kv: ids[q] == ids[kv]
    far = through_a_file(mask, mask_mod=mask.mask_mod, device="meta")
    assert far.device.type == "meta"
    assert far.mask_mod.__closure__[0].cell_contents.device.type == "meta"


@pytest.mark.parametrize(
    "content",
    [b"no file of torch", b"", pickle.dumps(3), {"a": 1}, [1], "a string"],
)
def test_files_without_a_mask(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(BlockMaskError, match=r"(?s)file holds no block mask.*why.*fix"):
        BlockMask.load(path)


def hand_made() -> BlockMask:
    """A mask of tables."""
    mask = make()
    lists = (*mask._partial, *(mask._full or ()))
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=8, seq_lengths=(40, 48))


def altered(runs: dict[str, Any], name: str, at: Any, value: int) -> dict[str, Any]:
    array = runs[name].clone()
    array[at] = value
    return {"runs": runs | {name: array}}


def test_damaged_masks(tmp_path: Path) -> None:
    make("causal").save(tmp_path / "runs")
    hand_made().save(tmp_path / "tables")
    runs, tables = (torch.load(tmp_path / kind, weights_only=True) for kind in ("runs", "tables"))
    lists, own = tables["tables"], runs["runs"]
    for state, change, message in (
        (runs, {"flexattn.BlockMask": 3}, "its format is 3"),
        (runs, {"mask_mod": 3}, "not stored as bytes"),
        (tables, {"tables": lists | {"kv_indices": lists["kv_indices"] + 99}}, "kv_indices"),
        (tables, {"tables": lists | {"kv_num_blocks": "x"}}, "kv_num_blocks is str"),
        (tables, {"tables": 3}, "neither tables nor runs"),
        (runs, {"device": 3}, "on which device"),
        (runs, {"device": "elsewhere"}, "cannot be used here"),
        (runs, {"seq_lengths": (40, -1)}, "seq_lengths"),
        (runs, {"seq_lengths": (48, 48)}, "5 rows of blocks"),
        (runs, {"seq_lengths": (40, 8)}, "lists column 4"),
        (runs, {"BLOCK_SIZE": 0}, "BLOCK_SIZE"),
        (runs, {"runs": own | {"rows": "5"}}, "no numbers"),
        (runs, {"runs": own | {"first": None}}, "not stored as tensors"),
        (runs, {"runs": own | {"start": own["start"].long()}}, "start is int64"),
        (runs, {"runs": own | {"start": own["start"][1:]}}, "differ in length"),
        (runs, {"runs": own | {"B": 3, "slices": own["slices"].expand(2, 2)}}, "serve no mask"),
        (runs, {"runs": own | {"rows": 3}}, "not a multiple of 3"),
        (runs, {"runs": own | {"count": own["stop"]}}, "period or count is missing"),
        (runs, {"runs": own | {"count": own["stop"] * 0 + 2, "period": own["stop"] * 0}}, "itself"),
        (runs, altered(own, "slices", (0, 0), 9), "1 slices"),
        (runs, altered(own, "first", 0, 1), "ascend"),
        (runs, altered(own, "first", 2, 0), "ascend"),
        (runs, altered(own, "start", 0, -1), "outside of 6 columns"),
        (runs, altered(own, "stop", 0, 7), "outside of 6 columns"),
        (runs, altered(own, "stop", 0, 0), "outside of 6 columns"),
        (runs, altered(own, "stop", 1, 6), "overlap"),
    ):
        torch.save(state | change, tmp_path / "bad")
        with pytest.raises(BlockMaskError, match=message):
            BlockMask.load(tmp_path / "bad", mask_mod=noop_mask)
    with pytest.raises(FileNotFoundError):
        BlockMask.load(tmp_path / "none")


@pytest.mark.parametrize("separate", [True, False])
def test_files_of_the_first_format(separate: bool, tmp_path: Path) -> None:
    """Tables beside the other fields, and no device."""
    mask = create_block_mask(
        MODS["causal"], 1, 2, 40, 48, device="cpu", BLOCK_SIZE=8, separate_full_blocks=separate
    )
    mask.save(tmp_path / "now")
    state = torch.load(tmp_path / "now", weights_only=True)
    del state["runs"], state["device"]
    tables = {name: getattr(mask, name) for name in storage.TABLES}
    torch.save(state | tables | {"flexattn.BlockMask": 1}, tmp_path / "then")
    other = BlockMask.load(tmp_path / "then", mask_mod=mask.mask_mod)
    assert torch.equal(dense(other), dense(mask)) and other._q_wanted
    assert other.device == mask.device and other._has_full == separate


def test_code_in_the_tables_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "ran").touch, ()

    make().save(tmp_path / "good")
    state = torch.load(tmp_path / "good", weights_only=True)
    torch.save(state | {"seq_lengths": Evil()}, tmp_path / "bad")
    with pytest.raises(BlockMaskError, match="holds no block mask"):
        BlockMask.load(tmp_path / "bad", mask_mod=noop_mask)
    assert not (tmp_path / "ran").exists()
