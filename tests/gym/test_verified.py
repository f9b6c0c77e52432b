"""Recipes as `verify` checks them: pictures, references, dense float64, every CPU backend."""

from __future__ import annotations

import pytest
import torch
from recipe_parts import chosen

from attention_gym.blocks import EMPTY, FULL, PARTIAL, block_classes
from attention_gym.cli.prove import checks_of
from attention_gym.elementwise import modified_scores
from attention_gym.gallery import load, names
from attention_gym.recipe import ODD
from flexattn import create_block_mask


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


@pytest.mark.parametrize("name", names())
def test_blocks_are_those_of_the_pairs(name: str) -> None:
    """Empty, partial and full exactly where the mask, pair by pair, says so."""
    recipe = load(name)
    sizes, block = recipe.fits or ODD, 8
    captures = recipe.make_captures(sizes, recipe.small)
    _, mask_mod = recipe.mods({**recipe.small, **captures})
    if mask_mod is None:
        return
    shape = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    mask = create_block_mask(mask_mod, *shape, device="cpu", BLOCK_SIZE=block)
    found = block_classes(mask)
    kept = (modified_scores(torch.zeros(shape), None, mask_mod) == 0).float()
    rows, columns = found.shape[-2:]
    padded = torch.zeros(*shape[:2], rows * block, columns * block)
    padded[..., : shape[2], : shape[3]] = kept
    counts = padded.unflatten(3, (columns, block)).unflatten(2, (rows, block)).sum((3, 5))
    want = torch.where(counts == 0, EMPTY, torch.where(counts == block * block, FULL, PARTIAL))
    assert torch.equal(found.long(), want.expand_as(found))
