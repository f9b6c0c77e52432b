"""Gradients of captured tensors: every class of index, several at once, repeatable on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_device import DEVICE, Mods, Problem, causal, check, length, normal, ours, problem
from torch import Tensor

from flexattn import errors

B, H = 2, length(4, 2)
M, N = length(300, 37), length(277, 33)
Score = Callable[..., Any]


def _head(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s - t[h] * (q - k)


def _batch_head(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s * (1 + t[b, h])


def _number(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s * t


def _query(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s * torch.sigmoid(t[b, h, q])


def _key(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[h, k]


def _distance(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[h, q - k + N - 1]


def _clipped(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[h, (q - k).clamp(-5, 5) + 5]


def _pair(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[b, h, q, k]


def _shared_pair(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[q, k]


def _head_pair(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + torch.tanh(t[h, q, k])


def _scatter(t: Tensor) -> Score:
    return lambda s, b, h, q, k: s + t[(q * 7 + k * 3) % 13, h]


CLASSES: dict[str, tuple[Callable[[Tensor], Score], tuple[int, ...]]] = {
    "number": (_number, ()),
    "head": (_head, (H,)),
    "batch and head": (_batch_head, (B, H)),
    "query": (_query, (B, H, M)),
    "key": (_key, (H, N)),
    "distance": (_distance, (H, M + N - 1)),
    "clipped distance": (_clipped, (H, 11)),
    "pair of its own": (_pair, (B, H, M, N)),
    "pair shared by all": (_shared_pair, (M, N)),
    "pair shared by batches": (_head_pair, (H, M, N)),
    "scatter": (_scatter, (13, H)),
}


def _problem(name: str, dtype: torch.dtype, masked: bool, **options: Any) -> Problem:
    score, size = CLASSES[name]
    learned = (0.3 * torch.randn(size, device=DEVICE) + 0.5).requires_grad_()
    mask = causal if masked else None

    def mods(*tensors: Tensor) -> Mods:
        return score(tensors[0]), mask

    return problem(
        dtype, B=B, H=(H, H // 2), M=M, N=N, D=(length(64, 16),) * 2, mods=mods,
        learned=[learned], block=(64, 64), options=options,
    )  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CLASSES)
def test_class(name: str, dtype: torch.dtype, masked: bool) -> None:
    check(_problem(name, dtype, masked))


@pytest.mark.parametrize("name", CLASSES)
def test_deterministic(name: str) -> None:
    """The same bits every time, or an error that says why not."""
    p = _problem(name, torch.bfloat16, True, deterministic=True)
    pull = torch.randn_like(p.query)
    runs = []
    try:
        for _ in range(4):
            out, _ = ours(p)
            runs.append(torch.autograd.grad((out * pull).sum(), p.leaves))
    except errors.DeterminismError:
        assert name == "scatter"
        return
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run)), name
    check(p)


def test_several_at_once() -> None:
    """A table per distance, a number, a bias per key, and a temperature per query."""
    learned = [normal(H, M + N - 1), normal(), normal(H, N), normal(B, H, M)]

    def mods(table: Tensor, number: Tensor, keys: Tensor, queries: Tensor) -> Mods:
        def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            warm = s * torch.exp(0.1 * queries[b, h, q]) + table[h, q - k + N - 1]
            return torch.tanh(warm) * number + keys[h, k]

        return score, causal

    check(problem(torch.float32, B=B, H=(H, H), M=M, N=N, mods=mods, learned=learned))


def test_only_the_capture_wants_a_gradient() -> None:
    p = _problem("distance", torch.float32, True)
    p.query, p.key, p.value = (t.detach() for t in (p.query, p.key, p.value))
    out, _ = ours(p)
    (alone,) = torch.autograd.grad(out.square().sum(), p.learned)
    p.query.requires_grad_()
    out, _ = ours(p)
    _, beside = torch.autograd.grad(out.square().sum(), [p.query, *p.learned])
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["strided", "bfloat16", "expanded"])
def test_layouts_of_captures(kind: str) -> None:
    table = normal(2 * (M + N - 1), H)
    if kind == "bfloat16":
        table = table.detach().bfloat16().requires_grad_()

    def mods(t: Tensor) -> Mods:
        view = t[::2].t() if kind != "expanded" else t[::2, :1].t().expand(H, -1)
        return _distance(view), causal

    check(problem(B=B, H=(H, H), M=M, N=N, mods=mods, learned=[table]))


def test_infinite_derivatives_of_dropped_pairs_stay_out() -> None:
    """sqrt has no slope at 0; the mask drops those pairs, so no gradient may be NaN."""
    learned = [normal(H)]

    def mods(t: Tensor) -> Mods:
        def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return s + t[h] * torch.sqrt((q - k).clamp(min=0) * 1.0 * s * 0 + (q - k).clamp(min=0))

        return score, lambda b, h, q, k: q > k

    p = problem(torch.float32, B=B, H=(H, H), M=M, N=M, mods=mods, learned=learned)
    out, _ = ours(p)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), p.leaves))
