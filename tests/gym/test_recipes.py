"""Every recipe: its pictures, its words, and dense formulas written here a second time."""

from __future__ import annotations

import pytest
import torch

from attention_gym.gallery import load, names
from attention_gym.picture import draw, picture_scores, recipe_scores
from attention_gym.recipe import FAMILIES, NEEDS, Picture, Recipe, Sizes
from attention_gym.recipes.alibi import alibi_slopes
from attention_gym.recipes.t5_bias import t5_bucket
from attention_gym.reference import compare

pytestmark = pytest.mark.null
REFERENCES = [(name, i) for name in names() for i in range(len(load(name).references))]
PICTURES = [(name, i) for name in names() for i in range(len(load(name).pictures))]


@pytest.mark.parametrize(("name", "number"), PICTURES)
def test_picture(name: str, number: int) -> None:
    recipe = load(name)
    picture = recipe.pictures[number]
    torch.testing.assert_close(
        picture_scores(recipe, picture), picture.scores(), rtol=1e-6, atol=1e-6, msg=name
    )


@pytest.mark.parametrize("name", names())
def test_words(name: str) -> None:
    recipe = load(name)
    assert recipe.summary.endswith(".") and len(recipe.summary) < 120
    assert recipe.pictures and recipe.sources and recipe.formula
    assert recipe.family in FAMILIES
    assert recipe.needs <= set(NEEDS)
    assert set(recipe.parameters) == set(recipe.options())
    captures = recipe.make_captures(recipe.sizes, {})
    assert set(recipe.captured) == set(captures)
    assert recipe.learned <= set(captures)
    # The code that `show` prints holds both as plain names.
    assert set(captures).isdisjoint(f.__name__ for f in recipe.factories())
    assert all(p.default is not p.empty for p in recipe.options().values())
    assert ("gr" in recipe.needs) == bool(recipe.learned)
    assert recipe.references and set(recipe.small) <= set(recipe.options())
    assert recipe.image is None or set(recipe.image) <= set(recipe.options())
    if recipe.fits is not None:
        assert max(recipe.fits.q_len, recipe.fits.kv_len) <= 64


@pytest.mark.parametrize(("name", "number"), REFERENCES)
def test_reference(name: str, number: int) -> None:
    recipe = load(name)
    reference = recipe.references[number]
    got, want = compare(recipe, reference)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert got.isfinite().any()


# Published numbers.


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 32])
def test_alibi_slopes_of_a_power_of_two_are_a_geometric_series_ending_at_2_to_the_minus_8(
    heads: int,
) -> None:
    slopes = alibi_slopes(heads)
    ratio = 2 ** (-8 / heads)
    assert slopes == pytest.approx([ratio ** (i + 1) for i in range(heads)])
    assert slopes[-1] == 2**-8


def test_alibi_slopes_of_twelve_heads_as_published() -> None:
    eight = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    between = [0.7071067811865476, 0.35355339059327384, 0.17677669529663692, 0.08838834764831849]
    assert alibi_slopes(12) == pytest.approx(eight + between)


def test_t5_buckets_as_published() -> None:
    bucket = t5_bucket(16, 128).tolist()
    assert bucket[:8] == list(range(8))
    # First distance of every far bucket: ceil(8 * 16 ** (i / 8)).
    assert [bucket.index(i) for i in range(8, 16)] == [8, 12, 16, 23, 32, 46, 64, 91]
    assert bucket[128] == 15


def test_a_picture_can_refuse() -> None:
    wrong = Picture("# #\n# #")
    recipe: Recipe = load("causal")
    assert not torch.equal(picture_scores(recipe, wrong), wrong.scores())


def test_draw_gives_the_notation_back() -> None:
    recipe = load("sliding_window")
    scores = recipe_scores(recipe, Sizes(heads=1, q_len=3), {"window": 2})[0, 0]
    assert draw(scores) == "# . .\n# # .\n. # #"
    bias = recipe_scores(load("alibi"), Sizes(heads=8, q_len=2), {})[0, 0]
    assert draw(bias, raw=1.0) == "   0    .\n-0.5    0"
