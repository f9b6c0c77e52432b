"""The live pictures: what JavaScript draws is what Python says, at every slider that is tried."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from browser import Browser
from recipe_parts import chosen
from torch import Tensor

from attention_gym.blocks import block_classes
from attention_gym.cli.app import main
from attention_gym.elementwise import modified_scores
from attention_gym.gallery import load, names
from attention_gym.playground import defaults, page, playground, ramp, sizes_of
from flexattn import create_block_mask

Place: TypeAlias = tuple[int, ...]
Classes: TypeAlias = list[list[int]]
WIDGET = "document.querySelector('.flex-playground').flexPlayground"


def drawn(browser: Browser) -> Tensor:
    text = f"JSON.stringify({WIDGET}.scores(), (k, v) => v === -Infinity ? 'dropped' : v)"
    rows = json.loads(browser.evaluate(text))
    values = [[-math.inf if v == "dropped" else v for v in row] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


def python_says(
    name: str, place: Place, head: int, batch: int, *, ramped: bool
) -> tuple[Tensor, Classes]:
    """Scores, by plain torch, and which blocks of 4 are empty, partial, full."""
    recipe, sizes = load(name), sizes_of(load(name))
    given = defaults(recipe) | values_of(name, place)
    given |= recipe.make_captures(sizes, given)
    score_mod, mask_mod = recipe.mods(given)
    raw = ramp(sizes) if ramped else torch.zeros_like(ramp(sizes))
    scores = modified_scores(raw, score_mod, mask_mod).detach()[batch, head]
    keep = modified_scores(torch.zeros_like(raw), None, mask_mod)[batch, head] == 0
    rows = [part.split(4, dim=1) for part in keep.split(4)]
    return scores.double(), [[int(x.any()) + int(x.all()) for x in row] for row in rows]


def values_of(name: str, place: Place) -> dict[str, Any]:
    sliders = playground(name)["sliders"]
    return {s["name"]: s["stops"][at] for s, at in zip(sliders, place, strict=True)}


def places(name: str) -> list[Place]:
    """Combinations that can be drawn, that of the page as it opens first."""
    texts = playground(name)["states"]
    return [tuple(int(i) for i in re.findall(r"\d+", text)) for text in texts]


def choose(browser: Browser, values: dict[str, Any]) -> None:
    for slider, value in values.items():
        browser.evaluate(f"{WIDGET}.set(arguments[0], arguments[1])", slider, value)


@pytest.mark.parametrize("name", chosen(names()))
def test_dragging_draws_what_python_says(name: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(page(name))
    browser.open(path)
    found, sizes = playground(name), playground(name)["sizes"]
    tried = places(name)
    tried = [tried[0], *random.sample(tried, min(3, len(tried)))]
    for number, place in enumerate(tried):
        head, batch = number % sizes["heads"], number % sizes["batch"]
        ramped = found["ramp"] if number == 0 else number % 2 == 1
        if number > 0:  # at first as it opens
            choose(browser, values_of(name, place))
        wanted = {"@head": head, "@batch": batch, "@raw": ramped and "score" in found["kind"]}
        controls = browser.evaluate(f"Object.keys({WIDGET}.inputs)")
        choose(browser, {k: v for k, v in wanted.items() if k in controls})
        scores, classes = python_says(name, place, head, batch, ramped=wanted["@raw"])
        torch.testing.assert_close(drawn(browser), scores, rtol=2e-6, atol=2e-6, equal_nan=True)
        assert browser.evaluate(f"{WIDGET}.classes()") == classes
    assert not browser.errors()
    assert path.stat().st_size < 200_000


def test_a_slider_moves_picture_blocks_and_words(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert main(["playground", "sliding_window", "--out", str(path), "--json"]) == 0
    browser.open(path)
    stops = playground("sliding_window")["sliders"][0]["stops"]
    seen = []
    for window in (stops[1], stops[-1]):
        browser.evaluate(f"{WIDGET}.set('window', {window})")
        classes = browser.evaluate(f"{WIDGET}.classes()")
        recipe, sizes = load("sliding_window"), sizes_of(load("sliding_window"))
        _, mask_mod = recipe.mods({"window": window})
        mask = create_block_mask(
            mask_mod, 1, 1, sizes.q_len, sizes.kv_len, device="cpu", BLOCK_SIZE=4
        )
        assert classes == block_classes(mask)[0, 0].tolist()
        words = browser.evaluate("document.querySelectorAll('figcaption')[1].textContent")
        empty = sum(row.count(0) for row in classes)
        assert f"{empty} empty" in words and "Block sparsity" in words
        seen.append(browser.evaluate("document.querySelector('canvas').toDataURL()"))
    assert seen[0] != seen[1]


def test_it_fits_a_phone_and_follows_dark(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page("alibi"))
    browser.resize(360, 700)
    browser.open(path)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    light = browser.evaluate("document.querySelector('canvas').toDataURL()")
    assert not browser.violations()
    browser.prefer("dark")
    assert not browser.violations()
    assert browser.evaluate("document.querySelector('canvas').toDataURL()") != light
    browser.prefer("light")
    browser.resize(1200, 900)
    assert not browser.errors()


def test_values_that_do_not_fit_leave_the_picture_and_say_so(
    browser: Browser, tmp_path: Path
) -> None:
    name = next(n for n in names() if missing(n))
    path = tmp_path / "page.html"
    path.write_text(page(name))
    browser.open(path)
    place = missing(name)[0]
    for slider, value in values_of(name, place).items():
        choose(browser, {slider: value})
        if not browser.evaluate(f"{WIDGET}.chosen()"):
            break
    assert "do not fit" in browser.evaluate("document.querySelector('.fp-note').textContent")
    assert browser.evaluate(f"{WIDGET}.scores().length") == sizes_of(load(name)).q_len
    choose(browser, values_of(name, places(name)[0]))
    assert browser.evaluate("document.querySelector('.fp-note').textContent") == ""
    assert not browser.errors()


def missing(name: str) -> list[Place]:
    ranges = [range(len(s["stops"])) for s in playground(name)["sliders"]]
    return [place for place in itertools.product(*ranges) if place not in places(name)]


def test_the_keyboard_moves_a_slider(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page("sliding_window"))
    browser.open(path)
    before = browser.evaluate("document.querySelector('output').textContent")
    browser.press("TAB", "ARROW_RIGHT")
    assert browser.evaluate("document.querySelector('output').textContent") != before
    assert not browser.errors()
