"""Time a recipe beside what one would use without it: SDPA with a dense mask, and torch's flex.

Every contestant computes the same result on the same tensors; where one cannot, it says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention_gym.elementwise import modified_scores
from attention_gym.inputs import Problem
from flexattn import BlockMask, flex_attention
from flexattn.bench import Timing, alternate, ratio

LARGEST = 1 << 30  # bytes of a dense mask or bias that are still made
Call = Callable[[], Tensor]


class Unable(Exception):
    """Why a contestant cannot compute this recipe."""


def dense_shape(problem: Problem) -> tuple[int, int, int, int]:
    """[B or 1, H or 1, Q, KV]: one for all batch entries and heads where nothing varies."""
    batch, heads, q_len, _ = problem.query.shape
    if problem.score_mod is None and "bh" not in problem.recipe.needs:
        batch, heads = 1, 1
    return batch, heads, q_len, problem.key.shape[2]


def dense_mask(problem: Problem) -> Tensor | None:
    """The bool mask, or the bias with -inf in it, that SDPA has to be given.

    Raises:
        Unable: The score is not merely added to, or the tensor is too large.
    """
    score_mod, mask_mod = problem.score_mod, problem.mask_mod
    if score_mod is None and mask_mod is None:
        return None
    shape = dense_shape(problem)
    size = math.prod(shape) * (1 if score_mod is None else problem.query.element_size())
    if 4 * math.prod(shape) > LARGEST:
        raise Unable(f"its dense mask takes {size / 2**20:,.0f} MiB")
    with torch.no_grad():
        bias = modified_scores(torch.zeros(shape), score_mod, mask_mod)
        if score_mod is None:
            return bias == 0
        some = torch.randn(shape[-2:]).expand(shape)
        moved = modified_scores(some, score_mod, mask_mod)
        if not torch.allclose(moved, bias + some, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise Unable("the score is not merely added to")
    return bias.to(problem.query.dtype)


def sdpa(problem: Problem) -> Call:
    mask = dense_mask(problem)
    if mask is not None and problem.recipe.learned:
        mask.requires_grad_()  # its gradient is dense too; summing it into the tables is left out
    return lambda: scaled_dot_product_attention(
        problem.query, problem.key, problem.value, attn_mask=mask, scale=problem.scale,
        enable_gqa=problem.grouped,
    )  # fmt: skip


def torch_flex(problem: Problem, backward: bool) -> Call:
    """torch's compiled flex_attention with the same functions.

    Raises:
        Unable: It does not compile or run.
    """
    from torch.nn.attention import flex_attention as peer  # heavy: imports the compiler

    if backward:
        raise Unable("it has no backward on CPUs")
    captures = {name: tensor.detach() for name, tensor in problem.captures.items()}
    score_mod, mask_mod = problem.recipe.mods({**problem.given, **captures})
    query, key, value = (t.detach() for t in (problem.query, problem.key, problem.value))
    torch.compiler.reset()
    compiled = torch.compile(peer.flex_attention, dynamic=False)
    shape = (*problem.query.shape[:3], problem.key.shape[2])
    varies = "bh" in problem.recipe.needs
    try:
        mask = None
        if mask_mod is not None:
            batch, heads = shape[:2] if varies else (None, None)
            mask = peer.create_block_mask(mask_mod, batch, heads, shape[2], shape[3], device="cpu")

        def call() -> Tensor:
            return compiled(
                query, key, value, score_mod=score_mod, block_mask=mask, scale=problem.scale,
                enable_gqa=problem.grouped,
            )  # fmt: skip

        call()
    except Exception as error:  # whatever another compiler raises is what there is to tell
        raise Unable(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
        ) from error
    return call


def ours(problem: Problem, mask: BlockMask | None) -> Call:
    return lambda: flex_attention(
        problem.query, problem.key, problem.value, score_mod=problem.score_mod, block_mask=mask,
        scale=problem.scale, enable_gqa=problem.grouped,
    )  # fmt: skip


def step(attend: Call, problem: Problem, backward: bool) -> Callable[[], object]:
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return attend()

        return forward
    pull = torch.randn(*problem.query.shape[:-1], problem.value.shape[-1]).to(problem.query.dtype)
    leaves = [problem.query, problem.key, problem.value]

    def both() -> None:
        torch.autograd.backward(attend(), pull, inputs=leaves + _learned(attend, problem))

    return both


def _learned(attend: Call, problem: Problem) -> list[Tensor]:
    """Learned tensors of this contestant: the recipe's, or the dense bias made of them."""
    cells = [cell.cell_contents for cell in attend.__closure__ or ()]
    dense = [c for c in cells if isinstance(c, Tensor) and c.requires_grad]
    return dense or [problem.captures[name] for name in sorted(problem.recipe.learned)]


def contest(
    problem: Problem, mask: BlockMask | None, *, backward: bool, peers: bool, rounds: int
) -> dict[str, Any]:
    """Milliseconds of each contestant, and how many times longer the others take.

    None stands where a contestant cannot take part (``why`` tells) or the machine was too noisy.
    """
    makers: dict[str, Callable[[], Call]] = {
        "ours": lambda: ours(problem, mask),
        "sdpa": lambda: sdpa(problem),
    }
    if peers:
        makers["torch_flex"] = lambda: torch_flex(problem, backward)
    calls, why = {}, {}
    for name, make in makers.items():
        try:
            calls[name] = step(make(), problem, backward)
        except Unable as reason:
            why[name] = str(reason)
    times: dict[str, Timing] = alternate(calls, rounds=rounds)
    row: dict[str, Any] = {}
    for name in makers:
        row[f"{name}_ms"] = times[name].median * 1e3 if name in times else None
    for name in makers:
        if name != "ours":
            row[f"over_{name}"] = ratio(times[name], times["ours"]) if name in times else None
    return row | {"why": why}
