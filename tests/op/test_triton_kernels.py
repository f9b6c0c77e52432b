"""Which Triton kernels calls ask for, on an imagined GPU: nothing is compiled and nothing runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flexattn
from flexattn import create_block_mask, flex_attention
from flexattn.kernel.targets import target
from flexattn.kernel.triton_source import TritonSource
from flexattn.kernel.triton_tiles import Tile, candidates
from flexattn.op import triton, triton_backward, triton_device, triton_plan

SM_90 = target("sm_90")
Launches = list[TritonSource]


class Kernel:
    """Stands for one that is compiled; keeps what was launched."""

    def __init__(self, source: TritonSource, launched: Launches) -> None:
        self.source, self._launched = source, launched

    def launch(self, grid: tuple[int, ...], args: tuple[Any, ...], device: int | None) -> None:
        assert len(args) == len(self.source.arguments) and all(size > 0 for size in grid)
        self._launched.append(self.source)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Launches]:
    """The sources of the kernels launched, where the CPU passes for an H200."""
    seen: Launches = []
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(tmp_path))
    flexattn.clear_cache()
    gpu = triton_device.Machine(SM_90, 132, 0, "a GPU")
    monkeypatch.setattr(triton_device, "_STAND_IN", gpu)
    monkeypatch.setattr(triton_device, "is_interpreted", lambda: True)
    monkeypatch.setattr(triton_plan, "load_triton", lambda source: Kernel(source, seen))
    yield seen
    flexattn.clear_cache()


def qkv(batch: int, heads: int, rows: int, keys: int, *, offset: int = 0) -> list[Tensor]:
    """bf16 leaves of 64 columns; ``offset`` elements lie before each."""
    found = []
    for length in (rows, keys, keys):
        memory = torch.zeros(batch * heads * length * 64 + offset, dtype=torch.bfloat16)
        found.append(memory[offset:].view(batch, heads, length, 64).requires_grad_())
    return found


def keys_of(launched: Launches, kernel: str) -> set[str]:
    return {source.key for source in launched if source.spec.name == kernel}


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "blocks of 128"])
def test_fifty_shapes_need_one_kernel_of_each_kind(masked: bool, launched: Launches) -> None:
    draw = random.Random(1)
    table = torch.zeros(8, 2001, requires_grad=True)

    def biased(score, b, h, q_idx, kv_idx):
        return score + table[h, q_idx - kv_idx + 1000]

    for _ in range(50):
        rows, keys = draw.randint(65, 999), draw.randint(1, 999)
        inputs = qkv(draw.randint(1, 3), draw.randint(1, 8), rows, keys)
        mask = None
        if masked:
            mask = create_block_mask(causal, None, None, rows, keys, backend="eager")
        flex_attention(*inputs, biased, mask, backend="triton").sum().backward()
    for kernel in ("forward", "delta", "dq", "dkdv"):
        assert len(keys_of(launched, kernel)) == 1, kernel
        assert sum(source.spec.name == kernel for source in launched) == 50
    assert not keys_of(launched, "decode")


def test_rows_that_begin_anywhere_need_a_second_one(launched: Launches) -> None:
    """Wide loads and descriptors want addresses that are multiples of 16 bytes."""
    for offset in (0, 1, 8, 3, 16):
        inputs = qkv(1, 2, 100 + offset, 77, offset=offset)
        flex_attention(*inputs, backend="triton").sum().backward()
    for kernel in ("forward", "delta", "dq", "dkdv"):
        assert len(keys_of(launched, kernel)) == 2, kernel


def test_decoding_needs_one_for_each_height_of_its_tile(launched: Launches) -> None:
    """16, 32 or 64 rows of queries; parts are joined by powers of two of their number."""
    draw = random.Random(2)
    for _ in range(50):
        rows, keys = draw.randint(1, 64), draw.randint(512, 9999)
        inputs = qkv(draw.randint(1, 3), draw.randint(1, 4), rows, keys)
        with torch.no_grad():
            flex_attention(*inputs, backend="triton")
    assert not keys_of(launched, "forward")
    tall = {s.choices.tile.bm for s in launched if s.spec.name == "decode"}
    assert tall == {16, 32, 64} and len(keys_of(launched, "decode")) == 3
    joined = {s.choices.splits for s in launched if s.spec.name == "combine"}
    assert len(keys_of(launched, "combine")) == len(joined) <= 8


def test_descriptors_are_for_tiles_that_they_load_well(launched: Launches) -> None:
    q, k, v = qkv(1, 2, 100, 77)
    wide = torch.zeros(1, 2, 77, 512, dtype=torch.bfloat16)
    calls: list[tuple[Any, bool]] = [
        ((q, k, v), True),
        ((q.float(), k.float(), v.float()), False),
        ((q, k, wide), False),
    ]
    with torch.no_grad():
        for inputs, wanted in calls:
            flex_attention(*inputs, backend="triton")
            assert launched[-1].choices.descriptors == wanted
        flex_attention(q, k, v, backend="triton", kernel_options={"USE_TMA": False})
    assert not launched[-1].choices.descriptors


def test_options_of_one_direction(launched: Launches) -> None:
    q, k, v = qkv(1, 2, 100, 77)
    for options, forward, backward in (
        ({"bwd_USE_TMA": False, "bwd_fast_tanh": False}, True, False),
        ({"fwd_USE_TMA": False, "fwd_fast_tanh": False}, False, True),
        ({"USE_TMA": False, "fast_tanh": False, "bwd_USE_TMA": True, "bwd_fast_tanh": True},
         False, True),
    ):  # fmt: skip
        launched.clear()
        soft = lambda s, b, h, q_idx, kv_idx: 20 * torch.tanh(s / 20)  # noqa: E731
        flex_attention(q, k, v, soft, backend="triton", kernel_options=options).sum().backward()
        for source in launched:
            if source.spec.name != "delta":
                wanted = forward if source.spec.name == "forward" else backward
                assert source.choices.descriptors == source.choices.fast_tanh == wanted


class Timer:
    """Takes the place of `time_on_gpu`: the tile ``best`` is fastest."""

    def __init__(self, launched: Launches, best: Callable[[str], Tile]) -> None:
        self._launched, self._best = launched, best
        self.measured: list[tuple[str, Tile]] = []

    def __call__(self, run: Callable[[], object], device: torch.device) -> float:
        before = len(self._launched)
        run()
        source = self._launched[before]
        self.measured.append((source.spec.name, source.choices.tile))
        return 1.0 if source.choices.tile == self._best(source.spec.name) else 2.0


@pytest.mark.parametrize("rows", [100, 64], ids=["forward and backward", "decode"])
def test_tiles_of_every_kernel_are_measured_once(
    rows: int, launched: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def best(kernel: str) -> Tile:
        return candidates(kernel, SM_90, "bf16", 64, 64)[1]

    monkeypatch.setenv("FLEXATTN_AUTOTUNE", "1")
    timer = Timer(launched, best)
    monkeypatch.setattr(triton, "time_on_gpu", timer)
    monkeypatch.setattr(triton_backward, "time_on_gpu", timer)
    names = ("forward", "dq", "dkdv") if rows > 64 else ("decode", "dq", "dkdv")
    inputs = qkv(1, 2, rows, 777)
    for _ in range(2):
        flex_attention(*inputs, backend="triton").sum().backward()
        for name in names:
            tiles = candidates(name, SM_90, "bf16", 64, 64)
            assert len([tile for kernel, tile in timer.measured if kernel == name]) == len(tiles)
            last = [s.choices.tile for s in launched if s.spec.name == name][-1]
            assert (last == best(name)) or (name == "decode" and last.bm == 64)
        flexattn.clear_cache()  # what is on disk stays


def test_kernels_that_are_not_wanted_are_not_measured(
    launched: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXATTN_AUTOTUNE", "1")
    timer = Timer(launched, lambda kernel: Tile(16, 16, 4, 1))
    monkeypatch.setattr(triton, "time_on_gpu", timer)
    monkeypatch.setattr(triton_backward, "time_on_gpu", timer)
    q, k, v = qkv(1, 2, 100, 77)
    out = flex_attention(q, k.detach(), v.detach(), backend="triton")
    torch.autograd.grad(out.sum(), q)
    assert {kernel for kernel, _ in timer.measured} == {"forward", "dq"}


def test_rows_that_overlap_are_read_by_pointers(launched: Launches) -> None:
    """What a descriptor makes of a stride below the width of its rows is not defined."""
    q, k, v = qkv(1, 2, 128, 128)
    shared = k.detach()[:, :, :1].expand(k.shape)
    for keys, wanted in ((k, True), (shared, False)):
        launched.clear()
        flex_attention(q, keys, v, backend="triton").sum().backward()
        assert {kernel.spec.name for kernel in launched} == {"forward", "delta", "dq", "dkdv"}
        for source in launched:
            if source.spec.name != "delta":
                assert source.choices.aligned and source.choices.descriptors is wanted
