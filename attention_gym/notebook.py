"""A recipe as HTML for notebooks: picture, formula, captured tensors and code."""

from __future__ import annotations

from collections.abc import Mapping

from attention_gym.blocks import recipe_mask
from attention_gym.code import code
from attention_gym.picture import draw, recipe_scores
from attention_gym.recipe import NOTEBOOK, Recipe
from flexattn.reports.html import page

TOKENS, BLOCK = 16, 4


def recipe_html(recipe: Recipe) -> str:
    """Title, formula and picture, then what folds; masks are drawn as blocks too."""
    sizes = recipe.drawn(default=TOKENS)
    scores = recipe_scores(recipe, sizes, recipe.small)[0, 0]
    mask = recipe_mask(recipe, sizes, recipe.small, block=BLOCK)
    blocks = "" if mask is None else mask.to_svg(limit=4)
    sections = (
        ("picture of head 0 (rows are queries; # keeps, . drops)", draw(scores)),
        ("parameters", listed(recipe.parameters)),
        ("captured tensors", listed(recipe.captured)),
        ("models", "\n".join(f"{s.model}: {s.paper}" for s in recipe.sources)),
        ("elsewhere", "\n".join(recipe.equivalents)),
        ("code", code(recipe)),
    )
    title = f"{recipe.name}: {recipe.summary}"
    return page(title, (("formula", recipe.formula), *sections), ("formula", sections[0][0])) + (
        f"<div>blocks of {BLOCK} × {BLOCK}, heads side by side</div>{blocks}" if blocks else ""
    )


def listed(rows: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {meaning}" for name, meaning in rows.items())


NOTEBOOK[:] = [recipe_html]
