"""More than 2**31 elements: offsets and positions beyond 32 bits, in both directions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from on_device import BACKEND, DEVICE, REHEARSAL, finish, near

from flexattn import create_block_mask, flex_attention

WINDOW = 48


@pytest.fixture(autouse=True)
def _one_at_a_time() -> Iterator[None]:
    """Several processes check at once, and one GPU cannot hold two of these."""
    with FileLock(Path(tempfile.gettempdir()) / "flexattn-gpu-large.lock"):
        yield
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def _needs(gigabytes: float) -> None:
    if REHEARSAL:
        return
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:.0f} GB of free memory on the GPU, there are {free:.0f}")


def _near_itself(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    return (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW)


def _window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
    """Rows ``first`` and on of one head, in float64, from the keys they see."""
    start = max(0, first - WINDOW)
    q, k, v = q[first:].double(), k[start:].double(), v[start:].double()
    rows = torch.arange(first, first + len(q), device=DEVICE)[:, None]
    keys = torch.arange(start, start + len(k), device=DEVICE)[None]
    score = torch.where(_near_itself(0, 0, rows, keys), q @ k.T / q.shape[1] ** 0.5, -torch.inf)
    return score.softmax(-1) @ v


@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
def test_many_heads_and_tokens(layout: str) -> None:
    """The last head of 260, over 65,536 tokens: 2.2e9 elements each, 1.1e12 pairs."""
    H, S, D = (3, 200, 16) if REHEARSAL else (260, 65536, 128)
    _needs(60)
    size = (1, H, S, D) if layout == "heads first" else (1, S, H, D)
    inputs = []
    for _ in range(3):
        tensor = torch.randn(size, device=DEVICE, dtype=torch.bfloat16)
        tensor = tensor if layout == "heads first" else tensor.transpose(1, 2)
        inputs.append(tensor.requires_grad_())
    mask = create_block_mask(_near_itself, None, None, S, S, device=DEVICE)
    out = flex_attention(*inputs, block_mask=mask, backend=BACKEND)
    rows = min(S, 160)
    last = [t[0, -1].detach() for t in inputs]
    exact = _window(*last, S - rows)
    near("out", out[0, -1, S - rows :], exact, exact, 1.6e-2)

    pull = torch.zeros_like(out)
    pull[0, -1, S - rows :] = torch.randn(rows, D, device=DEVICE).bfloat16()
    found = torch.autograd.grad(out, inputs, pull)
    leaves = [t.double().requires_grad_() for t in last]
    want = torch.autograd.grad(_window(*leaves, S - rows), leaves, pull[0, -1, S - rows :].double())
    for name, a, b in zip(("query", "key", "value"), found, want):
        b = b[S - rows :]
        near(f"gradient of {name}", a[0, -1, S - rows :], b, b, 3.2e-2)
        assert not a[0, 0].any(), f"gradient of {name} in a head that has none"


def test_fault_at_a_far_position() -> None:
    """A position counted in pairs, beyond 2**31."""
    S = 96 if REHEARSAL else 65536
    q = torch.randn(1, 2, S, 16, device=DEVICE, dtype=torch.bfloat16)
    table = torch.randn(S, device=DEVICE)
    mask = create_block_mask(_near_itself, None, None, S, S, device=DEVICE)

    def outside(s, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return s + table[kv_idx + (q_idx == S - 2) * (h == 1) * 2]

    with pytest.raises(IndexError, match=f"h=1, q_idx={S - 2}, kv_idx={S - 2}"):
        finish(lambda: flex_attention(q, q, q, outside, mask, backend=BACKEND))


def test_pair_bias_of_many_elements() -> None:
    """A captured tensor of 2.2e9 elements, and its gradient where the last queries are."""
    H, S = (2, 64) if REHEARSAL else (8, 16640)
    _needs(40)
    bias = torch.randn(H, S, S, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    q, k, v = (torch.randn(1, H, S, 64, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))

    def biased(s, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return s + bias[h, q_idx, kv_idx]

    out = flex_attention(q, k, v, biased, backend=BACKEND)
    pull = torch.zeros_like(out)
    pull[:, -1, -32:] = torch.randn(32, 64, device=DEVICE).bfloat16()
    (found,) = torch.autograd.grad(out, bias, pull)
    tail = bias[-1, -32:].detach().double().requires_grad_()
    score = q[0, -1, -32:].double() @ k[0, -1].double().T / 8 + tail
    exact = score.softmax(-1) @ v[0, -1].double()
    near("out", out[0, -1, -32:], exact, exact, 1.6e-2)
    (want,) = torch.autograd.grad(exact, tail, pull[0, -1, -32:].double())
    near("gradient of the bias", found[-1, -32:], want, want, 3.2e-2)
    assert not found[0].any()
