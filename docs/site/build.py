"""Build the site: `make docs`, or `python docs/site/build.py --only causal alibi --out folder`.

Pages are made from recipes, tables and Markdown into ``<out>/../site-src`` and built by Sphinx,
warnings as errors. Nothing is loaded from a network, then or when the pages are read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grid
import pages
import pictures
import references
import stages
import torch
from rich.progress import track

from attention_gym.absent import ABSENT
from attention_gym.gallery import load, names
from attention_gym.playground import script, style

HERE = Path(__file__).parent
DOCS = HERE.parent
ROOT = DOCS.parent
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)]*)?\)")


def one(name: str, source: Path, measured: dict[str, Any]) -> None:
    """Pictures and page of one recipe."""
    torch.set_num_threads(1)
    recipe = load(name)
    pictures.draw(recipe, source / "extra" / "pictures")
    rows = [row for row in measured["rows"] if row["recipe"] == name]
    text = pages.recipe_page(recipe, rows, measured["machine"])
    (source / "gallery" / f"{name}.md").write_text(text)


def measured() -> dict[str, Any]:
    """Rows of `attention_gym bench --all`, and the machine they were measured on."""
    path = DOCS / "benchmarks" / "gallery" / "recipes.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "machine": {}}


def copy_markdown(source: Path) -> None:
    """The pages of docs/; links to files that are no pages become their names."""
    for path in DOCS.rglob("*.md"):
        if HERE in path.parents:
            continue
        target = source / path.relative_to(DOCS)

        def relinked(match: re.Match[str], path: Path = path) -> str:
            linked = (path.parent / match[1]).resolve()
            inside = linked.suffix == ".md" and DOCS in linked.parents and linked.is_file()
            return match[0] if inside else "]"

        text = path.read_text()
        text = re.sub(r"\[([^\]]+)" + LINK.pattern, lambda m: kept(m, relinked), text)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def kept(match: re.Match[str], relinked) -> str:  # type: ignore[no-untyped-def]
    """A whole link ``[text](target)``, or its text alone."""
    link = LINK.search(match[0])
    assert link is not None
    return match[0] if relinked(link) != "]" else match[1]


def prepare(source: Path, chosen: Sequence[str]) -> None:
    """All pages and pictures, in ``source``."""
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("gallery", "reference", "static", "extra/pictures"):
        (source / folder).mkdir(parents=True, exist_ok=True)
    copy_markdown(source)
    shutil.copy(HERE / "conf.py", source)
    shutil.copy(HERE / "front.txt", source / "index.md")
    shutil.copytree(HERE / "static", source / "static", dirs_exist_ok=True)
    (source / "static" / "playground.js").write_text(script())
    (source / "static" / "playground.css").write_text(style())
    made = {
        "gallery/index": grid.gallery_page([load(name) for name in chosen], ABSENT),
        "reference/errors": references.errors_page(),
        "reference/operations": references.ops_page(),
        "reference/settings": references.knobs_page(),
        "reference/api": references.api_page(),
        "stages": stages.stages_page(),
        **{f"gallery/{row.name}": pages.absent_page(row) for row in ABSENT},
    }
    for name, text in made.items():
        (source / f"{name}.md").write_text(text)
    work = partial(one, source=source, measured=measured())
    with ProcessPoolExecutor(2) as pool:
        list(track(pool.map(work, chosen), "recipes", total=len(chosen)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="pages of these recipes alone")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "site")
    options = parser.parse_args(arguments)
    from sphinx.cmd.build import build_main

    chosen = sorted(options.only) if options.only else list(names())
    options.out = options.out.resolve()
    os.chdir(ROOT)  # files are then named from here in what is printed of a graph
    source = options.out.with_name(options.out.name + "-src")
    prepare(source, chosen)
    shutil.rmtree(options.out, ignore_errors=True)
    doctrees = str(source / ".doctrees")
    sphinx = ["-W", "--keep-going", "-q", "-j", "2", "-b", "html", "-d", doctrees]
    status = build_main([*sphinx, str(source), str(options.out)])
    shutil.rmtree(options.out / "_sources", ignore_errors=True)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out / 'index.html'}: {len(chosen)} recipes, {size / 1e6:.1f} MB")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
