"""What `python -m flexattn bench` measures: one function a suite, each giving rows of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from flexattn.bench import mods
from flexattn.bench.cpu import DECODES, cpu_backward, cpu_decode, cpu_forward, threads
from flexattn.bench.masks import masks, steps
from flexattn.bench.shapes import SHAPES, Row, Shape, causal, inputs, torch_flex
from flexattn.bench.startup import memory, startup
from flexattn.bench.timing import alternate
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask


def latency(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Microseconds per call at a tiny shape, where only overhead is left."""
    shape = Shape(4, 128, 64, torch.float32, True)
    q, k, v = inputs(shape)
    tiny = [t[:, :1, :8, :8].contiguous() for t in (q, k, v)]
    mask, longer = (create_block_mask(causal, None, None, n, n) for n in (8, shape.S))
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: flex_attention(*tiny),
        "block_mask": lambda: flex_attention(*tiny, block_mask=mask),
        "block_mask_softcap": lambda: flex_attention(*tiny, mods.tanh_softcap, mask),
        "sdpa": lambda: F.scaled_dot_product_attention(*tiny),
        "H4_S128_causal": lambda: flex_attention(q, k, v, block_mask=longer),
    }
    with torch.no_grad():
        if peers:
            calls["H4_S128_causal_torch_flex"] = torch_flex(shape, q, k, v)
        for name, timing in alternate(calls, rounds=rounds, at_least=0.05).items():
            yield {"call": name, "microseconds": timing.median * 1e6, "spread": timing.spread}
    tick()


SUITES = {
    "cpu-forward": (cpu_forward, len(SHAPES)),
    "cpu-backward": (cpu_backward, len(SHAPES)),
    "cpu-decode": (cpu_decode, len(DECODES)),
    "threads": (threads, sum(shape.causal for shape in SHAPES)),
    "mods": (mods.mods, mods.steps()),
    "latency": (latency, 1),
    "masks": (masks, steps()),
    "startup": (startup, 2),
    "memory": (memory, 1),
}
