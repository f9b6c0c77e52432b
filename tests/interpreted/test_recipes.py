"""Every recipe on the Triton backend, interpreted, forward and backward."""

from __future__ import annotations

import pytest
import torch
from attention_calls import poisoned
from recipe_parts import chosen

from attention_gym.check import FLOOR, distance, results
from attention_gym.gallery import load, names
from attention_gym.inputs import make_problem
from attention_gym.recipe import Sizes

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf

SIZES = Sizes(batch=1, heads=2, kv_heads=1, q_len=45, kv_len=45, head_dim=16)


@pytest.mark.parametrize("name", chosen(names()))
def test_recipe(name: str) -> None:
    """Output, lse and all gradients, of captured tensors too, against dense float64."""
    recipe = load(name)
    problem = make_problem(recipe, recipe.fits or SIZES, recipe.small)
    with poisoned():
        got = results(problem, "triton")
    truth = results(problem.to(torch.float64), None)
    usual = results(problem.to(torch.float32), None)
    for what, want in truth.items():
        floor = FLOOR[torch.float32][what.startswith("grad")]
        allowed = max(2 * distance(usual[what], want), floor)
        assert distance(got[what], want) <= allowed, what
