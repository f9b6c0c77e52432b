"""What `python -m flexattn bench` measures: one function a suite, each giving rows of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from flexattn.bench.masks import masks, steps
from flexattn.bench.startup import memory, startup
from flexattn.bench.timing import Timing, alternate
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One problem: batch 1, ``H`` heads, ``S`` tokens on both sides, head dimension ``D``."""

    H: int
    S: int
    D: int
    dtype: torch.dtype
    causal: bool

    @property
    def flops(self) -> float:
        """Useful floating-point operations of the forward pass: 4·H·S²·D, half if causal."""
        return 4.0 * self.H * self.S**2 * self.D * (0.5 if self.causal else 1.0)

    @property
    def label(self) -> Row:
        dtype = str(self.dtype).removeprefix("torch.")
        mask = "causal" if self.causal else "full"
        return {"dtype": dtype, "D": self.D, "S": self.S, "H": self.H, "mask": mask}


SHAPES = tuple(
    Shape(H, S, D, dtype, causal)
    for dtype in (torch.float32, torch.bfloat16)
    for D in (64, 128)
    for H, S in ((8, 1024), (8, 2048), (4, 4096))
    for causal in (False, True)
)


def causal(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Keep keys up to the query itself."""
    return q_idx >= kv_idx


def tanh_softcap(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Soft-capping at 20, written as its users write it."""
    return 20.0 * torch.tanh(score / 20.0)


def _inputs(shape: Shape, requires_grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = (1, shape.H, shape.S, shape.D)
    make = lambda: torch.randn(size, generator=generator).to(shape.dtype)  # noqa: E731
    return [make().requires_grad_(requires_grad) for _ in range(3)]


def _ours(shape: Shape, q: Any, k: Any, v: Any) -> Callable[[], torch.Tensor]:
    mask = create_block_mask(causal, None, None, shape.S, shape.S) if shape.causal else None
    return lambda: flex_attention(q, k, v, block_mask=mask)


def _sdpa(shape: Shape, q: Any, k: Any, v: Any) -> Callable[[], torch.Tensor]:
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal)


def _torch_flex(shape: Shape, q: Any, k: Any, v: Any) -> Callable[[], torch.Tensor]:
    from torch.nn.attention import flex_attention as peer  # heavy: imports the compiler

    mask = None
    if shape.causal:
        mask = peer.create_block_mask(causal, None, None, shape.S, shape.S, device="cpu")
    compiled = torch.compile(peer.flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask)


def cpu_forward(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Forward beside scaled_dot_product_attention and torch's compiled flex_attention."""
    with torch.no_grad():
        for shape in SHAPES:
            tensors = _inputs(shape)
            contestants = {"ours": _ours(shape, *tensors), "sdpa": _sdpa(shape, *tensors)}
            if peers:
                torch.compiler.reset()
                contestants["torch_flex"] = _torch_flex(shape, *tensors)
            yield shape.label | _figures(shape.flops, alternate(contestants, rounds=rounds))
            tick()


def cpu_backward(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Forward and backward together beside scaled_dot_product_attention (flex has none on CPUs)."""
    for shape in SHAPES:
        tensors = _inputs(shape, requires_grad=True)
        gradient = torch.randn_like(tensors[0])
        contestants = {}
        for name, make in (("ours", _ours), ("sdpa", _sdpa)):
            contestants[name] = _train_step(make(shape, *tensors), tensors, gradient)
        yield shape.label | _figures(3.5 * shape.flops, alternate(contestants, rounds=rounds))
        tick()


def _train_step(
    attend: Callable[[], torch.Tensor], tensors: list[torch.Tensor], gradient: torch.Tensor
) -> Callable[[], object]:
    return lambda: torch.autograd.grad(attend(), tensors, gradient)


def _figures(flops: float, times: dict[str, Timing]) -> Row:
    row: Row = {f"{name}_gflops": flops / t.median / 1e9 for name, t in times.items()}
    ours = times["ours"]
    for name, other in times.items():
        if name != "ours":
            noisy = ours.noisy or other.noisy
            row[f"over_{name}"] = None if noisy else other.median / ours.median
    return row


def latency(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Microseconds per call at a tiny shape, where only overhead is left."""
    shape = Shape(4, 128, 64, torch.float32, True)
    q, k, v = _inputs(shape)
    tiny = [t[:, :1, :8, :8].contiguous() for t in (q, k, v)]
    mask = create_block_mask(causal, None, None, 8, 8)
    calls = {
        "plain": lambda: flex_attention(*tiny),
        "block_mask": lambda: flex_attention(*tiny, block_mask=mask),
        "block_mask_softcap": lambda: flex_attention(*tiny, tanh_softcap, mask),
        "sdpa": lambda: F.scaled_dot_product_attention(*tiny),
    }
    with torch.no_grad():
        for name, timing in alternate(calls, rounds=rounds, at_least=0.05).items():
            yield {"call": name, "microseconds": timing.median * 1e6, "spread": timing.spread}
    tick()


SUITES = {
    "cpu-forward": (cpu_forward, len(SHAPES)),
    "cpu-backward": (cpu_backward, len(SHAPES)),
    "latency": (latency, 1),
    "masks": (masks, steps()),
    "startup": (startup, 2),
    "memory": (memory, 1),
}
