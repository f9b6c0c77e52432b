"""Make the tensors of one attention call for a recipe: query, key, value and captures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Recipe, ScoreMod, Sizes

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Problem:
    """One attention call.

    Attributes:
        query: [B, Hq, Q_LEN, D].
        key: [B, Hkv, KV_LEN, D].
        value: [B, Hkv, KV_LEN, Dv].
        captures: The captured tensors by name.
        given: Parameters and captures, as the recipe's factories take them.
        score_mod: Made with them.
        mask_mod: Made with them.
        scale: The recipe's softmax scale.
    """

    recipe: Recipe
    query: Tensor
    key: Tensor
    value: Tensor
    captures: Mapping[str, Tensor]
    given: Mapping[str, Any]
    score_mod: ScoreMod | None
    mask_mod: MaskMod | None
    scale: float | None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that wants a gradient, by name."""
        learned = {name: self.captures[name] for name in sorted(self.recipe.learned)}
        return {"query": self.query, "key": self.key, "value": self.value, **learned}

    @property
    def grouped(self) -> bool:
        return self.query.shape[1] != self.key.shape[1]

    def to(self, dtype: torch.dtype) -> Problem:
        """The same numbers in another dtype as fresh leaves; learned captures go along."""
        captures = {
            name: t.detach().to(dtype) if name in self.recipe.learned else t
            for name, t in self.captures.items()
        }
        tensors = (t.detach().to(dtype) for t in (self.query, self.key, self.value))
        return assemble(self.recipe, *tensors, captures=captures, given=self.given)


def assemble(
    recipe: Recipe,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    captures: Mapping[str, Tensor],
    given: Mapping[str, Any],
) -> Problem:
    learned = [captures[name] for name in recipe.learned]
    for tensor in (query, key, value, *learned):
        tensor.requires_grad_()
    given = {**given, **captures}
    mods = recipe.mods(given)
    return Problem(recipe, query, key, value, captures, given, *mods, recipe.scale)


def make_problem(
    recipe: Recipe,
    sizes: Sizes,
    given: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Normal random query, key and value; the recipe's own captures.

    With a recipe of scale 1 the query is divided by sqrt(D), as such models' weights are.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(heads: int, length: int, dim: int) -> Tensor:
        shape = (sizes.batch, heads, length, dim)
        return torch.randn(shape, generator=generator).to(dtype)

    query = normal(sizes.heads, sizes.q_len, sizes.head_dim)
    if recipe.scale is not None:
        query = query / (recipe.scale * sizes.head_dim**0.5)
    key, value = (
        normal(sizes.kv_heads, sizes.kv_len, dim) for dim in (sizes.head_dim, sizes.v_dim)
    )
    if recipe.value_in_key:
        value = key.detach()[..., : sizes.v_dim]
    captures = recipe.make_captures(sizes, given)
    return assemble(recipe, query, key, value, captures=captures, given=given)
