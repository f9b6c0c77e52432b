"""What a page needs to draw a recipe live: its mods as JavaScript, and values per slider stop.

Python makes numbers and captured tensors for every combination of stops, as it would for a call;
JavaScript then evaluates the mods for every pair. So the picture is what Python says for those
parameters.
"""

from __future__ import annotations

import html
import itertools
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_gym.elementwise import modified_scores
from attention_gym.gallery import load
from attention_gym.picture import recipe_scores
from attention_gym.recipe import Recipe, Sizes
from flexattn.reports.javascript import javascript, runtime

PAGE_STYLE = (
    "body { font-family: system-ui, sans-serif; margin: 1rem; background: Canvas;"
    " color: CanvasText; }\n"
)
STATIC = Path(__file__).parent / "static"
TOKENS = 40  # queries and keys drawn where any number will do
HEADS = 4
MOST = 125  # combinations of stops that are made
LETTERS = 150_000  # of one page's data, if fewer stops can do that
ELEMENTS = 50_000  # of the captured tensors of one combination
FACTORS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)  # a stop is so many times the default


@dataclass(frozen=True)
class Slider:
    """One parameter with the values it can take on the page."""

    name: str
    meaning: str
    stops: tuple[Any, ...]
    start: int

    @property
    def of_truth(self) -> bool:
        return isinstance(self.stops[0], bool)


def sizes_of(recipe: Recipe) -> Sizes:
    sizes = recipe.drawn(default=TOKENS)
    batch = min(sizes.batch, 2) if recipe.fits is not None else 1 + ("bh" in recipe.needs)
    return replace(sizes, batch=batch, heads=min(sizes.heads, HEADS), kv_heads=0)


def stops_of(default: Any, count: int, largest: float) -> list[Any]:
    """At most ``count`` values around ``default``, up to ``largest`` times it.

    Of what is no number, it alone.
    """
    if isinstance(default, bool):
        return [False, True]
    if not isinstance(default, int | float):
        return [default]
    values = [round(default * f, 4) for f in FACTORS if f <= largest]
    if isinstance(default, int):
        values = [0, 1, 2, 3] if default < 2 else [round(v) for v in values]
    unique = sorted({*values, default})
    at = unique.index(default)
    first = max(0, min(at - count // 2, len(unique) - count))
    return unique[first : first + count]


def ramp(sizes: Sizes) -> Tensor:
    """Raw scores that show what a mod makes of them: from -4 at key 0 to 4 at the last."""
    row = 8 * torch.arange(sizes.kv_len, dtype=torch.float64) / max(1, sizes.kv_len - 1) - 4
    return row.float().expand(sizes.batch, sizes.heads, sizes.q_len, -1)


def rescales(recipe: Recipe, sizes: Sizes) -> bool:
    """Whether the recipe leaves raw scores of 0 as they are, so that a picture of them is empty."""
    scores = recipe_scores(recipe, sizes, defaults(recipe))
    return recipe.score is not None and not scores[scores != -torch.inf].any()


def defaults(recipe: Recipe) -> dict[str, Any]:
    """The values that pictures are drawn with."""
    return {name: recipe.small.get(name, p.default) for name, p in recipe.options().items()}


def works(recipe: Recipe, sizes: Sizes, given: dict[str, Any]) -> bool:
    """Whether the recipe can be made and drawn at these values: not all fit its sizes or a page."""
    try:
        captures = recipe.make_captures(sizes, given)
        if sum(tensor.numel() for tensor in captures.values()) > ELEMENTS:
            return False
        score = torch.zeros(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
        modified_scores(score, *recipe.mods({**given, **captures}))
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        return False
    return True


def sliders_of(recipe: Recipe, sizes: Sizes, count: int) -> list[Slider]:
    """One per parameter that has several values at which the recipe can be drawn."""
    base = defaults(recipe)
    largest = 4 if recipe.captures is None else 2  # tensors may grow with a power of a value
    found = []
    for name, value in base.items():
        stops = [
            stop for stop in stops_of(value, count, largest)
            if stop == value or works(recipe, sizes, {**base, name: stop})
        ]  # fmt: skip
        if len(stops) > 1:
            start = stops.index(value)
            found.append(Slider(name, recipe.parameters[name], tuple(stops), start))
    return found


@cache
def playground(recipe_name: str) -> dict[str, Any]:
    """Everything the widget takes, JSON-ready.

    Returns:
        ``sliders``; ``sizes``; ``ramp``, whether raw scores are a ramp at first; ``programs``
        (texts); ``tables`` (captured tensors, each once); ``states``, by the places of the stops
        chosen: program, lifted numbers, tables. A combination that does not fit has no state.
    """
    recipe = load(recipe_name)
    sizes = sizes_of(recipe)
    for count in (10, 9, 7, 5, 4, 3):
        sliders = sliders_of(recipe, sizes, count)
        if math.prod(len(slider.stops) for slider in sliders) <= MOST:
            found = collect(recipe, sizes, sliders)
            if len(packed(found)) <= LETTERS:
                return found
    return collect(recipe, sizes, sliders_of(recipe, sizes, 2))


def collect(recipe: Recipe, sizes: Sizes, sliders: list[Slider]) -> dict[str, Any]:
    """Programs and values of every combination of stops that can be drawn."""
    base = defaults(recipe)
    programs: dict[str, int] = {}
    tables: dict[str, int] = {}
    states: dict[str, Any] = {}
    first = ",".join(str(slider.start) for slider in sliders)
    order = itertools.product(*(range(len(slider.stops)) for slider in sliders))
    for place in sorted(order, key=lambda place: ",".join(map(str, place)) != first):
        given = base | {s.name: s.stops[at] for s, at in zip(sliders, place, strict=True)}
        if not works(recipe, sizes, given):
            continue  # the page keeps the last picture and says so
        captures = recipe.make_captures(sizes, given)
        score_mod, mask_mod = recipe.mods({**given, **captures})
        made = javascript(
            score_mod, mask_mod, B=sizes.batch, H=sizes.heads, Q_LEN=sizes.q_len,
            KV_LEN=sizes.kv_len,
        )  # fmt: skip
        texts = [json.dumps(table) for table in made.captures]
        states[",".join(map(str, place))] = {
            "program": programs.setdefault(made.text, len(programs)),
            "ints": made.ints,
            "floats": made.floats,
            "tables": [tables.setdefault(text, len(tables)) for text in texts],
        }
    return {
        "name": recipe.name,
        "formula": recipe.formula,
        "kind": recipe.kind,
        "ramp": rescales(recipe, sizes),
        "sizes": {key: getattr(sizes, key) for key in ("batch", "heads", "q_len", "kv_len")},
        "sliders": [
            {
                "name": s.name,
                "meaning": s.meaning,
                "stops": list(s.stops),
                "start": s.start,
                "truth": s.of_truth,
            }
            for s in sliders
        ],
        "programs": list(programs),
        "tables": [json.loads(text) for text in tables],
        "states": states,
    }


def packed(found: dict[str, Any]) -> str:
    return json.dumps(found, separators=(",", ":"), allow_nan=False)


def script() -> str:
    """Runtime and widget, as one script."""
    return runtime() + (STATIC / "playground.js").read_text()


def style() -> str:
    return (STATIC / "playground.css").read_text()


def embedded(name: str) -> str:
    """The widget's element with its data, for a page that holds script and style."""
    data = packed(playground(name)).replace("</", "<\\/")
    return (
        f'<div class="flex-playground" data-recipe="{name}">'
        f'<script type="application/json">{data}</script></div>'
    )


def page(name: str) -> str:
    """One self-contained page with the widget alone."""
    recipe = load(name)
    text = f"<h1>{name}</h1><p>{html.escape(recipe.summary)}</p>"
    text += f"<p><code>{html.escape(recipe.formula)}</code></p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name}</title><style>{PAGE_STYLE}{style()}</style></head>"
        f"<body><main>{text}{embedded(name)}</main><script>{script()}</script></body></html>"
    )
