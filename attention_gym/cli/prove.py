"""The command that checks recipes: ``verify``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import Progress

from attention_gym.check import (
    Check,
    check_dense,
    check_graph,
    check_picture,
    check_reference,
    share_proved,
)
from attention_gym.cli.options import (
    BACKENDS,
    add_recipe,
    add_sizes,
    given,
    new_command,
    runnable,
    sizes,
)
from attention_gym.cli.report import console, emit
from attention_gym.errors import GymInputError
from attention_gym.gallery import load, names
from attention_gym.inputs import DTYPES
from attention_gym.recipe import ODD, Recipe, Sizes

EXAMPLES = (
    "verify t5_bias\nverify prefix_lm --prefix 5 --backend cpp\nverify --all\n"
    "verify --all --part 1/4"
)


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands,
        "verify",
        "check a recipe against its pictures, its references and the dense definition in float64",
        verify,
        EXAMPLES,
    )
    add_recipe(parser, recipe, optional=True, small=True)
    parser.add_argument("--all", action="store_true", help="check every recipe")
    parser.add_argument(
        "--part", type=part, metavar="I/N", help="with --all: the I-th of N parts, for N machines"
    )
    add_sizes(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="one dtype; float32 and bfloat16 if not given"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, help="one backend; all that run on the CPU if not given"
    )


def part(text: str) -> tuple[int, int]:
    """``I/N``, 1 ≤ I ≤ N."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"'{text}' is not like 1/4")
    return int(number), int(of)


def checks_of(
    recipe: Recipe, size: Sizes, parameters: Mapping[str, Any], backends: Sequence[str],
    dtypes: Sequence[str],
) -> Iterator[Check]:  # fmt: skip
    """Every check of one recipe."""
    for reference in recipe.references:
        yield check_reference(recipe, reference)
    for backend in backends:
        for number in range(len(recipe.pictures)):
            yield check_picture(recipe, number, backend)
        for check, dtype in itertools.product((check_dense, check_graph), dtypes):
            yield from check(recipe, size, parameters, dtype=DTYPES[dtype], backend=backend)


def verify(options: argparse.Namespace) -> int:
    if (options.recipe is None) != options.all:
        raise GymInputError("verify takes the NAME of a recipe or --all, one of the two.")
    if options.part and not options.all:
        raise GymInputError("--part is for --all.", fix="leave it out.")
    number, of = options.part or (1, 1)
    chosen = names()[number - 1 :: of] if options.all else [options.recipe.name]
    backends = [options.backend] if options.backend else runnable()
    dtypes = [options.dtype] if options.dtype else ["float32", "bfloat16"]
    checks: list[Check] = []
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verify", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            recipe = load(name)
            size = sizes(options, recipe.fits or ODD)
            parameters = dict(recipe.small) if options.all else given(options)
            found = list(checks_of(recipe, size, parameters, backends, dtypes))
            checks += found
            rows.append(summary(recipe, found, share_proved(recipe, size, parameters)))
            progress.advance(task)
    if options.json:
        emit([asdict(check) | {"passed": check.passed} for check in checks], as_json=True)
    else:
        report(rows, checks)
    return 0 if all(check.passed for check in checks) else 1


def worst(checks: Sequence[Check], *beginnings: str) -> float | None:
    errors = [check.error for check in checks if check.what.startswith(beginnings)]
    return max(errors, default=None)


def summary(recipe: Recipe, checks: Sequence[Check], proved: float | None) -> dict[str, Any]:
    """One row of the table; errors are those of float32, over the largest reference value."""
    exact = [check for check in checks if check.dtype == "float32"]
    return {
        "recipe": recipe.name,
        "backends": sorted({c.backend for c in checks} - {"reference"}),
        "checks": len(checks),
        "forward_error": worst(exact, "out", "lse", "picture"),
        "gradient_error": worst(exact, "grad"),
        "tiles_proved": None if proved is None else f"{proved:.0%}",
        "references": [reference.source for reference in recipe.references],
        "passed": all(check.passed for check in checks),
    }


def report(rows: Sequence[Mapping[str, Any]], checks: Sequence[Check]) -> None:
    emit(rows, as_json=False)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console().print(
            f"[red]failed[/] {check.recipe}: {check.what} on {check.backend} in {check.dtype}: "
            f"error {check.error:.3g}, allowed {check.allowed:.3g}"
        )
    bad = f"[red]{len(failed)} of {len(checks)} checks failed"
    console().print(bad if failed else f"{len(checks)} checks passed")
