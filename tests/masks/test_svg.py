"""The SVG picture, read back cell by cell."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from drawn_masks import listed, make, several
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.errors import BlockMaskError
from flexattn.masks import BlockMask
from flexattn.masks.listing import runs_of_classes
from flexattn.masks.picture import coarsen, draw
from flexattn.masks.svg import DARK, HEAD, LIGHT, NAMES
from flexattn.masks.tables import EMPTY, FULL, PARTIAL, to_classes

SPACE = "{http://www.w3.org/2000/svg}"
CODES = {f"flexattn-{name}": code for code, name in NAMES.items()}


def pictures(text: str, cell: int) -> dict[str, torch.Tensor]:
    """Title to classes of each picture, from its rectangles."""
    found = {}
    for group in ElementTree.fromstring(text).findall(f"{SPACE}g")[:-1]:  # the last is the legend
        ground, *others = group.findall(f"{SPACE}rect")
        shape = [int(ground.get(side, "")) // cell for side in ("height", "width")]
        classes = torch.zeros(shape, dtype=torch.uint8)
        for rectangle in others:
            x, y = int(rectangle.get("x", "")), int(rectangle.get("y", "")) - HEAD
            width, height = (int(rectangle.get(side, "")) for side in ("width", "height"))
            code = CODES[rectangle.get("class", "")]
            classes[y // cell : (y + height) // cell, x // cell : (x + width) // cell] = code
        (title,) = group.findall(f"{SPACE}text")
        found[title.text or ""] = classes
    return found


@settings(max_examples=60, deadline=None)
@given(several(1), st.integers(1, 9))
def test_each_cell_has_the_colour_of_its_block(drawn, cell: int) -> None:  # type: ignore[no-untyped-def]
    _, (mask,) = drawn
    found = pictures(mask.to_svg(cell=cell, limit=6), cell)
    classes = to_classes(mask._partial, mask._full, mask._cols)
    batch, heads = mask.shape[:2]
    assert list(found) == [f"({b}, {h})" for b in range(batch) for h in range(heads)]
    for title, drawn_classes in found.items():
        b, h = map(int, title.strip("()").split(","))
        assert torch.equal(drawn_classes, classes[b, h])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([EMPTY, PARTIAL, FULL]), min_size=7, max_size=7),
        min_size=1,
        max_size=7,
    ),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_blocks_that_share_a_cell(rows, grid) -> None:  # type: ignore[no-untyped-def]
    classes = torch.tensor(rows, dtype=torch.uint8)
    (small,) = coarsen(runs_of_classes(classes[None, None]), grid, [0]).values()
    down, across = (-(-size // most) for size, most in zip(classes.shape, grid))
    for i, j in torch.cartesian_prod(*map(torch.arange, small.shape)).reshape(-1, 2).tolist():
        kinds = set(
            classes[i * down : (i + 1) * down, j * across : (j + 1) * across].flatten().tolist()
        )
        assert small[i, j] == (kinds.pop() if len(kinds) == 1 else PARTIAL)
    assert all(size <= most for size, most in zip(small.shape, grid))
    assert len(draw(small).splitlines()) == small.shape[0]


def test_large_masks_stay_small_pictures() -> None:
    mask = listed(torch.ones(200, 300).int().tolist(), block=1)
    (picture,) = pictures(mask.to_svg(), 6).values()
    assert picture.shape == (40, 43)
    assert len(mask.to_svg()) < 10_000
    (small,) = pictures(mask.to_svg(grid_size=(2, 3), cell=1), 1).values()
    assert small.tolist() == [[PARTIAL] * 3] * 2
    with pytest.raises(BlockMaskError):
        mask.to_svg(grid_size=0)


def test_colours_and_words() -> None:
    """Okabe and Ito's blue and orange, of different lightness, in light and in dark."""
    text = make().to_svg()
    assert "prefers-color-scheme:dark" in text and 'role="img"' in text
    for colours in (LIGHT, DARK):
        assert all(colour in text for colour in colours.values())
        lightness = sorted(brightness(colour) for colour in colours.values())
        assert min(b - a for a, b in pairwise(lightness)) > 0.07
    legend = ElementTree.fromstring(text).findall(f"{SPACE}g")[-1]
    assert [word.text for word in legend.findall(f"{SPACE}text")] == ["full", "partial", "empty"]


def brightness(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_notebooks() -> None:
    mask = make()
    text = mask._repr_html_()
    assert f"{mask.sparsity():.2f}%" in text and str(mask.shape) in text
    assert mask.to_svg() in text
    assert len(pictures(mask.to_svg(limit=2), 6)) == 2
    assert "mask_mod=" in mask.to("meta")._repr_html_()  # no values to draw
    nothing = make((0, 24))
    assert "<svg" in nothing._repr_html_() and isinstance(nothing, BlockMask)
