"""Every recipe of the gallery on the device: output, lse and all gradients against float64."""

from __future__ import annotations

import pytest
import torch
from on_device import DEVICE, Mods, Problem, check, length

from attention_gym import gallery
from attention_gym.inputs import make_problem
from attention_gym.recipe import Sizes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", gallery.names())
def test_recipe(name: str, dtype: torch.dtype) -> None:
    recipe = gallery.load(name)
    sizes = recipe.fits or Sizes(
        batch=2,
        heads=length(4, 2),
        kv_heads=length(2, 1),
        q_len=length(347, 37),
        head_dim=length(64, 16),
    )
    given = dict(recipe.small)
    made = make_problem(recipe, sizes, given, dtype=dtype, seed=torch.initial_seed() % 2**31)
    fixed = {k: t.to(DEVICE) for k, t in made.captures.items() if k not in recipe.learned}
    names = sorted(recipe.learned)
    learned = [made.captures[k].detach().to(DEVICE).requires_grad_() for k in names]
    leaves = [t.detach().to(DEVICE).requires_grad_() for t in (made.query, made.key, made.value)]

    def mods(*tensors: torch.Tensor) -> Mods:
        return recipe.mods({**given, **fixed, **dict(zip(names, tensors, strict=True))})

    check(Problem(*leaves, mods, learned, scale=recipe.scale))
