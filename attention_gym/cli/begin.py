"""The command that starts a recipe: ``new``."""

from __future__ import annotations

import argparse
import json
import keyword
import string
from pathlib import Path
from typing import Any

from attention_gym import recipes
from attention_gym.cli.options import new_command
from attention_gym.cli.report import console
from attention_gym.errors import GymInputError
from attention_gym.recipe import Recipe

EXAMPLES = "new two_sided_window\nnew distance_penalty --kind score"
TEMPLATES = Path(__file__).parents[1] / "templates"
KINDS = ("mask", "score")


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(commands, "new", "write a recipe file to start from", new, EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="file name of the recipe, as in snake_case")
    parser.add_argument("--kind", choices=KINDS, default="mask", help="mask if not given")
    parser.add_argument(
        "--folder", type=Path, default=Path(recipes.__path__[0]), help="the gallery's if not given"
    )


def new(options: argparse.Namespace) -> int:
    name: str = options.name
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise GymInputError(
            f"'{name}' is no name for a recipe.",
            why="it becomes the name of a Python file and of a function.",
            fix="use lower-case letters, digits and underscores, such as two_sided_window.",
        )
    path = options.folder / f"{name}.py"
    if path.exists():
        raise GymInputError(f"'{path}' exists already.", fix="choose another name.")
    template = (TEMPLATES / f"{options.kind}.txt").read_text()
    try:
        path.write_text(string.Template(template).substitute(name=name))
    except OSError as error:
        raise GymInputError(
            f"cannot write '{path}'.", why=f"{error.strerror}.", fix="name another --folder."
        ) from error
    if options.json:
        print(json.dumps({"file": str(path), "kind": options.kind}))
        return 0
    steps = (f"show {name}", f"verify {name}", f"plot {name}")
    console().print(f"wrote {path}. It works as it stands; change it, then:", markup=False)
    for step in steps:
        console().print(f"  python -m attention_gym {step}", markup=False)
    console().print(f"  python -m pytest tests/gym -k {name}", markup=False)
    return 0
