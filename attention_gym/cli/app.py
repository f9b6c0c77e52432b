"""Parse the command line, run the command, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence

from attention_gym.cli import (
    begin,
    browse,
    build,
    contrast,
    execute,
    figures,
    learn,
    live,
    measure,
    prove,
)
from attention_gym.cli.options import unusual
from attention_gym.errors import GymInputError, UnknownRecipeError
from attention_gym.gallery import load, names
from attention_gym.recipe import Recipe
from flexattn.errors import FlexAttentionError

# Commands whose NAME decides what other options they have.
ABOUT_ONE = {"show", "run", "verify", "plot", "explain", "compile", "bench", "playground"}
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """\
examples:
  python -m attention_gym list --family "positional bias"
  python -m attention_gym show sliding_window --window 4
  python -m attention_gym run alibi --heads 12 --dtype bfloat16
  python -m attention_gym verify --all
  python -m attention_gym plot document --out document.svg --theme dark
  python -m attention_gym compile tanh_softcap --target sm_90 --direction bwd
  python -m attention_gym train --steps 300 --out out/train

exit codes: 0 done, 1 it failed or a check did, 2 the command line is wrong
"""


def build_parser(recipe: Recipe | None = None) -> argparse.ArgumentParser:
    """The parser; with a recipe its parameters are options of the commands that take one."""
    parser = argparse.ArgumentParser(
        prog="python -m attention_gym",
        description="A gallery of attention variants: look at them, run them, check them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (browse, execute, prove, figures, measure, contrast, live, build, begin, learn):
        group.add_commands(commands, recipe)
    return parser


def named_recipe(arguments: Sequence[str]) -> Recipe | None:
    """The recipe a command line is about, found before it is parsed.

    Raises:
        UnknownRecipeError: The word after the command is no recipe and no option.
    """
    if not arguments or arguments[0] not in ABOUT_ONE:
        return None
    for word in arguments[1:]:
        if word in names():
            return load(word)
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        return load(arguments[1])
    return None


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command.

    Raises:
        GymInputError: An option that the command does not have; the nearest is named.
    """
    recipe = named_recipe(arguments)
    options, unknown = build_parser(recipe).parse_known_args(arguments)
    if not unknown:
        return options
    usage = options.parser.format_usage()
    near = difflib.get_close_matches(unknown[0], re.findall(r"--[\w-]+", usage), 1)
    raise GymInputError(
        f"{options.command} does not take '{unknown[0]}'"
        + (f" for {recipe.name}." if recipe else "."),
        fix=(f"did you mean {near[0]}? " if near else "") + f"{options.command} --help lists all.",
    )


def run(options: argparse.Namespace) -> int:
    """Carry out a command.

    Raises:
        GymInputError: The recipe cannot be made with the parameters or sizes that were asked for.
    """
    try:
        return int(options.action(options))
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        changed = unusual(options)
        if isinstance(error, FlexAttentionError) or not changed:
            raise
        raise GymInputError(
            f"{options.recipe.name} does not work with {', '.join(changed)}.",
            why=f"making it ended in {type(error).__name__}: {str(error).splitlines()[0]}.",
            fix=f"show {options.recipe.name} tells what each parameter is, and its usual value.",
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return run(parsed(arguments))
    except FlexAttentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return USAGE if isinstance(error, UnknownRecipeError | GymInputError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
