"""Check a recipe through `flexattn.flex_attention`: its pictures, and dense float64 with gradients.

The error allowed is that of the same formula in torch operations of the same dtype, doubled, or a
floor given by the dtype where that is larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import flexattn
from attention_gym.elementwise import dense_attention
from attention_gym.inputs import Problem, make_problem
from attention_gym.recipe import Picture, Recipe, Reference, Sizes
from attention_gym.reference import compare
from flexattn import create_block_mask, flex_attention

# (output, gradients): least error allowed, as a share of the largest reference value.
FLOOR = {
    torch.float32: (2e-6, 1e-5),
    torch.float64: (1e-12, 1e-11),
    torch.bfloat16: (1.6e-2, 3.2e-2),
    torch.float16: (2e-3, 4e-3),
}


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        recipe: Its name.
        backend: What computed.
        what: A reference, ``picture 1``, ``out``, ``lse``, or ``grad`` and a tensor's name.
        dtype: Of query, key and value.
        error: Largest absolute difference over the reference's largest magnitude.
        allowed: Its limit.
    """

    recipe: str
    backend: str
    what: str
    dtype: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def check_reference(recipe: Recipe, reference: Reference) -> Check:
    """The recipe's functions against a second definition, score by score."""
    error = distance(*compare(recipe, reference))
    return Check(recipe.name, "reference", reference.source, "float32", error, 1e-5)


def share_proved(recipe: Recipe, sizes: Sizes, given: Mapping[str, Any]) -> float | None:
    """The part of tiles of 16 × 16 pairs decided without evaluating them; None without a mask."""
    problem = make_problem(recipe, sizes, given)
    if problem.mask_mod is None:
        return None
    report = flexattn.explain(
        problem.score_mod, problem.mask_mod, B=sizes.batch, H=sizes.heads, Hkv=sizes.kv_heads,
        Q_LEN=sizes.q_len, KV_LEN=sizes.kv_len, D=sizes.head_dim, BLOCK_SIZE=16,
    )  # fmt: skip
    tiles = report.structure["tiles"]
    evaluated = sum(row["tiles"] for row in tiles if row["stage"] == "evaluation")
    return 1 - evaluated / max(1, sum(row["tiles"] for row in tiles))


def check_picture(recipe: Recipe, number: int, backend: str) -> Check:
    """One head whose raw score is the picture's in every cell, and values that show the weights.

    With the identity as value the output is the softmax of the picture itself.
    """
    picture: Picture = recipe.pictures[number]
    scores = picture.scores()
    q_len, kv_len = scores.shape
    batch, heads = picture.batch + 1, picture.head + 1
    given = {
        name: torch.tensor(value) if name in recipe.captured else value
        for name, value in picture.given.items()
    }
    score_mod, mask_mod = recipe.mods(given)
    query = torch.full((batch, heads, q_len, 1), picture.raw)
    key = torch.ones(batch, heads, kv_len, 1)
    value = torch.eye(kv_len).expand(batch, heads, kv_len, kv_len)
    out = flex_attention(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=None
        if mask_mod is None
        else create_block_mask(mask_mod, batch, heads, q_len, kv_len, device="cpu"),
        scale=1.0,
        backend=backend,
    )[picture.batch, picture.head]
    want = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    error = distance(out, want)
    return Check(recipe.name, backend, f"picture {number + 1}", "float32", error, 2e-6)


def distance(got: Tensor, want: Tensor) -> float:
    """Largest difference over the reference's largest magnitude; inf where only one is finite."""
    got = got.double()
    same = (got == want) | (got.isnan() & want.isnan())
    difference = torch.where(same, 0.0, (got - want).abs()).nan_to_num(nan=math.inf)
    largest = torch.where(want.isfinite(), want.abs(), 0.0).max()
    return float(difference.max() / largest.clamp(min=1e-30))


def results(problem: Problem, backend: str | None) -> dict[str, Tensor]:
    """Output, lse and every gradient; of the dense definition when ``backend`` is None."""
    q, k, v = problem.query, problem.key, problem.value
    mods = (problem.score_mod, problem.mask_mod)
    if backend is None:
        out, lse = dense_attention(q, k, v, *mods, problem.scale)
    else:
        shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        mask = None if mods[1] is None else create_block_mask(mods[1], *shape, device="cpu")
        out, lse = flex_attention(
            q, k, v, score_mod=mods[0], block_mask=mask, scale=problem.scale,
            enable_gqa=problem.grouped, return_lse=True, backend=backend,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    pull = torch.randn(out.shape, generator=generator).to(out.dtype)
    gradients = torch.autograd.grad(out, list(problem.leaves.values()), pull)
    named = {f"grad {name}": g for name, g in zip(problem.leaves, gradients)}
    return {"out": out.detach(), "lse": lse.detach(), **named}


def check_dense(
    recipe: Recipe,
    sizes: Sizes,
    given: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    backend: str,
    seed: int = 0,
) -> list[Check]:
    """Output, lse and all gradients against the definition in float64 on the same numbers."""
    problem = make_problem(recipe, sizes, given, dtype=dtype, seed=seed)
    truth = results(problem.to(torch.float64), None)
    usual = results(problem.to(dtype), None)
    got = results(problem, backend)
    checks = []
    for what, want in truth.items():
        floor = FLOOR[dtype][what.startswith("grad")]
        allowed = max(2 * distance(usual[what], want), floor)
        error = distance(got[what], want)
        checks.append(Check(recipe.name, backend, what, str(dtype)[6:], error, allowed))
    return checks


def check_graph(
    recipe: Recipe, sizes: Sizes, given: Mapping[str, Any], *, dtype: torch.dtype, backend: str
) -> list[Check]:
    """The compiler's own check of the traced graph: `flexattn.verify`."""
    problem = make_problem(recipe, sizes, given, dtype=dtype)
    found = flexattn.verify(
        problem.score_mod, problem.mask_mod, B=sizes.batch, H=sizes.heads, Hkv=sizes.kv_heads,
        Q_LEN=sizes.q_len, KV_LEN=sizes.kv_len, D=sizes.head_dim, Dv=sizes.v_dim, dtype=dtype,
        backends=[backend],
    )  # fmt: skip
    name = str(dtype)[6:]
    return [
        Check(recipe.name, c.backend, f"graph: {c.tensor}", name, c.relative, c.allowed)
        for c in found.checks
    ]
