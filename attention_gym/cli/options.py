"""Options shared by commands: the recipe and its parameters, sizes, dtype, backend."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from attention_gym.errors import GymInputError
from attention_gym.inputs import DTYPES
from attention_gym.recipe import Recipe, Sizes

BACKENDS = ("cpp", "eager", "triton")


def runnable() -> list[str]:
    """The backends that compute on the CPU in this process; Triton does where it is interpreted."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return [name for name in BACKENDS if name != "triton" or interpreted]


def new_command(
    commands: Any, name: str, help: str, action: Callable[..., int], examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n"
        + "\n".join(f"  python -m attention_gym {e}" for e in examples.split("\n")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(action=action, parser=parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    return parser


def add_recipe(
    parser: argparse.ArgumentParser,
    recipe: Recipe | None,
    *,
    optional: bool = False,
    small: bool = False,
) -> None:
    """NAME, and the parameters of the recipe it names, small defaults if ``small``."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?" if optional else None, help="file name of a recipe"
    )
    parser.set_defaults(recipe=recipe)
    if recipe is None:
        return
    group = parser.add_argument_group(f"parameters of {recipe.name}")
    for name, parameter in recipe.options().items():
        flag, help = "--" + name.replace("_", "-"), recipe.parameters[name]
        default = recipe.small.get(name, parameter.default) if small else parameter.default
        help = f"{help}, {default} if not given".replace("%", "%%")
        if parameter.annotation is bool:
            group.add_argument(
                flag, dest=name, default=default, help=help,
                action=argparse.BooleanOptionalAction,
            )  # fmt: skip
        else:
            kind = parameter.annotation
            group.add_argument(
                flag, dest=name, default=default, help=help, type=kind,
                metavar=kind.__name__.upper(),
            )  # fmt: skip


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's parameters as the user gave them."""
    if options.recipe is None:
        return {}
    return {name: getattr(options, name) for name in options.recipe.options()}


def unusual(options: argparse.Namespace) -> list[str]:
    """Parameters and sizes of the recipe that were given other values than their defaults."""
    recipe = getattr(options, "recipe", None)
    if recipe is None:
        return []
    asked = {name: getattr(options, name, None) for name in (*recipe.options(), *SIZE_HELP)}
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in asked.items()
        if value is not None and value != options.parser.get_default(name)
    ]


SIZE_HELP = {
    "batch": "batch entries",
    "heads": "query heads",
    "q_len": "queries",
    "head_dim": "channels per head",
    "kv_heads": "key and value heads, as many as query heads if not given",
    "kv_len": "keys, as many as queries if not given",
    "v_dim": "channels per head of values, as of queries if not given",
}


def add_sizes(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names or tuple(SIZE_HELP):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, dest=name, type=int, metavar="N", help=SIZE_HELP[name])


def sizes(options: argparse.Namespace, base: Sizes) -> Sizes:
    """The sizes asked for; those not given come from ``base``.

    Raises:
        GymInputError: A size below 1, or head counts that do not divide.
    """
    asked = {f.name: getattr(options, f.name, None) for f in fields(Sizes)}
    for name, value in asked.items():
        if value is not None and value < 1:
            raise GymInputError(
                f"--{name.replace('_', '-')} is {value}.", fix="give a number above 0."
            )
    values = {f.name: getattr(base, f.name) for f in fields(Sizes)}
    for follower, leader in (("kv_heads", "heads"), ("kv_len", "q_len"), ("v_dim", "head_dim")):
        if asked[leader] is not None and values[follower] == values[leader]:
            values[follower] = 0
    result = Sizes(**(values | {k: v for k, v in asked.items() if v is not None}))
    if result.heads % result.kv_heads:
        raise GymInputError(
            f"{result.heads} query heads cannot share {result.kv_heads} key heads.",
            why="each key head serves the same whole number of query heads.",
            fix="give a --kv-heads that divides --heads.",
        )
    return result


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of q, k and v")


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=BACKENDS, help="what computes, chosen if not given")
