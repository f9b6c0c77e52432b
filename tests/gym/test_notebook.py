"""What notebooks show of recipes and explanations."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from attention_gym.gallery import load, names
from attention_gym.recipes.sliding_window import sliding_window
from flexattn import explain


class Balance(HTMLParser):
    """Counts tags that are open, and refuses one closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Balance:
    found = Balance()
    found.feed(html)
    assert not found.open
    return found


@pytest.mark.parametrize("name", names())
def test_a_recipe_shows_itself(name: str) -> None:
    recipe = load(name)
    found = parsed(recipe._repr_html_())
    assert recipe.formula in found.text and f"{recipe.name}: {recipe.summary}" in found.text
    assert "flex_attention(query, key, value" in found.text
    assert ("blocks of 4" in found.text) == (recipe.mask is not None)


def test_an_explanation_shows_itself() -> None:
    told = explain(mask_mod=sliding_window(64), Q_LEN=256)
    found = parsed(told._repr_html_())
    assert "forward kernel" in found.text and "mask_mod" in found.text
    assert all(title in found.text for title in told.sections)
