"""A block mask drawn as SVG, for notebooks and pages.

Blue and orange of Okabe and Ito's palette, which people with every kind of colour vision tell
apart (https://jfly.uni-koeln.de/color/); they differ in lightness too, so print keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from flexattn.analysis.runs import EMPTY, FULL, PARTIAL, Array

NAMES = {FULL: "full", PARTIAL: "partial", EMPTY: "empty"}
LIGHT = {FULL: "#0072b2", PARTIAL: "#e69f00", EMPTY: "#f2f2f2"}
DARK = {FULL: "#56b4e9", PARTIAL: "#b37700", EMPTY: "#2b2b2b"}
TEXT = {"light": "#1a1a1a", "dark": "#f0f0f0"}

HEAD, GAP, LINE = 18, 16, 14
"""Pixels: of the title over a picture, between pictures, and of the legend."""


def style() -> str:
    """The colours, which follow the reader's choice of light or dark."""

    def rules(colours: dict[int, str], text: str) -> str:
        shapes = "".join(f".flexattn-{NAMES[k]}{{fill:{c}}}" for k, c in colours.items())
        return f"{shapes}.flexattn-text{{fill:{text};font:12px sans-serif}}"

    dark = rules(DARK, TEXT["dark"])
    return (
        f"<style>{rules(LIGHT, TEXT['light'])}@media (prefers-color-scheme:dark){{{dark}}}</style>"
    )


def draw_svg(heads: list[tuple[str, Array]], cell: int, label: str) -> str:
    """``heads`` (title, cells uint8 [rows, cols]) side by side, with a legend below.

    Args:
        heads: What to draw.
        cell: Pixels of a cell's side.
        label: What a screen reader says.
    """
    pictures, left, height = [], 0, 0
    for title, small in heads:
        rows, cols = small.shape
        shapes = "".join(_rectangles(small, cell))
        text = f'<text class="flexattn-text" y="12">{title}</text>'
        pictures.append(f'<g transform="translate({left},0)">{text}{shapes}</g>')
        left += max(cols * cell, 48) + GAP
        height = max(height, HEAD + rows * cell)
    width = max(left - GAP, 190)
    legend = f'<g transform="translate(0,{height + 8})">{_legend()}</g>'
    total = height + 8 + LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'width="{width}" height="{total}" viewBox="0 0 {width} {total}">'
        f"<title>{label}</title>{style()}{''.join(pictures)}{legend}</svg>"
    )


def _rectangles(small: Array, cell: int) -> Iterator[str]:
    """One rectangle for each run of equal cells in a row, on an empty ground."""
    rows, cols = small.shape
    yield (
        f'<rect class="flexattn-empty" y="{HEAD}" width="{cols * cell}" height="{rows * cell}"/>'
    )
    for row, values in enumerate(small.tolist()):
        at = 0
        for kind, group in groupby(values):
            length = len(list(group))
            if kind != EMPTY:
                yield (
                    f'<rect class="flexattn-{NAMES[kind]}" x="{at * cell}" '
                    f'y="{HEAD + row * cell}" width="{length * cell}" height="{cell}"/>'
                )
            at += length


def _legend() -> str:
    """A square and a word for each colour."""
    parts, left = [], 0
    for name in NAMES.values():
        parts.append(
            f'<rect class="flexattn-{name}" x="{left}" y="2" width="10" height="10"/>'
            f'<text class="flexattn-text" x="{left + 14}" y="11">{name}</text>'
        )
        left += 24 + 7 * len(name)
    return "".join(parts)
