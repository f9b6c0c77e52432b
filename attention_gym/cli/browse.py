"""The commands that describe recipes: ``list`` and ``show``."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from rich.markup import escape
from rich.text import Text

from attention_gym.cli.options import add_recipe, given, new_command
from attention_gym.cli.report import console, emit
from attention_gym.errors import GymInputError
from attention_gym.gallery import load_all
from attention_gym.picture import draw, recipe_scores
from attention_gym.recipe import FAMILIES, NEEDS, Recipe, Sizes

LIST_EXAMPLES = 'list\nlist --family "score rescaling"\nlist --model gemma --json'
SHOW_EXAMPLES = "show sliding_window --window 4\nshow alibi --head 3 --size 8"


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(commands, "list", "list the recipes", list_recipes, LIST_EXAMPLES)
    parser.add_argument("--family", choices=FAMILIES, metavar="FAMILY", help="; ".join(FAMILIES))
    parser.add_argument("--model", help="only recipes of models whose name holds this")
    needs = "; ".join(f"{key}: {meaning}" for key, meaning in NEEDS.items())
    parser.add_argument("--needs", choices=NEEDS, help=needs)
    parser = new_command(
        commands,
        "show",
        "print formula, picture, sources and code of a recipe",
        show,
        SHOW_EXAMPLES,
    )
    add_recipe(parser, recipe)
    parser.add_argument(
        "--size", type=int, default=12, help="queries and keys drawn, 12 if not given"
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
    rows = [
        describe(recipe)
        for recipe in load_all()
        if options.family in (None, recipe.family)
        and (options.needs is None or options.needs in recipe.needs)
        and any((options.model or "").lower() in s.model.lower() for s in recipe.sources)
    ]
    emit(rows, as_json=options.json, columns="name kind formula models")
    return 0


def coloured(drawing: str) -> Text:
    """Kept cells stand out, dropped ones recede; readable without colour too."""
    text = Text(drawing)
    text.highlight_regex(r"#", "bold blue")
    text.highlight_regex(r"-?\d[\d.e+-]*", "blue")
    text.highlight_regex(r"(?<![\d.])\.(?!\d)", "bright_black")
    return text


def call(recipe: Recipe) -> str:
    """The call of flex_attention, parameters with their defaults and captures by name."""
    defaults = {name: repr(p.default) for name, p in recipe.options().items()}
    arguments = ["query", "key", "value"]
    for keyword, factory in (("score_mod", recipe.score), ("mask_mod", recipe.mask)):
        if factory is not None:
            names = inspect.signature(factory).parameters
            inner = ", ".join(f"{name}={defaults.get(name, name)}" for name in names)
            arguments.append(f"{keyword}={factory.__name__}({inner})")
    if recipe.scale is not None:
        arguments.append(f"scale={recipe.scale}")
    return f"out = flex_attention({', '.join(arguments)})"


def code(recipe: Recipe) -> str:
    """The recipe as a script that needs query, key, value and the captured tensors."""
    sources = [inspect.getsource(f).rstrip() for f in (recipe.score, recipe.mask) if f is not None]
    body = "\n\n\n".join([*sources, call(recipe)])
    torch = "import torch\n\n" if "torch." in body else ""
    # Annotations are left unevaluated, so the types they name need no import.
    head = f"from __future__ import annotations\n\n{torch}from flexattn import flex_attention"
    return f"{head}\n\n\n{body}"


def show(options: argparse.Namespace) -> int:
    recipe: Recipe = options.recipe
    size, head = options.size, options.head
    if not (1 <= size <= 64 and 0 <= head < 1024):
        raise GymInputError("--size is 1 to 64 and --head is 0 or more.")
    heads = max(head + 1, recipe.sizes.heads)
    scores = recipe_scores(recipe, Sizes(heads=heads, q_len=size), given(options))[0, head]
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
