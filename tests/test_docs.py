"""The pages tell the truth: code runs, links lead somewhere, figures are those committed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from attention_gym.picture import picture_scores
from attention_gym.recipe import Recipe
from flexattn.op.options import OPTIONS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\":]+)\"")
# Pages whose examples build on one another have tests of their own.
ELSEWHERE = {"blockmask.md"}


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        if page.name not in ELSEWHERE:
            for number, match in enumerate(CODE.finditer(page.read_text())):
                name = f"{page.relative_to(ROOT)}-{number}"
                found.append(pytest.param(match[1], match[2], id=name))
    return found


@pytest.mark.cpu
@pytest.mark.parametrize(("code", "printed"), blocks())
def test_code_runs(code: str, printed: str | None) -> None:
    scope: dict[str, Any] = {"__name__": "page"}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "page", "exec"), scope)
        for name, function in list(scope.items()):
            if name.startswith("test_"):
                function()
    if "print(" in code:
        assert printed is not None and output.getvalue() == printed
    recipe = scope.get("RECIPE")
    if isinstance(recipe, Recipe):
        for picture in recipe.pictures:
            assert picture_scores(recipe, picture).equal(picture.scores())


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for match in LINK.finditer(page.read_text()):
            target = match[1] or match[2]
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_readme_shows_the_committed_figures() -> None:
    filled = runpy.run_path(str(ROOT / "docs" / "fill_figures.py"))["filled"]
    readme = (ROOT / "README.md").read_text()
    assert filled(readme, ROOT / "docs" / "benchmarks") == readme, "run docs/fill_figures.py"


def test_a_figure_table(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "fill_figures.py"))
    machine = {"cpu": "C", "threads": 2, "torch": "2.13.0", "date": "2026-01-02"}
    full = {"dtype": "float32", "D": 64, "H": 8, "mask": "full"}
    rows = [
        full | {"S": 1024, "ours_gflops": 100.0, "over_sdpa": None, "over_torch_flex": 2.0},
        full | {"S": 2048, "ours_gflops": 400.0, "over_sdpa": 1.234, "over_torch_flex": 8.0},
        full
        | {"D": 128, "S": 1024, "ours_gflops": 9.87, "over_sdpa": None, "over_torch_flex": 1.0},
    ]
    for name, table in (("cpu-forward", rows), ("latency", [{"call": "plain", "us": 3.21}])):
        suite = {"suite": name, "machine": machine, "rows": table}
        (tmp_path / f"{name}.json").write_text(json.dumps(suite))
    text = script["filled"]("a\n<!-- figures -->\nold\n<!-- end of figures -->\nb", tmp_path)
    assert "old" not in text and "C, 2 threads, torch 2.13.0, 2026-01-02" in text
    assert "| float32 | 64 | full | 200 | 1.23× | 4.00× |" in text
    assert "| float32 | 128 | full | 9.9 | too noisy | 1.00× |" in text
    assert "| plain | 3.2 |" in text
    assert text.startswith("a\n") and text.endswith("\nb")
    page = script["page"](tmp_path)
    assert "| float32 | 64 | 8 | full | 1024 | 100 | too noisy | 2.00× |" in page


def test_every_module_says_what_it_does() -> None:
    for package in ("flexattn", "codegen_templates", "attention_gym"):
        for path in sorted((ROOT / package).rglob("*.py")):
            first = path.read_text().lstrip().splitlines()[0] if path.stat().st_size else ""
            assert first.startswith('"""') and len(first) > 20, f"{path.relative_to(ROOT)}"


def test_the_page_on_kernel_options_names_all_of_them() -> None:
    page = (ROOT / "docs" / "kernel_options.md").read_text()
    named = set(re.findall(r"`(\w+)`", page.split("| key |")[1].split("\n\n")[0]))
    assert set(OPTIONS) <= named
