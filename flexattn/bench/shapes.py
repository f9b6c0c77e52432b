"""The problems that the CPU suites time, and their contestants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexattn.bench.timing import Timing
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask

Row = dict[str, Any]
Call = Callable[[], Any]


def name_of(dtype: torch.dtype) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


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
        mask = "causal" if self.causal else "full"
        return {"dtype": name_of(self.dtype), "D": self.D, "S": self.S, "H": self.H, "mask": mask}


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


def inputs(shape: Shape, requires_grad: bool = False) -> list[Tensor]:
    """Query, key and value of normal numbers, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    size = (1, shape.H, shape.S, shape.D)
    made = [torch.randn(size, generator=generator).to(shape.dtype) for _ in range(3)]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def ours(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """flex_attention."""
    mask = create_block_mask(causal, None, None, shape.S, shape.S) if shape.causal else None
    return lambda: flex_attention(q, k, v, block_mask=mask)


def sdpa(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """torch's scaled_dot_product_attention, told by a flag that it is causal."""
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal)


def naive(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """Attention as its formula reads: the whole matrix of scores."""
    dropped = torch.ones(shape.S, shape.S, dtype=torch.bool).triu(1) if shape.causal else None

    def attend() -> Tensor:
        scores = q @ k.transpose(-1, -2) * shape.D**-0.5
        if dropped is not None:
            scores = scores.masked_fill(dropped, -torch.inf)
        return scores.softmax(-1) @ v

    return attend


def torch_flex(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Call:
    """torch's flex_attention under torch.compile."""
    from torch.nn.attention import flex_attention as peer  # heavy: imports the compiler

    mask = None
    if shape.causal:
        mask = peer.create_block_mask(causal, None, None, shape.S, shape.S, device="cpu")
    return compiled_flex(q, k, v, block_mask=mask)


def compiled_flex(*tensors: Tensor, **options: Any) -> Call:
    """A call of torch's compiled flex_attention; what was compiled before is forgotten."""
    from torch.nn.attention import flex_attention as peer  # heavy, as above

    torch.compiler.reset()
    compiled = torch.compile(peer.flex_attention, dynamic=False)
    return lambda: compiled(*tensors, **options)


def train_step(attend: Call, tensors: list[Tensor], gradient: Tensor) -> Call:
    """Forward and backward."""
    return lambda: torch.autograd.grad(attend(), tensors, gradient)


def ratio(other: Timing, own: Timing) -> float | None:
    """How many times longer the other takes; None where the machine was too noisy to say."""
    return None if other.noisy or own.noisy else other.median / own.median


def rates(work: float, times: Mapping[str, Timing], unit: str = "gflops") -> Row:
    """``work`` by 1e9 a second of every contestant, and how many times faster ours is."""
    row: Row = {f"{name}_{unit}": work / t.median / 1e9 for name, t in times.items()}
    for name, other in times.items():
        if name != "ours":
            row[f"over_{name}"] = ratio(other, times["ours"])
    return row
