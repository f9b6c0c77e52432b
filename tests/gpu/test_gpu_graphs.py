"""CUDA graphs, side streams, torch.compile and several threads of launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_device import BACKEND, DEVICE, causal, length, normal
from torch import Tensor

from flexattn import create_block_mask, flex_attention

needs_graphs = pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU")
SIZE = (2, 4, length(384, 33), length(64, 16))
TABLE = torch.randn(SIZE[1], 2 * SIZE[2] - 1, device=DEVICE)


def _bias(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 20 * torch.tanh(score / 20) + TABLE[h, q - k + SIZE[2] - 1]


def _replayed(step: Callable[[], list[Tensor]], inputs: list[Tensor]) -> None:
    """Captures ``step``, replays it on other inputs, and compares with a plain call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(3):
        with torch.no_grad():
            for tensor in inputs:
                tensor.copy_(torch.randn_like(tensor))
        for tensor in captured:
            tensor.detach().fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        found = [tensor.clone() for tensor in captured]
        for a, b in zip(found, step()):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@needs_graphs
@pytest.mark.parametrize("masked", [False, True])
def test_forward(masked: bool) -> None:
    inputs = [normal(*SIZE, dtype=torch.bfloat16, grad=False) for _ in range(3)]
    mask = create_block_mask(causal, None, None, SIZE[2], SIZE[2], device=DEVICE)
    options = {"block_mask": mask if masked else None, "backend": BACKEND}
    _replayed(lambda: [flex_attention(*inputs, _bias, **options)], inputs)


@needs_graphs
def test_forward_and_backward() -> None:
    inputs = [normal(*SIZE, dtype=torch.bfloat16) for _ in range(3)]
    table = TABLE.clone().requires_grad_()
    mask = create_block_mask(causal, None, None, SIZE[2], SIZE[2], device=DEVICE)

    def learned(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return score + table[h, q - k + SIZE[2] - 1]

    def step() -> list[Tensor]:
        out = flex_attention(*inputs, learned, mask, backend=BACKEND)
        return [out, *torch.autograd.grad(out.float().square().sum(), [*inputs, table])]

    _replayed(step, inputs)


@needs_graphs
@pytest.mark.parametrize("tokens", [1, 8])
def test_decode(tokens: int) -> None:
    q = normal(4, 16, tokens, 128, dtype=torch.bfloat16, grad=False)
    k, v = (normal(4, 2, 5000, 128, dtype=torch.bfloat16, grad=False) for _ in range(2))
    _replayed(lambda: [flex_attention(q, k, v, enable_gqa=True, backend=BACKEND)], [q, k, v])


@needs_graphs
def test_another_stream() -> None:
    inputs = [normal(*SIZE, dtype=torch.bfloat16, grad=False) for _ in range(3)]
    want = flex_attention(*inputs, _bias, backend=BACKEND)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = flex_attention(*inputs, _bias, backend=BACKEND)
    torch.cuda.synchronize()
    assert torch.equal(found, want)


def test_compiled_whole() -> None:
    """One node of a graph without breaks, forward and backward."""
    inputs = [normal(*SIZE) for _ in range(3)]
    mask = create_block_mask(causal, None, None, SIZE[2], SIZE[2], device=DEVICE)

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(q * 1.5, k, v, _bias, mask, backend=BACKEND).sin()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for call in (step, compiled):
        out = call(*inputs)
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
