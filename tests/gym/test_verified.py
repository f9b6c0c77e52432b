"""Recipes as `verify` checks them: pictures, references, dense float64, every CPU backend."""

from __future__ import annotations

import pytest
import torch
from recipe_parts import chosen

from attention_gym.cli.prove import checks_of
from attention_gym.elementwise import modified_scores
from attention_gym.gallery import load, names
from attention_gym.recipe import ODD


@pytest.mark.parametrize("name", chosen(names()))
def test_recipe(name: str) -> None:
    recipe = load(name)
    sizes, dtypes = recipe.fits or ODD, ["float32", "bfloat16"]
    checks = list(checks_of(recipe, sizes, recipe.small, ["cpp", "eager"], dtypes))
    assert {check.backend for check in checks} == {"cpp", "eager", "reference"}
    failed = [check for check in checks if not check.passed]
    assert not failed, failed


@pytest.mark.parametrize("name", names())
def test_a_mask_that_differs_over_batch_or_head_says_so(name: str) -> None:
    """`run` and `bench` build one mask for all where the recipe does not need `bh`."""
    recipe = load(name)
    sizes = recipe.fits or ODD
    captures = recipe.make_captures(sizes, recipe.small)
    _, mask_mod = recipe.mods({**recipe.small, **captures})
    if mask_mod is None:
        assert "bh" not in recipe.needs or recipe.score is not None
        return
    shape = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    kept = modified_scores(torch.zeros(shape), None, mask_mod) == 0
    assert torch.equal(kept, kept[:1, :1].expand_as(kept)) or "bh" in recipe.needs
