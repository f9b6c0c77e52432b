"""The commands that describe recipes: ``list`` and ``show``."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.text import Text

from attention_gym.absent import ABSENT, WANTED
from attention_gym.blocks import recipe_mask
from attention_gym.cli.options import add_recipe, given, new_command
from attention_gym.cli.report import console, emit
from attention_gym.code import code
from attention_gym.errors import GymInputError
from attention_gym.gallery import load_all
from attention_gym.picture import draw, recipe_scores
from attention_gym.recipe import FAMILIES, Recipe

LIST_EXAMPLES = 'list\nlist --family "score rescaling"\nlist --model gemma --json'
SHOW_EXAMPLES = "show sliding_window --window 4\nshow alibi --head 3 --size 8"


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(commands, "list", "list the recipes", list_recipes, LIST_EXAMPLES)
    parser.add_argument("--family", choices=FAMILIES, metavar="FAMILY", help="; ".join(FAMILIES))
    parser.add_argument("--model", help="only recipes of models whose name holds this")
    needs = "; ".join(f"{key}: {meaning}" for key, meaning in WANTED.items())
    parser.add_argument("--needs", choices=WANTED, metavar="NEED", help=needs)
    parser.add_argument(
        "--absent", action="store_true", help="list known variants without a recipe, and why"
    )
    parser = new_command(
        commands,
        "show",
        "print formula, picture, sources and code of a recipe",
        show,
        SHOW_EXAMPLES,
    )
    add_recipe(parser, recipe, small=True)
    parser.add_argument(
        "--size", type=int, help="queries and keys drawn; a size that fits if not given"
    )
    parser.add_argument("--head", type=int, default=0, help="head drawn, 0 if not given")


def describe(recipe: Recipe) -> dict[str, Any]:
    """Everything a program may want to know of a recipe."""
    return {
        "name": recipe.name,
        "kind": recipe.kind,
        "family": recipe.family,
        "summary": recipe.summary,
        "formula": recipe.formula,
        "models": [source.model for source in recipe.sources],
        "papers": [source.paper for source in recipe.sources],
        "parameters": {
            name: {
                "type": parameter.annotation.__name__,
                "default": parameter.default,
                "meaning": recipe.parameters[name],
            }
            for name, parameter in recipe.options().items()
        },
        "captures": dict(recipe.captured),
        "learned": sorted(recipe.learned),
        "needs": sorted(recipe.needs),
        "equivalents": list(recipe.equivalents),
    }


def list_recipes(options: argparse.Namespace) -> int:
    if options.absent:
        return list_absent(options)
    rows = []
    chosen = [recipe for recipe in load_all() if matches(recipe, options)]
    err = Console(stderr=True)
    if not chosen:
        print(f"no recipe fits.{near_models(options.model or '')}", file=sys.stderr)
        if options.json:
            emit([], as_json=True)
        return 0
    for recipe in track(chosen, "list", console=err, transient=True, disable=not err.is_terminal):
        mask = recipe_mask(recipe, recipe.sizes, {})
        rows.append(
            describe(recipe) | {"block_sparsity": None if mask is None else mask.sparsity()}
        )
    emit(
        rows if options.json else [row | shares(row["block_sparsity"]) for row in rows],
        as_json=options.json,
        columns="name kind block_sparsity formula models",
    )
    return 0


def near_models(wanted: str) -> str:
    """Names of models that are spelled nearly so."""
    words = {word for r in load_all() for s in r.sources for word in re.findall(r"[\w-]+", s.model)}
    lower = {word.lower(): word for word in sorted(words)}
    near = difflib.get_close_matches(wanted.lower(), lower, 3)
    return f" Models with a like name: {', '.join(lower[word] for word in near)}." if near else ""


def matches(recipe: Recipe, options: argparse.Namespace) -> bool:
    return (
        options.family in (None, recipe.family)
        and (options.needs is None or options.needs in recipe.needs)
        and any((options.model or "").lower() in s.model.lower() for s in recipe.sources)
    )


def shares(sparsity: float | None) -> dict[str, Any]:
    """The part of blocks of 128 × 128 that is skipped, for people."""
    return {"block_sparsity": None if sparsity is None else f"{sparsity:.0f}%"}


def list_absent(options: argparse.Namespace) -> int:
    """Variants that need more than a recipe has."""
    rows = [
        asdict(row)
        | {"status": "cannot be" if row.impossible else "not yet"}
        | {"needs": {key: WANTED[key] for key in row.needs}}
        for row in ABSENT
        if (options.model or "").lower() in row.model.lower()
        and (options.needs is None or options.needs in row.needs)
    ]
    shown = [row | {"needs": "; ".join(row["needs"].values())} for row in rows]
    emit(rows if options.json else shown, as_json=options.json, columns="name status needs model")
    return 0


def coloured(drawing: str) -> Text:
    """Kept cells stand out, dropped ones recede; readable without colour too."""
    text = Text(drawing)
    text.highlight_regex(r"#", "bold blue")
    text.highlight_regex(r"-?\d[\d.e+-]*", "blue")
    text.highlight_regex(r"(?<![\d.])\.(?!\d)", "bright_black")
    return text


def show(options: argparse.Namespace) -> int:
    recipe: Recipe = options.recipe
    size, head = options.size, options.head
    if not ((size is None or 1 <= size <= 64) and 0 <= head < 1024):
        raise GymInputError("--size is 1 to 64 and --head is 0 or more.")
    drawn = recipe.drawn(q_len=size or 0, default=12)
    drawn = replace(drawn, heads=max(head + 1, drawn.heads), kv_heads=0)
    scores = recipe_scores(recipe, drawn, given(options))[0, head]
    if options.json:
        print(
            json.dumps(describe(recipe) | {"picture": draw(scores), "code": code(recipe)}, indent=2)
        )
        return 0
    out = console()
    out.print(f"[bold]{recipe.name}[/]  {escape(recipe.summary)}\n")
    out.print(f"  {escape(recipe.formula)}\n\n  {recipe.kind}; {recipe.family}\n")
    legend = "rows are queries, columns keys; # keeps the score, . drops it"
    if recipe.score is not None:
        legend += ", a number is what a score of 0 becomes"
    out.print(f"[bold]picture[/] of head {head} ({legend})\n")
    out.print(coloured("\n".join("  " + line for line in draw(scores).splitlines())))
    paragraphs = {
        "models": [f"{s.model}: {s.paper}" for s in recipe.sources],
        "parameters": [
            f"--{name.replace('_', '-')} ({p.default}): {recipe.parameters[name]}"
            for name, p in recipe.options().items()
        ],
        "captured tensors": [
            f"{name} {meaning}" + (" (learned)" if name in recipe.learned else "")
            for name, meaning in recipe.captured.items()
        ],
        "elsewhere": list(recipe.equivalents),
    }
    for heading, lines in paragraphs.items():
        if lines:
            out.print(f"\n[bold]{heading}[/]")
            for line in lines:
                out.print(f"  {escape(line)}")
    out.print("\n[bold]code[/]\n")
    out.print(Text("\n".join(f"  {line}".rstrip() for line in code(recipe).splitlines())))
    return 0
