"""The live pictures: what JavaScript draws is what Python says, at every slider that is tried."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser
from recipe_parts import chosen
from torch import Tensor

from attention_gym.blocks import block_classes
from attention_gym.cli.app import main
from attention_gym.gallery import load, names
from attention_gym.picture import recipe_scores
from attention_gym.playground import page, playground, sizes_of
from flexattn import create_block_mask

WIDGET = "document.querySelector('.flex-playground').flexPlayground"


def drawn(browser: Browser) -> Tensor:
    text = f"JSON.stringify({WIDGET}.scores(), (k, v) => v === -Infinity ? 'dropped' : v)"
    rows = json.loads(browser.evaluate(text))
    values = [[-math.inf if v == "dropped" else v for v in row] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


def python_says(name: str, place: tuple[int, ...], head: int, batch: int) -> Tensor:
    recipe, sliders = load(name), playground(name)["sliders"]
    given: dict[str, Any] = {k: p.default for k, p in recipe.options().items()}
    given |= recipe.small
    given |= {s["name"]: s["stops"][at] for s, at in zip(sliders, place, strict=True)}
    return recipe_scores(recipe, sizes_of(recipe), given)[batch, head].double()


@pytest.mark.parametrize("name", chosen(names()))
def test_dragging_draws_what_python_says(name: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(page(name))
    browser.open(path)
    data = playground(name)
    states = [tuple(int(i) for i in re.findall(r"\d+", text)) for text in data["states"]]
    tried = [states[0], *random.sample(states, min(3, len(states)))]
    for number, place in enumerate(tried):
        head = number % data["sizes"]["heads"]
        batch = number % data["sizes"]["batch"]
        for slider, at in zip(data["sliders"], place, strict=True):
            browser.evaluate(
                f"{WIDGET}.set(arguments[0], arguments[1])", slider["name"], slider["stops"][at]
            )
        if data["sizes"]["heads"] > 1:
            browser.evaluate(f"{WIDGET}.set('@head', {head})")
        if data["sizes"]["batch"] > 1:
            browser.evaluate(f"{WIDGET}.set('@batch', {batch})")
        want = python_says(name, place, head, batch)
        torch.testing.assert_close(drawn(browser), want, rtol=2e-4, atol=2e-4)
    assert not browser.errors()


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
    browser.prefer("dark")
    assert browser.evaluate("document.querySelector('canvas').toDataURL()") != light
    browser.prefer("light")
    browser.resize(1200, 900)
    assert not browser.errors()
