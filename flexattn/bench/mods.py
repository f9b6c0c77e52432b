"""The suite mods: what a mod, a sparse mask or an odd shape costs over the plain one beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexattn.bench.shapes import Call, Row, Shape, causal, inputs, name_of
from flexattn.bench.timing import Timing, alternate
from flexattn.masks.block_mask import BlockMask
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask

LONG = 8192
WINDOW = 512
DOCUMENT = 512  # mean length

Mod = Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """Something to be timed beside causal attention of the same size, or another base.

    Attributes:
        name: What is special about it.
        shape: Its size; causal.
        score: Its score_mod, if any.
        mask: Its mask_mod; causal by default.
        train: Whether its captured tensor and the inputs receive gradients.
        base: Size of the plain causal call that it is compared to; its own by default.
    """

    name: str
    shape: Shape
    score: Mod | None = None
    mask: Mod = causal
    captured: Tensor | None = None
    train: bool = False
    base: Shape | None = None


def tanh_softcap(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Soft-capping at 20, written as its users write it."""
    return 20.0 * torch.tanh(score / 20.0)


def _with_mods(shape: Shape) -> Iterator[Problem]:
    slopes = torch.rand(shape.H)
    ids = _documents(shape.S, shape.S // 4)
    table = torch.randn(shape.H, 2 * shape.S)
    bias = torch.randn(shape.H, shape.S, shape.S)
    trained = bias.clone().requires_grad_()
    last = shape.S
    yield Problem("alibi", shape, lambda s, b, h, q, k: s - slopes[h] * (q - k))
    yield Problem(
        "document score", shape, lambda s, b, h, q, k: torch.where(ids[q] == ids[k], s, s - 9.0)
    )
    yield Problem("relative bias", shape, lambda s, b, h, q, k: s + table[h, q - k + last])
    yield Problem("tanh soft-cap", shape, tanh_softcap)
    yield Problem("dense bias", shape, lambda s, b, h, q, k: s + bias[h, q, k])
    yield Problem(
        "dense bias, trained",
        shape,
        lambda s, b, h, q, k: s + trained[h, q, k],
        captured=trained,
        train=True,
    )


def _sparse(shape: Shape) -> Iterator[Problem]:
    ids = _documents(shape.S, DOCUMENT)
    yield Problem("window 512", shape, mask=lambda b, h, q, k: (q >= k) & (q - k < WINDOW))
    yield Problem("documents of 512", shape, mask=lambda b, h, q, k: (q >= k) & (ids[q] == ids[k]))


def _odd(dtype: torch.dtype) -> Iterator[Problem]:
    for S, even in ((1000, 1024), (1537, 2048), (4099, 4096)):
        base = Shape(8, even, 64, dtype, True)
        yield Problem(f"S {S}", Shape(8, S, 64, dtype, True), base=base)
    for D, even in ((40, 64), (72, 96), (80, 96), (96, 128)):
        base = Shape(8, 2048, even, dtype, True)
        yield Problem(f"D {D}", Shape(8, 2048, D, dtype, True), base=base)


def _documents(tokens: int, mean: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(tokens, generator=generator) < 1 / mean).cumsum(0)


def problems(dtype: torch.dtype) -> list[Problem]:
    """All problems with inputs of one dtype."""
    found = list(_odd(dtype))
    for D in (64, 128):
        found += [
            *_with_mods(Shape(8, 2048, D, dtype, True)),
            *_sparse(Shape(8, LONG, D, dtype, True)),
        ]
    return found


DTYPES = (torch.float32, torch.bfloat16)


def steps() -> int:
    """Rows of the suite."""
    return sum(len(problems(dtype)) for dtype in DTYPES)


def mods(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Time over that of plain causal attention, per element kept: 1.05 is 5% more."""
    for dtype in DTYPES:
        for problem in problems(dtype):
            yield _row(problem, rounds)
            tick()


def _row(problem: Problem, rounds: int) -> Row:
    shape, base = problem.shape, problem.base or problem.shape
    mask = create_block_mask(problem.mask, None, None, shape.S, shape.S)
    plain = create_block_mask(causal, None, None, base.S, base.S)
    times = alternate(
        {
            "ours": _call(problem, inputs(shape, problem.train), mask),
            "plain": _call(
                Problem("", base, train=problem.train), inputs(base, problem.train), plain
            ),
        },
        rounds=rounds,
    )
    work, base_work = (_work(*pair) for pair in ((mask, shape), (plain, base)))
    row: Row = {
        "problem": problem.name,
        "dtype": name_of(shape.dtype),
        "D": shape.D,
        "S": shape.S,
        "ours_ms": 1e3 * times["ours"].median,
        "kept": work / (4.0 * shape.H * shape.S**2 * shape.D),
    }
    return row | {"cost": _cost(times, base_work / work)}


def _work(mask: BlockMask, shape: Shape) -> float:
    """Useful floating-point operations of the forward pass."""
    kept = 1.0 - mask.sparsity(exact=True) / 100.0
    return 4.0 * shape.H * shape.S**2 * shape.D * kept


def _cost(times: dict[str, Timing], scale: float) -> float | None:
    noisy = any(timing.noisy for timing in times.values())
    return None if noisy else times["ours"].median / times["plain"].median * scale


def _call(problem: Problem, tensors: list[Tensor], mask: BlockMask) -> Call:
    def attend() -> Tensor:
        out: Tensor = flex_attention(*tensors, problem.score, mask)
        return out

    if not problem.train:
        return torch.no_grad()(attend)
    wanted = tensors if problem.captured is None else [*tensors, problem.captured]
    gradient = torch.randn_like(tensors[0])
    return lambda: torch.autograd.grad(attend(), wanted, gradient)
