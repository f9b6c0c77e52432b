"""Calls of flex_attention on the interpreted Triton backend, held to dense attention in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from flexattn import AuxRequest, flex_attention

# Allowed error over the largest value where plain torch of that dtype does no worse.
FLOORS = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (2e-6, 1e-5),
    torch.bfloat16: (1e-2, 2e-2),
    torch.float16: (2e-3, 4e-3),
}
Mod = Callable[..., Any]


def qkv(
    shape: Sequence[int], dtype: torch.dtype = torch.float32, *, kv_batch: int | None = None
) -> list[Tensor]:
    """Leaves for ``shape`` = (B, Hq, Hkv, M, N, D, Dv)."""
    b, hq, hkv, m, n, d, dv = shape
    kv = b if kv_batch is None else kv_batch
    sizes = ((b, hq, m, d), (kv, hkv, n, d), (kv, hkv, n, dv))
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


def dense(
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    score: Mod | None = None,
    mask: Mod | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, lse and row maximum by the definition; ``keep`` is a further mask [B, H, M, N]."""
    q, k, v = (tensor.to(dtype) for tensor in inputs)
    group = q.shape[1] // k.shape[1]
    k, v = (t.expand(q.shape[0], -1, -1, -1).repeat_interleave(group, 1) for t in (k, v))
    sizes = (*q.shape[:3], k.shape[2])
    grid = [
        torch.arange(size).view([-1 if d == at else 1 for d in range(4)])
        for at, size in enumerate(sizes)
    ]
    s = (q @ k.mT).to(torch.promote_types(dtype, torch.float32))
    s = s * (q.shape[-1] ** -0.5 if scale is None else scale)
    if score is not None:
        s = score(s, *grid)
    kept = torch.ones(sizes, dtype=torch.bool)
    if mask is not None:
        kept = kept & mask(*grid)
    if keep is not None:
        kept = kept & keep
    s = torch.where(kept, s, -math.inf)
    empty = ~kept.any(-1)
    weights = torch.softmax(torch.where(empty[..., None], 0.0, s), -1)
    weights = weights.masked_fill(empty[..., None], 0.0)
    lse = torch.logsumexp(torch.where(empty[..., None], 0.0, s), -1)
    top = s.amax(-1).detach() if sizes[3] else s.new_full(sizes[:3], -math.inf)
    return weights.to(dtype) @ v, lse.masked_fill(empty, -math.inf), top


def gradients(
    out: Tensor, lse: Tensor, leaves: Sequence[Tensor], pulls: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of sum(out * pull) plus that of lse where it is finite."""
    finite = torch.where(lse.isinf(), 0.0, lse)
    loss = (out * pulls[0].to(out.dtype)).sum() + (finite * pulls[1].to(lse.dtype)).sum()
    found = torch.autograd.grad(loss, list(leaves), allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]


def check(
    inputs: Sequence[Tensor],
    score: Mod | None = None,
    block_mask: Any = None,
    captures: Sequence[Tensor] = (),
    *,
    mask: Mod | None = None,
    keep: Tensor | None = None,
    **options: Any,
) -> None:
    """One call forward and backward against the definition.

    Args:
        mask: What ``block_mask`` stands for; by default its mask_mod.
        keep: Blocks that ``block_mask`` lists, spread over pairs.
    """
    mask = block_mask.mask_mod if mask is None and block_mask is not None else mask
    scale = options.get("scale")
    with poisoned():
        out, aux = flex_attention(
            *inputs, score, block_mask, backend="triton",
            enable_gqa=inputs[0].shape[1] != inputs[1].shape[1],
            return_aux=AuxRequest(lse=True, max_scores=True), **options,
        )  # fmt: skip
        pulls = torch.randn(out.shape), torch.randn(aux.lse.shape)
        leaves = [*inputs, *captures]
        got = [out, aux.lse, aux.max_scores, *gradients(out, aux.lse, leaves, pulls)]
    exact, plain = (
        [*values, *gradients(values[0], values[1], leaves, pulls)]
        for values in (
            dense(inputs, dtype, score, mask, keep, scale)
            for dtype in (torch.float64, inputs[0].dtype)
        )
    )
    for at, (found, wanted, usual) in enumerate(zip(got, exact, plain, strict=True)):
        floor = FLOORS[inputs[0].dtype][at > 2]
        allowed = max(floor, 2 * distance(usual, wanted))
        assert distance(found, wanted) <= allowed, f"tensor {at}: {distance(found, wanted):.2g}"


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest finite value wanted; inf where one alone is finite."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.detach().double()
    if not wanted.numel():
        return 0.0
    error = torch.where(found == wanted, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf)
    size = torch.where(wanted.isfinite(), wanted.abs(), 0.0).max()
    return float(error.max() / size.clamp(min=1e-3))


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out uninitialised holds NaN, and lists of blocks nonsense."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_strided", "empty_like"):
            patch.setattr(torch, name, _poisoning(getattr(torch, name)))
        yield


def _poisoning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def poisoned_empty(*args: Any, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        if tensor.device.type == "cpu" and not tensor.requires_grad:
            tensor.fill_(math.nan if tensor.is_floating_point() else 77)
        return tensor

    return poisoned_empty
