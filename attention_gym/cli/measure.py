"""The command that measures recipes: ``bench``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from attention_gym.cli.execute import block_mask
from attention_gym.cli.options import (
    add_dtype,
    add_recipe,
    add_sizes,
    given,
    new_command,
    sizes,
)
from attention_gym.cli.report import console, emit
from attention_gym.contest import contest
from attention_gym.errors import GymInputError
from attention_gym.gallery import load, names
from attention_gym.inputs import DTYPES, make_problem
from attention_gym.recipe import Recipe, Sizes
from flexattn.bench import machine

EXAMPLES = (
    "bench sliding_window --q-len 4096\nbench alibi --backward --dtype bfloat16\n"
    "bench --all --output recipes.json"
)


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands,
        "bench",
        "time a recipe beside SDPA with a dense mask and torch's flex_attention",
        bench,
        EXAMPLES,
    )
    add_recipe(parser, recipe, optional=True)
    parser.add_argument("--all", action="store_true", help="measure every recipe")
    add_sizes(parser)
    add_dtype(parser)
    parser.add_argument("--backward", action="store_true", help="time forward and backward")
    parser.add_argument("--no-peers", action="store_true", help="leave torch's flex_attention out")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each, 7 if not given")
    parser.add_argument("--output", type=Path, help="also write the rows as JSON into this file")


def bench(options: argparse.Namespace) -> int:
    if (options.recipe is None) != options.all:
        raise GymInputError("bench takes the NAME of a recipe or --all, one of the two.")
    if options.rounds < 2:
        raise GymInputError(
            f"--rounds is {options.rounds}.",
            why="one timing cannot say how noisy the machine is.",
            fix="give a number above 1.",
        )
    if options.output is not None:
        check_target(options.output)
    rows = list(measured(options))
    if options.output is not None:
        text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
        options.output.write_text(text + "\n")
    report(rows, as_json=options.json)
    return 0


def check_target(path: Path) -> None:
    """Raise before the measuring, not after it.

    Raises:
        GymInputError: ``path`` cannot be written.
    """
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise GymInputError(
            f"cannot write '{path}'.",
            why="it is a folder, or the folder it would lie in does not exist or is read-only.",
            fix="name a file in a folder that can be written.",
        )


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    chosen = names() if options.all else [options.recipe.name]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("bench", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            recipe = load(name)
            parameters = {} if options.all else given(options)
            yield measure(recipe, sizes(options, recipe.sizes), parameters, options)
            progress.advance(task)


def measure(
    recipe: Recipe, size: Sizes, parameters: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    problem = make_problem(recipe, size, parameters, dtype=DTYPES[options.dtype])
    mask = block_mask(problem)
    facts = {
        "recipe": recipe.name,
        "dtype": options.dtype,
        "direction": "forward and backward" if options.backward else "forward",
        "batch": size.batch,
        "heads": size.heads,
        "q_len": size.q_len,
        "kv_len": size.kv_len,
        "head_dim": size.head_dim,
        "block_sparsity": None if mask is None else mask.sparsity(),
    }
    return facts | contest(
        problem, mask, backward=options.backward, peers=not options.no_peers, rounds=options.rounds
    )


def report(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        return emit(rows, as_json=True)
    columns = [name for name in rows[0] if name not in ("why", "batch", "kv_len", "head_dim")]
    emit([row | noisy(row) for row in rows], as_json=False, columns=" ".join(columns))
    for row in rows:
        for name, reason in row["why"].items():
            console().print(f"{row['recipe']}: {name} cannot: {reason}", markup=False)
    console().print(
        "over_…: how many times longer the other takes; - where it does not take part; noisy where "
        "this machine's timings differ too much to say"
    )
    return None


def noisy(row: dict[str, Any]) -> dict[str, str]:
    """Ratios that are left out although both were timed."""
    others = [name.removeprefix("over_") for name in row if name.startswith("over_")]
    return {
        f"over_{name}": "noisy"
        for name in others
        if row[f"over_{name}"] is None and row[f"{name}_ms"] is not None
    }
