"""Draw masks and scores in the terminal, in the notation the hand-drawn pictures use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attention_gym.elementwise import modified_scores
from attention_gym.recipe import Picture, Recipe, Sizes

SHADES = " ░▒▓█"
BARS = "▁▂▃▄▅▆▇█"


def picture_scores(recipe: Recipe, picture: Picture) -> Tensor:
    """What the recipe makes of the case a picture draws: [Q, KV]."""
    given = {
        name: torch.tensor(value) if name in recipe.captured else value
        for name, value in picture.given.items()
    }
    cells = picture.cells()
    shape = (picture.batch + 1, picture.head + 1, len(cells), len(cells[0]))
    raw = torch.full(shape, picture.raw, dtype=torch.float64)
    return modified_scores(raw, *recipe.mods(given))[picture.batch, picture.head]


def recipe_scores(
    recipe: Recipe, sizes: Sizes, given: Mapping[str, Any], *, raw: float = 0.0
) -> Tensor:
    """Modified scores of a constant raw score, with the recipe's own captures: [B, H, Q, KV]."""
    captures = recipe.make_captures(sizes, given)
    score = torch.full((sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len), raw)
    return modified_scores(score, *recipe.mods({**given, **captures})).detach()


def draw(scores: Tensor, *, raw: float = 0.0) -> str:
    """[Q, KV] as text: ``#`` unchanged, ``.`` dropped, otherwise the number."""

    def cell(value: float) -> str:
        if value == -math.inf:
            return "."
        return "#" if value == raw else f"{value:.3g}"

    rows = [[cell(v) for v in row] for row in scores.tolist()]
    width = max((len(c) for row in rows for c in row), default=1)
    return "\n".join(" ".join(c.rjust(width) for c in row).rstrip() for row in rows)


def draw_density(keep: Tensor, *, side: int = 32) -> str:
    """A large mask [Q, KV] in at most ``side`` rows: a darker cell keeps a larger share."""
    rows, columns = (min(side, n) for n in keep.shape)
    share = torch.nn.functional.adaptive_avg_pool2d(keep[None, None].float(), (rows, columns))[0, 0]
    level = torch.where(share > 0, (share * (len(SHADES) - 1)).ceil(), 0).long()
    return "\n".join("".join(SHADES[i] * 2 for i in row) for row in level.tolist())


def draw_curve(values: Sequence[float], *, width: int = 64, height: int = 10) -> str:
    """A falling loss, say, as a bar chart with its range on the left."""
    if not values:
        return ""
    size = min(width, len(values))
    cuts = [round(i * len(values) / size) for i in range(size + 1)]
    points = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    eighths = [round((p - low) / span * (8 * height - 1)) + 1 for p in points]
    lines = []
    for row in range(height - 1, -1, -1):
        filled = [min(8, max(0, e - 8 * row)) for e in eighths]
        label = high if row == height - 1 else low if row == 0 else None
        left = f"{label:8.3f} " if label is not None else " " * 9
        lines.append(left + "".join(BARS[f - 1] if f else " " for f in filled).rstrip())
    return "\n".join(lines)
