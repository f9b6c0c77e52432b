"""The gallery's first page: a card for every variant, and filters above them."""

from __future__ import annotations

import html
from collections.abc import Sequence

from pages import picture_html, raw

from attention_gym.absent import WANTED, Absent
from attention_gym.recipe import FAMILIES, Recipe

READY, NOT_YET, NEVER = "a recipe", "not yet", "cannot be"


def options(name: str, label: str, values: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in values)
    return (
        f'<label>{label} <select name="{name}"><option value="">all</option>{rows}</select></label>'
    )


def card(name: str, title: str, picture: str, **facts: str) -> str:
    data = " ".join(f'data-{key}="{html.escape(value)}"' for key, value in facts.items())
    broken = name.replace("_", "_<wbr>")
    badge = "" if facts["status"] == READY else f'<span class="badge">{facts["status"]}</span>'
    return (
        f'<li class="card" {data}><a href="{name}.html">{picture}<b>{broken}</b>{badge}'
        f"<span>{html.escape(title)}</span></a></li>"
    )


def recipe_card(recipe: Recipe) -> str:
    models = " ".join(source.model for source in recipe.sources)
    return card(
        recipe.name, recipe.summary, picture_html(recipe.name, small=True), status=READY,
        family=recipe.family, needs=" ".join(sorted(recipe.needs)), models=models,
    )  # fmt: skip


def absent_card(row: Absent) -> str:
    status = NEVER if row.impossible else NOT_YET
    return card(row.name, row.title, "", status=status, family="", needs=" ".join(row.needs),
                models=row.model)  # fmt: skip


def gallery_page(recipes: Sequence[Recipe], absent: Sequence[Absent]) -> str:
    """Cards of all, filtered by words, family, capability and status; names link to pages."""
    filters = "".join(
        [
            '<label>name or model <input name="words" type="search"></label>',
            options("family", "family", [(family, family) for family in FAMILIES]),
            options("needs", "capability", [(key, f"{key}: {WANTED[key]}") for key in WANTED]),
            options("status", "status", [(s, s) for s in (READY, NOT_YET, NEVER)]),
            '<output class="count" aria-live="polite"></output>',
        ]
    )
    cards = "".join([*map(recipe_card, recipes), *map(absent_card, absent)])
    names = [*(recipe.name for recipe in recipes), *(row.name for row in absent)]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])
    grid = f'<form class="filters">{filters}</form><ul class="cards">{cards}</ul>'
    words = f"{len(recipes)} variants run today, each checked; {len(absent)} more are known.\n"
    return f"# Gallery\n\n{words}\n{raw(grid)}\n{toctree}\n"
