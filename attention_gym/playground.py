"""What a page needs to draw a recipe live: its mods as JavaScript, and values per slider stop.

Python makes numbers and captured tensors for every stop, as it would for a call; JavaScript then
evaluates the mods for every pair. So the picture is what Python says for those parameters.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attention_gym.elementwise import modified_scores
from attention_gym.gallery import load
from attention_gym.recipe import Recipe, Sizes
from flexattn.reports.javascript import javascript, runtime

STATIC = Path(__file__).parent / "static"
TOKENS = 40  # queries and keys drawn where any number will do
HEADS = 4
MOST = 125  # combinations of stops that are made
CELLS = 24_000  # numbers of captured tensors in one page, if fewer stops can do that


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


def stops_of(default: Any, count: int) -> list[Any]:
    """Values around ``default``: itself, smaller and larger ones."""
    if isinstance(default, bool):
        return [False, True]
    factors = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)
    values = [default * f for f in factors]
    if isinstance(default, int):
        values = [0, 1, 2, 3] if default < 2 else [round(v) for v in values]
    unique = sorted({round(v, 4) if isinstance(v, float) else v for v in (*values, default)})
    at = unique.index(default)
    first = max(0, min(at - count // 2, len(unique) - count))
    return unique[first : first + count]


def works(recipe: Recipe, sizes: Sizes, given: dict[str, Any]) -> bool:
    """Whether the recipe can be made and drawn at these values; not all of them fit its sizes."""
    try:
        captures = recipe.make_captures(sizes, given)
        score = torch.zeros(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
        modified_scores(score, *recipe.mods({**given, **captures}))
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        return False
    return True


def sliders_of(recipe: Recipe, sizes: Sizes, count: int) -> list[Slider]:
    """One per parameter that has several values at which the recipe can be drawn."""
    base = {name: recipe.small.get(name, p.default) for name, p in recipe.options().items()}
    found = []
    for name, value in base.items():
        stops = [
            stop for stop in stops_of(value, count)
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
        ``sliders``; ``sizes``; ``programs`` (texts); ``tables`` (captured tensors, each once);
        ``states``, by the stops' numbers: program, lifted numbers, tables.
    """
    recipe = load(recipe_name)
    sizes = sizes_of(recipe)
    for count in (9, 7, 5, 4, 3, 2):
        sliders = sliders_of(recipe, sizes, count)
        states = 1
        for slider in sliders:
            states *= len(slider.stops)
        found = collect(recipe, sizes, sliders) if states <= MOST or count == 2 else None
        if found is not None and (count == 2 or cells_of(found) <= CELLS):
            return found
    raise AssertionError("the last round always returns")


def cells_of(found: dict[str, Any]) -> int:
    return sum(len(table["data"]) for table in found["tables"])


def collect(recipe: Recipe, sizes: Sizes, sliders: list[Slider]) -> dict[str, Any]:
    """Programs and values of every combination of stops that can be drawn."""
    base = {name: recipe.small.get(name, p.default) for name, p in recipe.options().items()}
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
        texts = [json.dumps(rounded(table)) for table in made.captures]
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


def rounded(table: dict[str, Any]) -> dict[str, Any]:
    """Floats with six digits: as many as a picture can show."""
    data = [float(f"{v:.6g}") if isinstance(v, float) else v for v in table["data"]]
    return {"shape": table["shape"], "data": data}


def script() -> str:
    """Runtime and widget, as one script."""
    return runtime() + (STATIC / "playground.js").read_text()


def style() -> str:
    return (STATIC / "playground.css").read_text()


def embedded(name: str) -> str:
    """The widget's element with its data, for a page that holds script and style."""
    data = json.dumps(playground(name), separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="flex-playground" data-recipe="{name}">'
        f'<script type="application/json">{data}</script></div>'
    )


def page(name: str) -> str:
    """One self-contained page with the widget alone."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{style()}</style></head>"
        f"<body><main><h1>{name}</h1>{embedded(name)}</main><script>{script()}</script></body></html>"
    )
