"""The command that draws files: ``plot``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_gym.blocks import block_classes
from attention_gym.cli.options import add_recipe, given, new_command
from attention_gym.cli.report import emit
from attention_gym.errors import GymInputError
from attention_gym.picture import recipe_scores
from attention_gym.plot import SUFFIXES, THEMES, recipe_figure, save
from attention_gym.recipe import Recipe
from flexattn import create_block_mask

EXAMPLES = "plot causal_window_document --out mask.svg\nplot alibi --theme both --q-len 64"
LARGEST = 1024


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(commands, "plot", "draw a recipe as PNG or SVG", plot, EXAMPLES)
    add_recipe(parser, recipe, small=True)
    parser.add_argument("--out", type=Path, help=".png or .svg, out/NAME.png if not given")
    parser.add_argument(
        "--theme", choices=("light", "dark", "both"), default="light",
        help="background; both writes two files, NAME-light and NAME-dark",
    )  # fmt: skip
    parser.add_argument("--q-len", type=int, help="queries drawn; a size that fits if not given")
    parser.add_argument("--kv-len", type=int, help="keys drawn; a size that fits if not given")
    parser.add_argument("--block-size", type=int, default=8, help="block size, 8 if not given")
    parser.add_argument("--head", type=int, default=0, help="head drawn, 0 if not given")


def response(recipe: Recipe, given_all: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """What the score_mod makes of scores of -150 to 150 at query and key 0."""
    score_mod, _ = recipe.mods(given_all)
    if score_mod is None:
        return None
    before = torch.linspace(-150, 150, 301)
    place = torch.zeros(len(before), dtype=torch.int64)
    return before, score_mod(before, place, place, place, place).detach()


def plot(options: argparse.Namespace) -> int:
    recipe: Recipe = options.recipe
    path: Path = options.out or Path("out") / f"{recipe.name}.png"
    if path.suffix not in SUFFIXES:
        raise GymInputError(
            f"cannot draw into '{path}'.",
            why=f"its suffix is '{path.suffix}'.",
            fix="give a name that ends in .png or .svg.",
        )
    if not all(n is None or 1 <= n <= LARGEST for n in (options.q_len, options.kv_len)):
        raise GymInputError(f"lengths drawn are 1 to {LARGEST}.")
    if options.block_size < 1 or options.head < 0:
        raise GymInputError("--block-size is above 0 and --head is 0 or more.")
    sizes = recipe.drawn(q_len=options.q_len or 0, kv_len=options.kv_len or 0, default=64)
    sizes = replace(sizes, heads=max(options.head + 1, sizes.heads), kv_heads=0)
    parameters = given(options)
    scores = recipe_scores(recipe, sizes, parameters)[0]
    given_all = {**parameters, **recipe.make_captures(sizes, parameters)}
    _, mask_mod = recipe.mods(given_all)
    image = None
    if recipe.image is not None:
        image = parameters[recipe.image[0]], parameters[recipe.image[1]]
    classes = None
    if mask_mod is not None:
        mask = create_block_mask(
            mask_mod, sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len, device="cpu",
            BLOCK_SIZE=options.block_size,
        )  # fmt: skip
        classes = block_classes(mask)[0, min(options.head, mask.kv_num_blocks.shape[1] - 1)]
    chosen = list(THEMES) if options.theme == "both" else [options.theme]
    rows = []
    for name in chosen:
        target = path.with_stem(f"{path.stem}-{name}") if len(chosen) > 1 else path
        figure = recipe_figure(
            scores, classes, response(recipe, given_all), head=options.head,
            block=options.block_size, title=f"{recipe.name}: {recipe.formula}",
            theme=THEMES[name], image=image,
        )  # fmt: skip
        save(figure, target)
        rows.append({"file": str(target), "theme": name, "bytes": target.stat().st_size})
    emit(rows, as_json=options.json)
    return 0
