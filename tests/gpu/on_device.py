"""What the checks on a GPU share: the device, poisoned memory, and dense float64 attention.

The oracle calls the user's own mods on broadcast index tensors, and shares no code with the
package. Everything takes place on the device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from flexattn import BlockMask, create_block_mask, flex_attention

REHEARSAL = os.environ.get("FLEXATTN_GPU_REHEARSAL") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not REHEARSAL else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKEND = "triton" if DEVICE.type == "cuda" or INTERPRETED else "cpp"

# Least error allowed, of the output and of gradients, as a share of the largest exact value.
FLOOR = {
    torch.float64: (1e-11, 1e-10),
    torch.float32: (5e-6, 2e-5),
    torch.float16: (2e-3, 4e-3),
    torch.bfloat16: (1.6e-2, 3.2e-2),
}

Mods = tuple[Callable[..., Any] | None, Callable[..., Any] | None]


def length(on_gpu: int, rehearsed: int) -> int:
    return rehearsed if REHEARSAL else on_gpu


@contextmanager
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory holds NaN, and whole numbers far outside of any index."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"),
                        (Tensor, "new_empty"), (Tensor, "new_empty_strided")):  # fmt: skip
        monkeypatch.setattr(owner, name, _poisoning(getattr(owner, name)))
    if DEVICE.type == "cuda":  # memory that C++ takes from the allocator
        large = torch.full((1 << 26,), math.nan, device=DEVICE)
        small = [torch.full((1 << 16,), math.nan, device=DEVICE) for _ in range(64)]
        del large, small
    yield


def _poisoning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, **options: Any) -> Tensor:
        tensor = make(*args, **options)
        if type(tensor) is not Tensor or tensor.device.type == "meta" or not tensor.numel():
            return tensor
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return tensor  # a fill would be replayed, and hide what the first call left
        if tensor.numel() > 1 << 28:
            return tensor
        with torch.no_grad():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
            elif tensor.dtype in (torch.int32, torch.int64):
                tensor.fill_(0x5A5A5A5A)
        return tensor

    return made


@dataclass
class Problem:
    """One call: leaves in ``dtype``, and how to make the mods from learned tensors.

    Attributes:
        mods: Called with the learned tensors, gives (score_mod, mask_mod).
        learned: Captured leaves that want a gradient.
        block: Of the block mask; None for a call without one.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mods: Callable[..., Mods]
    learned: list[Tensor] = field(default_factory=list)
    block: tuple[int, int] | int | None = 128
    scale: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.query, self.key, self.value, *self.learned]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (*self.query.shape[:3], self.key.shape[2])

    def exact(self) -> Problem:
        """The same numbers in float64."""
        leaves = [t.detach().double().requires_grad_() for t in self.leaves]
        return Problem(*leaves[:3], self.mods, leaves[3:], self.block, self.scale)


def normal(*size: int, dtype: torch.dtype = torch.float32, grad: bool = True) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).requires_grad_(grad)


def plain(*learned: Tensor) -> Mods:
    return None, None


def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


def causal_mods(*learned: Tensor) -> Mods:
    return None, causal


def problem(
    dtype: torch.dtype = torch.bfloat16,
    *,
    B: int = 2,
    H: tuple[int, int] = (length(4, 2), length(2, 1)),
    M: int = 0,
    N: int = 0,
    D: tuple[int, int] = (64, 64),
    mods: Callable[..., Mods] = plain,
    learned: Sequence[Tensor] = (),
    **others: Any,
) -> Problem:
    """Random inputs; lengths of 0 stand for odd ones, and H is (query heads, key heads)."""
    M = M or length(347, 37)
    N = N or M
    tensors = (
        normal(B, H[0], M, D[0], dtype=dtype),
        normal(B, H[1], N, D[0], dtype=dtype),
        normal(B, H[1], N, D[1], dtype=dtype),
    )
    return Problem(*tensors, mods, list(learned), **others)


def block_mask(p: Problem, mask_mod: Callable[..., Any] | None) -> BlockMask | None:
    if mask_mod is None or p.block is None:
        return None
    B, H, M, N = p.shape
    return create_block_mask(mask_mod, B, H, M, N, device=DEVICE, BLOCK_SIZE=p.block)


def ours(p: Problem) -> tuple[Tensor, Tensor]:
    """out and lse of the package."""
    score_mod, mask_mod = p.mods(*p.learned)
    mask = block_mask(p, mask_mod)
    return flex_attention(
        p.query, p.key, p.value, score_mod, mask, p.scale,
        mask_mod=mask_mod if mask is None else None,
        enable_gqa=p.query.shape[1] != p.key.shape[1], return_lse=True,
        **({"backend": BACKEND} | p.options),
    )  # fmt: skip


def dense(p: Problem) -> tuple[Tensor, Tensor]:
    """out and lse by the definition, in the dtype of the problem."""
    B, H, M, N = p.shape
    key, value = (
        t.expand(B, -1, -1, -1).repeat_interleave(H // t.shape[1], 1) for t in (p.key, p.value)
    )
    scale = 1 / math.sqrt(p.query.shape[3]) if p.scale is None else p.scale
    score = p.query @ key.transpose(-1, -2) * scale
    sides = ((B, (-1, 1, 1, 1)), (H, (1, -1, 1, 1)), (M, (1, 1, -1, 1)), (N, (1, 1, 1, -1)))
    grid = [torch.arange(n, device=DEVICE).view(view) for n, view in sides]
    score_mod, mask_mod = p.mods(*p.learned)
    if score_mod is not None:
        score = score_mod(score, *grid).expand(B, H, M, N)
    if mask_mod is not None:
        score = torch.where(mask_mod(*grid), score, -math.inf)
    top = score.detach().amax(-1, keepdim=True)
    empty = top == -math.inf
    weights = (score - torch.where(empty, 0.0, top)).exp()
    total = weights.sum(-1, keepdim=True)
    safe = torch.where(empty, 1.0, total)
    lse = torch.where(empty, -math.inf, safe.log() + top)
    return (weights / safe).to(value.dtype) @ value, lse[..., 0]


def gradients(p: Problem, out: Tensor, lse: Tensor, pulls: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Gradients of ``sum(out * pulls[0])`` and, where it is finite, of ``sum(lse * pulls[1])``."""
    loss = (out * pulls[0].to(out.dtype)).sum()
    loss = loss + (torch.where(lse.isinf(), 0.0, lse) * pulls[1].to(lse.dtype)).sum()
    found = torch.autograd.grad(loss, p.leaves, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(p.leaves, found)]


def check(p: Problem, *, backward: bool = True) -> None:
    """out, lse and all gradients against float64; twice the error of plain torch is allowed."""
    dtype = p.query.dtype
    runs = []
    for call, problem_ in ((ours, p), (dense, p.exact()), (dense, p)):
        out, lse = call(problem_)
        runs.append((problem_, out, lse))
    (_, out, lse), (_, exact_out, exact_lse), (_, rough_out, rough_lse) = runs
    near("out", out, exact_out, rough_out, FLOOR[dtype][0])
    near("lse", lse, exact_lse, rough_lse, FLOOR[dtype][0])
    if not backward:
        return
    pulls = torch.randn_like(exact_out), torch.randn_like(exact_lse)
    found, exact, rough = (gradients(*run, pulls) for run in runs)
    names = ["query", "key", "value", *(f"capture {i}" for i in range(len(p.learned)))]
    for name, a, b, c in zip(names, found, exact, rough):
        near(f"gradient of {name}", a, b, c, FLOOR[dtype][1])


def finish(call: Callable[[], Any]) -> None:
    """``call`` and all it launched; of a mistake on a GPU the next call tells."""
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        tiny = torch.ones(1, 1, 1, 16, device=DEVICE)
        flex_attention(tiny, tiny, tiny, backend=BACKEND)


def near(what: str, found: Tensor, exact: Tensor, rough: Tensor, floor: float) -> None:
    """``found`` no further from ``exact`` than twice what ``rough`` is, or than the floor."""
    assert found.shape == exact.shape, what
    found, exact, rough = found.detach().double(), exact.detach().double(), rough.detach().double()
    finite = exact.isfinite()
    assert torch.equal(found[~finite], exact[~finite]), f"{what}: infinite in other places"
    assert found[finite].isfinite().all(), f"{what}: not finite"
    if not finite.any():
        return
    error = (found - exact)[finite].abs().max().item()
    usual = (rough - exact)[finite].abs().max().nan_to_num(0.0).item()
    allowed = max(2 * usual, floor * exact[finite].abs().max().item())
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"
