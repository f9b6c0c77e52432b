"""Dense attention by its definition, on whole index grids: the oracle of the tests of `op`.

It calls the user's own mods on broadcast index tensors, and shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def dense_scores(
    query: Tensor,
    key: Tensor,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    scale: float | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Modified scores ``[B, Hq, M, N]``, -inf where not kept; ``keep`` is a further mask."""
    batch, heads, rows, dim = query.shape
    keys = key.shape[2]
    key = key.expand(batch, -1, -1, -1).repeat_interleave(heads // key.shape[1], 1)
    score = query @ key.transpose(-1, -2) * (1 / math.sqrt(dim) if scale is None else scale)
    grid = (
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(heads).view(1, -1, 1, 1),
        torch.arange(rows).view(1, 1, -1, 1),
        torch.arange(keys).view(1, 1, 1, -1),
    )
    if score_mod is not None:
        score = score_mod(score, *grid).expand(batch, heads, rows, keys)
    kept = torch.ones((), dtype=torch.bool) if keep is None else keep
    if mask_mod is not None:
        kept = kept & mask_mod(*grid)
    return torch.where(kept, score, -math.inf)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, *mods: Any, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """out, lse and row maximum; a row with nothing kept gives 0, -inf, -inf."""
    score = dense_scores(query, key, *mods, **options)
    batch, heads = query.shape[:2]
    value = value.expand(batch, -1, -1, -1).repeat_interleave(heads // value.shape[1], 1)
    if score.shape[-1] == 0:
        lowest = score.new_full(score.shape[:-1], -math.inf)
        return score @ value, lowest, lowest
    top = score.amax(-1).detach()
    empty = top == -math.inf
    shifted = (
        torch.where(empty[..., None], -math.inf, score) - torch.where(empty, 0, top)[..., None]
    )
    weights = torch.where(empty[..., None], 0.0, shifted).exp()
    weights = torch.where(shifted == -math.inf, 0.0, weights)
    total = weights.sum(-1)
    safe = torch.where(empty, 1.0, total)
    lse = torch.where(empty, -math.inf, safe.log() + top)
    return (weights / safe[..., None]) @ value, lse, top


def gradients(
    outputs: Tensor, inputs: list[Tensor], grad: Tensor, lse: Tensor | None = None
) -> list[Tensor]:
    """Gradients of ``sum(outputs * grad)``, plus that of lse where it is finite."""
    loss = (outputs * grad.to(outputs.dtype)).sum()
    if lse is not None:
        loss = loss + torch.where(lse.isinf(), 0.0, lse).sum()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [
        torch.zeros_like(tensor) if grad is None else grad
        for tensor, grad in zip(inputs, found, strict=True)
    ]


def assert_close_enough(
    found: Tensor, exact: Tensor, plain: Tensor, floor: float, factor: float = 2.0
) -> None:
    """No further from ``exact`` than ``factor`` times ``plain`` is, or ``floor`` of its maximum.

    ``plain`` is the same formula by torch operations in the precision of ``found``.
    """
    assert found.shape == exact.shape
    exact = exact.double()
    finite = exact.isfinite()
    # Where the exact value is infinite it must be met.
    assert torch.equal(found.double()[~finite].nan_to_num(7.0), exact[~finite].nan_to_num(7.0))
    if not finite.any():
        return
    error = (found.double() - exact)[finite].abs().max().item()
    allowed = (plain.double() - exact)[finite].abs().max().item() * factor
    allowed = max(allowed, floor * exact[finite].abs().max().item())
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
