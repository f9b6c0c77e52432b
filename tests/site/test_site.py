"""The site as built: pages, filters, links, widths, contrast. FLEXATTN_SITE names a whole one."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser

import flexattn
from attention_gym.absent import ABSENT
from attention_gym.gallery import load, names
from flexattn import errors
from flexattn.ir.ops import OPS
from flexattn.knobs import KNOBS

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "docs" / "site" / "build.py"
FEW = ("alibi", "causal_window_document", "sasa")
MOST = 300  # seconds, what the whole may take on two cores
sys.path.insert(0, str(BUILD.parent))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with few recipes, unless a whole one is named."""
    if whole := os.environ.get("FLEXATTN_SITE"):
        return Path(whole).resolve()
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(BUILD), "--only", *FEW, "--out", str(out)]
    # From another folder: pages must not tell where they were built.
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def recipes(site: Path) -> list[str]:
    whole = "FLEXATTN_SITE" in os.environ
    return list(names()) if whole else list(FEW)


def test_every_variant_has_its_page_and_pictures(site: Path) -> None:
    for name in recipes(site):
        page = (site / "gallery" / f"{name}.html").read_text()
        assert "Playground" not in page and "flex-playground" in page
        assert "traced graph" in page and "Triton kernels" in page and "C++ kernel" in page
        for source in load(name).sources:
            assert source.paper.split()[0].split("(")[0] in page
        for theme in ("light", "dark"):
            assert (site / "pictures" / f"{name}-{theme}.png").stat().st_size > 1000
    for row in ABSENT:
        text = (site / "gallery" / f"{row.name}.html").read_text()
        assert ("cannot be a recipe" if row.impossible else "not yet a recipe") in text


def test_links_and_pictures_lead_to_files(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = re.sub(r"<script.*?</script>|<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r'(?:href|src)="([^"#?]+)[^"]*"', text):
            if re.match(r"[a-z]+:", target):
                continue  # away, or data
            assert (page.parent / target).exists(), f"{page.relative_to(site)}: {target}"


def test_links_into_pages_lead_to_a_place_there(site: Path) -> None:
    places: dict[Path, set[str]] = {}
    for page in site.rglob("*.html"):
        text = re.sub(r"<script.*?</script>|<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
        for target, place in re.findall(r'href="([^"#?:]*)#([^"]+)"', text):
            there = (page.parent / target).resolve() if target else page
            if there not in places:
                places[there] = set(re.findall(r'\bid="([^"]+)"', there.read_text()))
            assert place in places[there], f"{page.relative_to(site)}: {target}#{place}"


def test_pages_do_not_tell_where_they_were_built(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert str(ROOT) not in page.read_text(), page.relative_to(site)


def test_references_hold_every_row_of_their_tables(site: Path) -> None:
    tables = {
        "errors": errors.__all__,
        "operations": OPS,
        "settings": KNOBS,
        "api": set(flexattn.__all__) - {"errors", "__version__"},
    }
    for page, rows in tables.items():
        text = html.unescape((site / "reference" / f"{page}.html").read_text())
        words = set(re.findall(r"[\w.]+", re.sub(r"<[^>]+>", " ", text)))
        assert set(rows) <= words, f"{page}: {set(rows) - words}"


def test_one_mask_is_followed_to_its_result(site: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "stages.html").read_text()))
    stages = ["Python", "graph", "passes", "closed form", "blocks", "kernel", "result"]
    begins = [text.index(f"\n{stage}¶") for stage in stages]
    assert begins == sorted(begins)
    assert "static inline VM mask_mod(" in text[begins[-2] : begins[-1]]
    assert float(re.findall(r"from float64\s+(\S+)", text[begins[-1] :])[0]) < 1e-5


def test_nothing_comes_from_a_network(site: Path) -> None:
    """Links may lead away; scripts, styles, pictures and fonts may not."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loads = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="([^"]+)"', text
        )
        assert not [target for target in loads if "//" in target]


def test_a_whole_site_is_small(site: Path) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    share = len(recipes(site)) / len(names())
    assert size < (60e6 if share == 1 else 12e6)


def test_pages_open_without_errors(site: Path, browser: Browser) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        browser.open(page)
        said = [line for line in browser.errors() if "favicon" not in line]
        assert not said, f"{page.relative_to(site)}: {said}"


def shown(browser: Browser) -> list[str]:
    cards = "[...document.querySelectorAll('.card:not([hidden]) b')].map((b) => b.textContent)"
    return list(browser.evaluate(cards))


def choose(browser: Browser, **values: str) -> None:
    for name, value in values.items():
        browser.evaluate(
            "((input) => { input.value = arguments[1]; input.dispatchEvent(new Event('input', "
            "{bubbles: true})); })(document.querySelector(`.filters [name=${arguments[0]}]`))",
            name,
            value,
        )


def test_the_filters(site: Path, browser: Browser) -> None:
    browser.open(site / "gallery" / "index.html")
    known = recipes(site)
    assert len(shown(browser)) == len(known) + len(ABSENT)
    choose(browser, status="a recipe")
    assert sorted(shown(browser)) == sorted(known)
    choose(browser, family="positional bias")
    assert sorted(shown(browser)) == [n for n in known if load(n).family == "positional bias"]
    choose(browser, family="", status="", words="bloom")
    assert shown(browser) == ["alibi"]
    choose(browser, words="", needs="xh")
    assert shown(browser) == ["talking_heads"]
    told = browser.evaluate("[location.hash, document.querySelector('.count').textContent]")
    assert told == ["#needs=xh", f"1 of {len(known) + len(ABSENT)}"]
    browser.open(site / "index.html")
    browser.open(site / "gallery" / "index.html", "#words=bloom")
    assert shown(browser) == ["alibi"]
    browser.open(site / "gallery" / "index.html", "#needs=xh")  # the page is open already
    assert shown(browser) == ["talking_heads"]
    assert browser.evaluate("document.querySelector('.filters [name=words]').value") == ""
    assert not browser.errors()


PLACES = (
    "index.html", "gallery/index.html", "gallery/alibi.html", "gallery/talking_heads.html",
    "howto/add_a_recipe.html", "reference/operations.html", "stages.html",
    "benchmarks/README.html",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_phone_is_wide_enough(place: str, site: Path, browser: Browser) -> None:
    browser.resize(360, 740)
    browser.open(site / place)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    browser.resize(1200, 900)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_it_is_accessible(place: str, theme: str, site: Path, browser: Browser) -> None:
    browser.open(site / place)
    browser.evaluate("document.body.dataset.theme = arguments[0]", theme)
    browser.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    for width in (360, 1200):
        browser.resize(width, 900)
        assert not browser.violations(), width


def test_speed_is_told_or_said_to_be_unknown() -> None:
    import pages

    assert pages.speed([], {}) == "Not measured yet."
    row = {
        "dtype": "float32", "direction": "forward", "q_len": 8, "kv_len": 9, "ours_ms": 1.0,
        "sdpa_ms": 2.5, "over_sdpa": 2.5, "torch_flex_ms": None, "over_torch_flex": None,
        "why": {"torch_flex": "it has no backward"},
    }  # fmt: skip
    machine = {"cpu": "some CPU", "date": "2026-01-02"}
    line, _, where = pages.speed([row], machine).splitlines()[-3:]
    assert "2.5 ms (2.50×)" in line and "it has no backward" in line
    assert "some CPU, 2026-01-02" in where.replace("\\", "")
