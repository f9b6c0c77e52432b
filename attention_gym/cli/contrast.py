"""The command that shows where two recipes differ: ``compare``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.text import Text
from torch import Tensor

from attention_gym.cli.options import new_command
from attention_gym.cli.report import console, emit
from attention_gym.elementwise import modified_scores
from attention_gym.errors import GymInputError
from attention_gym.gallery import load
from attention_gym.recipe import Recipe, Sizes

EXAMPLES = (
    "compare causal sliding_window --b window=4\n"
    "compare sliding_window sliding_window --a window=4 --b window=5 --q-len 12"
)
LARGEST = 64


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands, "compare", "show where two recipes differ, cell by cell", compare, EXAMPLES
    )
    parser.add_argument("names", nargs=2, metavar="NAME", help="file names of two recipes")
    for side in "ab":
        which = "first" if side == "a" else "second"
        parser.add_argument(
            f"--{side}", action="append", default=[], metavar="PARAMETER=VALUE",
            help=f"a parameter of the {which} recipe; may be given again for another",
        )  # fmt: skip
    parser.add_argument("--q-len", type=int, help="queries; a size that fits both if not given")
    parser.add_argument("--kv-len", type=int, help="keys; a size that fits both if not given")
    parser.add_argument("--head", type=int, default=0, help="head drawn, 0 if not given")


def assigned(recipe: Recipe, pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts as parameters of their types, over the recipe's small ones.

    Raises:
        GymInputError: A text has no ``=``, names no parameter, or its value is of another type.
    """
    known = recipe.options()
    found = {name: recipe.small.get(name, p.default) for name, p in known.items()}
    for pair in pairs:
        name, _, text = pair.partition("=")
        name = name.replace("-", "_")
        if name not in known or not text:
            raise GymInputError(
                f"'{pair}' sets no parameter of {recipe.name}.",
                why=f"its parameters are: {', '.join(known) or 'none'}.",
                fix="write it as PARAMETER=VALUE.",
            )
        kind = known[name].annotation
        try:
            truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            found[name] = truth[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise GymInputError(
                f"'{text}' is no value of {name}.", fix=f"give one of type {kind.__name__}."
            ) from None
    return found


def common(first: Recipe, second: Recipe, options: argparse.Namespace) -> Sizes:
    """Sizes both can be drawn at: those of the one that is particular about them."""
    for asked in (options.q_len, options.kv_len):
        if asked is not None and not 1 <= asked <= LARGEST:
            raise GymInputError(f"lengths compared are 1 to {LARGEST}.")
    particular = first if first.fits is not None else second
    base = particular.drawn(q_len=options.q_len or 0, kv_len=options.kv_len or 0, default=12)
    heads = max(base.heads, options.head + 1)
    return replace(base, heads=heads, kv_heads=0)


def both_scores(
    recipes: Sequence[Recipe], parameters: Sequence[Mapping[str, Any]], sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Modified scores of both for the same raw ones; captures of one name and shape are shared."""
    captures = [r.make_captures(sizes, p) for r, p in zip(recipes, parameters, strict=True)]
    for name, tensor in captures[0].items():
        if name in captures[1] and captures[1][name].shape == tensor.shape:
            captures[1][name] = tensor
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len, generator=generator)
    scores = [
        modified_scores(raw, *r.mods({**p, **c})).detach()
        for r, p, c in zip(recipes, parameters, captures, strict=True)
    ]
    return scores[0], scores[1]


def drawing(first: Tensor, second: Tensor) -> str:
    """[Q, KV] of two: ``#`` kept alike, ``~`` kept with other scores, ``a`` or ``b`` alone."""
    kept = (first != -math.inf, second != -math.inf)
    lines = []
    for q in range(first.shape[0]):
        cells = []
        for kv in range(first.shape[1]):
            sides = (bool(kept[0][q, kv]), bool(kept[1][q, kv]))
            same = bool(torch.isclose(first[q, kv], second[q, kv], rtol=1e-5, atol=1e-6))
            cells.append(
                {(False, False): ".", (True, False): "a", (False, True): "b"}.get(
                    sides, "#" if same else "~"
                )
            )
        lines.append(" ".join(cells))
    return "\n".join(lines)


def compare(options: argparse.Namespace) -> int:
    if options.head < 0:
        raise GymInputError("--head is 0 or more.")
    recipes = [load(name) for name in options.names]
    sizes = common(recipes[0], recipes[1], options)
    parameters = [assigned(r, p) for r, p in zip(recipes, (options.a, options.b), strict=True)]
    first, second = both_scores(recipes, parameters, sizes)
    kept = (first != -math.inf, second != -math.inf)
    both = kept[0] & kept[1]
    apart = torch.where(both, (first - second).abs(), 0.0).amax()
    row = {
        "a": recipes[0].name,
        "b": recipes[1].name,
        "kept_by_both": int(both.sum()),
        "only_a": int((kept[0] & ~kept[1]).sum()),
        "only_b": int((kept[1] & ~kept[0]).sum()),
        "pairs": first.numel(),
        "largest_score_difference": float(apart),
    }
    picture = drawing(first[0, options.head], second[0, options.head])
    if options.json:
        print(json.dumps(row | {"picture": picture}, indent=2))
        return 0
    emit([row], as_json=False)
    legend = "# both keep the same score, ~ another score, a or b: one alone keeps it, . neither"
    console().print(
        f"\nhead {options.head}, rows are queries, columns keys ({legend})\n", markup=False
    )
    text = Text("\n".join("  " + line for line in picture.splitlines()))
    text.highlight_regex(r"[ab~]", "bold #d55e00")
    text.highlight_regex(r"\.", "bright_black")
    console().print(text)
    return 0
