"""Pictures of one recipe for its page and its card, in both themes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.colors import ListedColormap

from attention_gym.blocks import block_classes, recipe_mask
from attention_gym.cli.figures import response
from attention_gym.picture import recipe_scores
from attention_gym.plot import THEMES, Theme, new_figure, recipe_figure, varies_with_distance
from attention_gym.recipe import Recipe

BLOCK = 8


def draw(recipe: Recipe, folder: Path) -> None:
    """``NAME-light.png`` and so on for the page, ``NAME-light-small.png`` for the card."""
    sizes = replace(recipe.drawn(default=64), kv_heads=0)
    given = {name: p.default for name, p in recipe.options().items()} | dict(recipe.small)
    scores = recipe_scores(recipe, sizes, given)[0]
    if recipe.score is not None and not varies_with_distance(scores):
        scores = recipe_scores(recipe, sizes, given, raw=1.0)[0]  # it scales: 0 stays 0
    mask = recipe_mask(recipe, sizes, given, block=BLOCK)
    classes = None if mask is None else block_classes(mask)[0, 0]
    image = None
    if recipe.image is not None:
        image = given[recipe.image[0]], given[recipe.image[1]]
    everything = {**given, **recipe.make_captures(sizes, given)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, theme in THEMES.items():
        figure = recipe_figure(
            scores, classes, response(recipe, everything), head=0, block=BLOCK,
            title=recipe.name, theme=theme, image=image,
        )  # fmt: skip
        colour = figure.get_facecolor()
        figure.savefig(folder / f"{recipe.name}-{name}.png", dpi=80, facecolor=colour)
        small = thumbnail(scores[0], theme)
        small.savefig(folder / f"{recipe.name}-{name}-small.png", dpi=64, facecolor=colour)


def thumbnail(scores: torch.Tensor, theme: Theme):  # type: ignore[no-untyped-def]
    """[Q, KV] without words: two colours, or a heat map."""
    from matplotlib import colormaps

    figure = new_figure(2.0, 2.0, theme)
    axes = figure.subplots()
    axes.set_axis_off()
    kept = scores != -math.inf
    values = scores[kept]
    if values.numel() == 0 or float(values.max()) == float(values.min()):
        colours = ListedColormap((theme.blocks[0], theme.blocks[2]))
        axes.imshow(kept.int().numpy(), cmap=colours, vmin=0, vmax=1, aspect="auto")
    else:
        cmap = colormaps["cividis"].with_extremes(bad=theme.blocks[0])
        axes.imshow(torch.where(kept, scores, math.nan).numpy(), cmap=cmap, aspect="auto")
    return figure
