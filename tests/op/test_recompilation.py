"""One mod, many shapes and values: how many kernels are built."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

import flexattn
from flexattn import create_block_mask, flex_attention


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(tmp_path))
    flexattn.clear_cache()


def _libraries() -> int:
    return len(list(Path(os.environ["FLEXATTN_CACHE_DIR"]).rglob("*.so")))


def _random_qkv(draw: random.Random) -> list[torch.Tensor]:
    batch, heads, rows, keys = (draw.randint(1, n) for n in (3, 4, 90, 90))
    tensors = []
    for length in (rows, keys, keys):
        if draw.random() < 0.5:
            tensor = torch.randn(batch, length, heads, 8).transpose(1, 2)
        else:
            tensor = torch.randn(batch, heads, 2 * length, 8)[:, :, ::2]
        tensors.append(tensor.requires_grad_())
    return tensors


def test_fifty_shapes_and_values_build_one_forward_and_one_backward() -> None:
    draw = random.Random(0)
    for _ in range(50):
        q, k, v = _random_qkv(draw)
        table = torch.randn(q.shape[1], 181, requires_grad=True)

        def score(s, b, h, q_idx, kv_idx, table=table):
            return s + table[h, q_idx - kv_idx + 90]

        flex_attention(q, k, v, score).square().sum().backward()
    info = flexattn.cache_info()
    assert (info.kernels_built, info.compiler_runs, _libraries()) == (2, 2, 2)


def test_ten_windows_build_at_most_two_forwards_and_two_backwards() -> None:
    q, k, v = (torch.randn(1, 2, 200, 8, requires_grad=True) for _ in range(3))

    def window(size):
        return lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    for size in range(10, 110, 10):
        mask = create_block_mask(window(size), None, None, 200, 200, backend="eager")
        flex_attention(q, k, v, block_mask=mask).sum().backward()
    info = flexattn.cache_info()
    assert info.kernels_built <= 4
    assert _libraries() == info.kernels_built == info.compiler_runs


def test_values_that_leave_the_range_of_proofs_add_one_kernel() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))

    def attend(size):
        table = torch.randn(size)
        return flex_attention(q, k, v, lambda s, b, h, q, k: s + table[k.clamp(max=14)])

    for size in (40, 30, 15, 60, 20, 15):
        attend(size)
    assert flexattn.cache_info().kernels_built <= 2


def test_cached_kernels_are_found_again_on_disk() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    flex_attention(q, k, v, lambda s, b, h, q, k: s * 0.3 + q)
    flexattn.clear_cache()
    flex_attention(q, k, v, lambda s, b, h, q, k: s * 0.3 + q)
    info = flexattn.cache_info()
    assert (info.kernels_built, info.disk_hits, info.compiler_runs) == (0, 1, 0)


def test_every_trace_is_counted() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    flex_attention(q, k, v)
    assert flexattn.cache_info().traces == 0
    for _ in range(3):
        flex_attention(q, k, v, lambda s, b, h, q, k: s * 0.5)
    assert flexattn.cache_info().traces == 3
    assert flexattn.cache_info().kernels_built == 2
