"""Drawings in the terminal and in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attention_gym.picture import draw_curve, draw_density
from attention_gym.plot import THEMES, loss_figure, mask_figure, save

pytestmark = pytest.mark.null
PNG = b"\x89PNG\r\n\x1a\n"


def test_density_of_a_causal_mask() -> None:
    drawing = draw_density(torch.ones(8, 8).tril().bool(), side=4)
    assert drawing.splitlines() == ["▓▓      ", "██▓▓    ", "████▓▓  ", "██████▓▓"]


def test_density_shows_a_lone_cell() -> None:
    keep = torch.zeros(640, 640, dtype=torch.bool)
    keep[0, 639] = True
    assert draw_density(keep, side=32).splitlines()[0].endswith("░░")


def test_a_falling_curve_falls() -> None:
    lines = draw_curve([5.0, 4.0, 3.0, 2.0], height=4).splitlines()
    assert lines[0].split()[0] == "5.000" and lines[-1].split()[0] == "2.000"
    heights = [sum(line[9 + i : 10 + i].strip() != "" for line in lines) for i in range(4)]
    assert heights == [4, 3, 2, 1]


def test_curves_of_nothing_and_of_one() -> None:
    assert draw_curve([]) == ""
    assert "2.000" in draw_curve([2.0])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("theme", sorted(THEMES))
def test_files_repeat_byte_by_byte(tmp_path: Path, suffix: str, theme: str) -> None:
    contents = []
    for number in range(2):
        path = tmp_path / "deep" / f"{number}{suffix}"
        save(loss_figure([3.0, 2.0, 1.5], THEMES[theme]), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(PNG if suffix == ".png" else b"<?xml")
    assert (THEMES[theme].background in contents[0].decode(errors="ignore")) == (suffix == ".svg")


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", sorted(THEMES))
def test_colours_can_be_told_apart(name: str) -> None:
    theme = THEMES[name]
    assert contrast(theme.text, theme.background) >= 7
    empty, partial, full = theme.blocks
    # By lightness alone, which no colour blindness takes away.
    assert contrast(empty, full) >= 3
    assert contrast(empty, partial) >= 1.8
    assert contrast(partial, full) >= 1.5


def test_an_empty_mask_has_a_picture(tmp_path: Path) -> None:
    figure = mask_figure(torch.zeros(4, 4, dtype=torch.bool), "nothing", THEMES["light"])
    save(figure, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(PNG)
