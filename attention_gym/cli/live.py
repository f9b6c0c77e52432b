"""The command that writes a live page: ``playground``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from attention_gym.cli.options import new_command
from attention_gym.cli.report import console
from attention_gym.errors import GymInputError
from attention_gym.gallery import load
from attention_gym.playground import page
from attention_gym.recipe import Recipe

EXAMPLES = "playground sliding_window\nplayground alibi --out alibi.html"


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    text = "write a page that draws a recipe live, in any browser, without a server"
    parser = new_command(commands, "playground", text, playground, EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="file name of a recipe")
    parser.add_argument("--out", type=Path, help="HTML file, out/NAME.html if not given")


def playground(options: argparse.Namespace) -> int:
    name = load(options.name).name
    path: Path = options.out or Path("out") / f"{name}.html"
    text = page(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise GymInputError(
            f"cannot write '{path}'.", why=f"{error.strerror}.", fix="name another --out."
        ) from error
    facts = {"file": str(path), "bytes": path.stat().st_size}
    print(json.dumps(facts)) if options.json else console().print(f"wrote {path}", markup=False)
    return 0
