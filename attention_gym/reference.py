"""Compare a recipe with its second definitions, and write those down shortly."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attention_gym.elementwise import modified_scores
from attention_gym.recipe import ODD, Recipe, Reference


def masked(score: Tensor, keep: Tensor) -> Tensor:
    """``score`` where ``keep``, -inf elsewhere: a dense mask as modified scores."""
    return torch.where(keep, score, -math.inf)


def added(score: Tensor, bias: Tensor) -> Tensor:
    """``score + bias``, where a bias of the dtype's lowest value, or near it, means dropped."""
    lowest = torch.finfo(bias.dtype).min / 4
    return torch.where(bias <= lowest, -math.inf, score + bias)


def places(score: Tensor) -> tuple[Tensor, Tensor]:
    """Column of query positions [Q, 1] and row of key positions [1, KV]."""
    q_len, kv_len = score.shape[-2:]
    return torch.arange(q_len)[:, None], torch.arange(kv_len)[None, :]


def model_mask(create: Callable[..., Any], config: Any, score: Tensor, **options: Any) -> Tensor:
    """What a mask function of transformers gives a model: 0 where kept, a huge negative elsewhere.

    Args:
        create: One of ``transformers.masking_utils``.
        config: The model's configuration.
        score: Raw scores [B, H, Q, KV], for their sizes.
        options: Further arguments of ``create``.
    """
    config._attn_implementation = "eager"
    embeds = torch.zeros(score.shape[0], score.shape[2], 8)
    given = {"inputs_embeds": embeds, "attention_mask": None, "cache": None, **options}
    mask: Tensor = create(config, **given)
    return mask


class Given(torch.nn.Module):
    """Stands in for a part of a model and returns what it was given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, *unused: object) -> Tensor:
        return self.value


def compare(recipe: Recipe, reference: Reference, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(modified scores by the recipe, by the reference), of normal random raw scores.

    Rows are normalised where the reference knows weights alone.
    """
    sizes = reference.sizes or recipe.fits or ODD
    given = {**recipe.small, **reference.given}
    options = {name: p.default for name, p in recipe.options().items()}
    given = {**options, **given, **recipe.make_captures(sizes, given)}
    shape = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    score = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    wanted = inspect.signature(reference.scores).parameters
    with torch.no_grad():
        want = reference.scores(score, **{k: v for k, v in given.items() if k in wanted})
        got = modified_scores(score, *recipe.mods(given))
    want = want.broadcast_to(shape)
    return (normalised(got), normalised(want)) if reference.weights else (got, want)


def normalised(scores: Tensor) -> Tensor:
    """Logarithms of the softmax; -inf stays, also in rows where there is nothing else."""
    total = torch.logsumexp(scores, -1, keepdim=True)
    return torch.where(total == -math.inf, scores, scores - total)
