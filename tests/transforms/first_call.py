"""Run by test_first_call.py in a process of its own: torch.compile before anything else.

Usage: first_call.py BACKEND; prints one JSON object.
"""

from __future__ import annotations

import json
import sys

import torch

from flexattn import create_block_mask, flex_attention


class Layer(torch.nn.Module):
    """Self-attention with a learned bias, a mask made inside, and two numbers that vary."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(8, 24)
        self.bias = torch.nn.Parameter(torch.randn(4, 31))

    def forward(self, x: torch.Tensor, window: int, cap: float) -> torch.Tensor:
        query, key, value = self.project(x).chunk(3, -1)

        def softcap(score, b, h, q_idx, kv_idx):
            return torch.tanh(score / cap) * cap + self.bias[h, q_idx - kv_idx + 15]

        def sliding(b, h, q_idx, kv_idx):
            return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

        mask = create_block_mask(sliding, None, None, 16, 16, device="cpu", BLOCK_SIZE=4)
        return flex_attention(query, key, value, softcap, mask)


def main(backend: str) -> None:
    dynamo_at_import = "torch._dynamo" in sys.modules
    torch.manual_seed(0)
    layer, x = Layer(), torch.randn(2, 4, 16, 8)
    graphs = 0

    def count(graph, example_inputs):
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend(backend)(graph, example_inputs)

    compiled = torch.compile(layer, fullgraph=True, backend=count)
    error = 0.0
    for i in range(20):
        results = []
        for run in (compiled, layer):  # the first call of all is the compiled one
            layer.zero_grad()
            out = run(x, 2 + i, 1.5 + i / 3)
            out.sin().sum().backward()
            results.append([out.detach(), *(p.grad.clone() for p in layer.parameters())])
        for a, b in zip(*results):
            error = max(error, float((a - b).abs().max() / b.abs().max()))
    print(json.dumps({"graphs": graphs, "error": error, "dynamo_at_import": dynamo_at_import}))


main(sys.argv[1])
