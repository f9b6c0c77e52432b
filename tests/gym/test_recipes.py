"""Every recipe: its pictures, its words, and dense formulas written here a second time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attention_gym.gallery import load, names
from attention_gym.picture import draw, picture_scores, recipe_scores
from attention_gym.recipe import FAMILIES, NEEDS, Picture, Recipe, Sizes
from attention_gym.recipes.alibi import alibi_slopes
from attention_gym.recipes.t5_bias import t5_bucket

pytestmark = pytest.mark.null
INF = math.inf
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


def test_the_first_recipes_are_there() -> None:
    assert {
        "causal", "sliding_window", "causal_window_document", "document", "prefix_lm", "alibi",
        "tanh_softcap", "relative_bias", "t5_bias", "key_padding",
    } <= set(names())  # fmt: skip


# A second definition of each, by loops over cells or from the captured tensors' meaning.


def loops(sizes: Sizes, rule: Callable[[int, int, int, int], float]) -> Tensor:
    out = torch.empty(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            for q in range(sizes.q_len):
                for kv in range(sizes.kv_len):
                    out[b, h, q, kv] = rule(b, h, q, kv)
    return out


def keep(flag: bool) -> float:
    return 0.0 if flag else -INF


def dense_causal(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    return torch.full((1, 1, sizes.q_len, sizes.kv_len), -INF).triu(1).nan_to_num(0, neginf=-INF)


def dense_window(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    return loops(sizes, lambda b, h, q, kv: keep(kv in range(max(0, q - 5), q + 1)))


def dense_document(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    one_hot = torch.nn.functional.one_hot(c["document_id"]).float()
    same = one_hot[:, : sizes.q_len] @ one_hot[:, : sizes.kv_len].mT
    return (1 - 1 / same)[:, None].clamp(-INF, 0)


def dense_window_document(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    return (dense_window(sizes, c) + dense_document(sizes, c)).clamp(-INF, 0)


def dense_prefix(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    return loops(sizes, lambda b, h, q, kv: keep(kv < max(7, q + 1)))


def dense_padding(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    return torch.log(c["valid"].float())[:, None, None, :]


def dense_alibi(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    published = [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]  # six heads: four, then two of eight
    return loops(sizes, lambda b, h, q, kv: keep(q >= kv) + published[h] * (kv - q))


def dense_softcap(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    grown = math.exp(2 * 3.0 / 5.0)
    return torch.full((1, 1, 1, 1), 5.0 * (grown - 1) / (grown + 1))


def dense_relative(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    table = c["table"].tolist()
    return loops(sizes, lambda b, h, q, kv: table[h][sorted((0, q - kv + 4, 8))[1]])


def dense_t5(sizes: Sizes, c: dict[str, Tensor]) -> Tensor:
    table = c["table"].tolist()

    def bucket(relative: int) -> int:
        """The published code for one position: relative = key - query, 12 buckets, farthest 16."""
        side, n = (6 if relative > 0 else 0), abs(relative)
        if n < 3:
            return side + n
        return side + min(5, 3 + int(math.log(n / 3) / math.log(16 / 3) * 3))

    return loops(sizes, lambda b, h, q, kv: table[bucket(kv - q)][h])


DENSE: dict[str, tuple[Callable[[Sizes, dict[str, Tensor]], Tensor], dict[str, object], float]] = {
    "causal": (dense_causal, {}, 0.0),
    "sliding_window": (dense_window, {"window": 6}, 0.0),
    "document": (dense_document, {"documents": 3}, 0.0),
    "causal_window_document": (dense_window_document, {"window": 6, "documents": 3}, 0.0),
    "prefix_lm": (dense_prefix, {"prefix": 7}, 0.0),
    "key_padding": (dense_padding, {"shortest": 0.5}, 0.0),
    "alibi": (dense_alibi, {}, 0.0),
    "tanh_softcap": (dense_softcap, {"cap": 5.0}, 3.0),
    "relative_bias": (dense_relative, {"reach": 4}, 0.0),
    "t5_bias": (dense_t5, {"buckets": 12, "max_distance": 16}, 0.0),
}


@pytest.mark.parametrize("q_len", [19, 24])
@pytest.mark.parametrize("name", sorted(DENSE))
def test_against_a_second_formula(name: str, q_len: int) -> None:
    recipe, (dense, given, raw) = load(name), DENSE[name]
    sizes = Sizes(batch=2, heads=6, q_len=q_len, kv_len=24)
    got = recipe_scores(recipe, sizes, given, raw=raw)
    want = dense(sizes, recipe.make_captures(sizes, given)).broadcast_to(got.shape)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert not math.isnan(got.sum())


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
