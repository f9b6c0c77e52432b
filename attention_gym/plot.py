"""Pictures as PNG or SVG: masks and scores cell by cell, blocks in three colours, bias by distance.

Colours are Okabe and Ito's and the map cividis, which are told apart without red and green.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_gym.blocks import CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of one background; ``blocks`` are empty, partial and full."""

    background: str
    text: str
    faint: str
    blocks: tuple[str, str, str]
    lines: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#ffffff", "#1a1a1a", "#b8b8b8", ("#ececec", "#e69f00", "#0072b2"),
        ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b6b6b", "#56b4e9"),
    ),
    "dark": Theme(
        "#16181d", "#ececec", "#4a4e57", ("#2b2f37", "#d55e00", "#56b4e9"),
        ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#b8b8b8", "#f0e442"),
    ),
}  # fmt: skip
SUFFIXES = (".png", ".svg")


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor=theme.background, layout="constrained")


def style(axes: Axes, theme: Theme, title: str, x: str, y: str) -> None:
    axes.set_title(title, color=theme.text, fontsize=10)
    axes.set_xlabel(x, color=theme.text, fontsize=9)
    axes.set_ylabel(y, color=theme.text, fontsize=9)
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.text, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(theme.faint)


def legend(axes: Axes, theme: Theme, entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, edgecolor=theme.faint, label=label) for label, c in entries]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(entries),
        fontsize=8, frameon=False, labelcolor=theme.text,
    )  # fmt: skip


def element_panel(axes: Axes, scores: Tensor, theme: Theme, title: str) -> None:
    """[Q, KV] modified scores: two colours where every kept one is equal, else a heat map."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    kept = scores != -math.inf
    values = scores[kept]
    style(axes, theme, title, "key", "query")
    if values.numel() == 0 or float(values.max()) == float(values.min()):
        colours = (theme.blocks[0], theme.blocks[2])
        axes.imshow(kept.int().numpy(), cmap=ListedColormap(colours), vmin=0, vmax=1)
        legend(axes, theme, [("dropped", colours[0]), ("kept", colours[1])])
        return
    cmap = colormaps["cividis"].with_extremes(bad=theme.blocks[0])
    image = axes.imshow(torch.where(kept, scores, math.nan).numpy(), cmap=cmap)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
    bar.ax.tick_params(colors=theme.text, labelsize=8)
    bar.set_label("score", color=theme.text, fontsize=9)
    if not kept.all():
        legend(axes, theme, [("dropped", theme.blocks[0])])


def block_panel(axes: Axes, classes: Tensor, block: int, theme: Theme) -> None:
    """[rows, columns] block classes in three colours, with the count of each."""
    from matplotlib.colors import ListedColormap

    style(axes, theme, f"blocks of {block} × {block}", "key block", "query block")
    axes.imshow(classes.numpy(), cmap=ListedColormap(theme.blocks), vmin=0, vmax=2)
    counts = torch.bincount(classes.flatten().long(), minlength=3).tolist()
    entries = [(f"{n} {name}", c) for name, n, c in zip(CLASSES, counts, theme.blocks)]
    legend(axes, theme, entries)
    rows, columns = classes.shape
    if max(rows, columns) <= 32:
        axes.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
        axes.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
        axes.grid(which="minor", color=theme.background, linewidth=0.8)
        axes.tick_params(which="minor", length=0)


def image_panel(
    axes: Axes, scores: Tensor, query: int, grid: tuple[int, int], theme: Theme
) -> None:
    """What one query sees on the image its tokens lie on, row by row: [Q, KV] of rows × columns."""
    rows, columns = grid
    element_panel(axes, scores[query, : rows * columns].view(rows, columns), theme, "")
    style(axes, theme, f"keys of query {query} on the image", "column", "row")
    row, column = divmod(query, columns)
    axes.plot(column, row, marker="x", color=theme.lines[1], markersize=9, mew=2.5)


def heads_panel(axes: Axes, scores: Tensor, theme: Theme) -> None:
    """The first four heads of [H, Q, KV] beside and below each other, a gap between them."""
    heads, q_len, kv_len = min(4, scores.shape[0]), *scores.shape[1:]
    gap = max(1, max(q_len, kv_len) // 24)
    wide = torch.full((2 * q_len + gap, 2 * kv_len + gap), -math.inf)
    for head in range(heads):
        top, left = (head // 2) * (q_len + gap), (head % 2) * (kv_len + gap)
        wide[top : top + q_len, left : left + kv_len] = scores[head]
    element_panel(axes, wide if heads > 2 else wide[:q_len], theme, f"heads 0 to {heads - 1}")
    axes.set_xticks([])
    axes.set_yticks([])


def distance_panel(axes: Axes, scores: Tensor, theme: Theme) -> None:
    """Bias of the middle query against distance, one line per head: [H, Q, KV]."""
    style(axes, theme, "score added at a distance", "query - key [tokens]", "score")
    query = scores.shape[1] // 2
    distance = query - torch.arange(scores.shape[2])
    for head, row in enumerate(scores[: len(theme.lines), query]):
        kept = row != -math.inf
        axes.plot(distance[kept], row[kept], color=theme.lines[head], label=f"head {head}", lw=1.4)
    axes.grid(color=theme.faint, linewidth=0.4)
    axes.legend(fontsize=8, frameon=False, labelcolor=theme.text)


def response_panel(axes: Axes, before: Tensor, after: Tensor, theme: Theme) -> None:
    """The modified score against the raw one, both [N], for a score_mod of the score alone."""
    style(axes, theme, "what becomes of a score", "score", "modified score")
    axes.plot(before, before, color=theme.faint, lw=1.0, label="unchanged")
    axes.plot(before, after, color=theme.lines[1], lw=2.0, label="modified")
    axes.grid(color=theme.faint, linewidth=0.4)
    axes.legend(fontsize=8, frameon=False, labelcolor=theme.text)


def varies_with_distance(scores: Tensor) -> bool:
    kept = scores[scores != -math.inf]
    return kept.numel() > 0 and float(kept.max()) != float(kept.min())


def recipe_figure(
    scores: Tensor,
    classes: Tensor | None,
    response: tuple[Tensor, Tensor] | None,
    *,
    head: int,
    block: int,
    title: str,
    theme: Theme,
    image: tuple[int, int] | None = None,
) -> Figure:
    """Panels for one recipe.

    Args:
        scores: [H, Q, KV] modified scores.
        classes: [rows, columns] of the head shown, or None without a mask.
        response: Raw and modified scores at one place, [N] each, or None without a score_mod;
            shown where scores do not vary with distance.
        head: The head shown.
        block: Block size of ``classes``.
        title: Over all panels.
        theme: Colours.
        image: Rows and columns of the image the tokens lie on.
    """
    curve = varies_with_distance(scores)
    response = None if curve else response
    differ = not torch.equal(scores, scores[:1].expand_as(scores))
    on_image = image is not None and math.prod(image) <= min(scores.shape[1:])
    panels = 1 + (classes is not None) + curve + (response is not None) + differ + on_image
    figure = new_figure(4.6 * panels, 4.9, theme)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    element_panel(axes.pop(0), scores[head], theme, f"element by element, head {head}")
    if classes is not None:
        block_panel(axes.pop(0), classes, block, theme)
    if curve:
        distance_panel(axes.pop(0), scores, theme)
    if response is not None:
        response_panel(axes.pop(0), *response, theme)
    if differ:
        heads_panel(axes.pop(0), scores, theme)
    if image is not None and on_image:
        middle = image[0] // 2 * image[1] + image[1] // 2
        image_panel(axes.pop(0), scores[head], middle, image, theme)
    figure.suptitle(title, color=theme.text, fontsize=12)
    return figure


def mask_figure(keep: Tensor, title: str, theme: Theme) -> Figure:
    """One mask [Q, KV], cell by cell."""
    figure = new_figure(5.2, 5.6, theme)
    element_panel(figure.subplots(), torch.where(keep, 0.0, -math.inf), theme, title)
    return figure


def loss_figure(losses: Sequence[float], theme: Theme) -> Figure:
    """Loss per step, and its mean over the last twenty steps as a heavier line."""
    figure = new_figure(6.4, 4.0, theme)
    axes = figure.subplots()
    style(axes, theme, "training loss", "step", "cross entropy per byte [nats]")
    means = [sum(losses[max(0, i - 19) : i + 1]) / min(20, i + 1) for i in range(len(losses))]
    axes.plot(losses, color=theme.lines[0], lw=0.7, alpha=0.5, label="step")
    axes.plot(means, color=theme.lines[1], lw=2.0, label="mean of 20 steps")
    axes.grid(color=theme.faint, linewidth=0.4)
    axes.legend(fontsize=8, frameon=False, labelcolor=theme.text)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG by the file's suffix; equal input gives an equal file."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "attention_gym"}):
        figure.savefig(path, dpi=144, metadata=metadata, facecolor=figure.get_facecolor())
