"""The commands that compute: ``run``, ``verify`` and ``explain``."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from dataclasses import asdict
from typing import Any

import torch

import flexattn
from attention_gym.blocks import block_counts
from attention_gym.check import Check, check_dense, check_graph, check_picture
from attention_gym.cli.options import (
    BACKENDS,
    add_backend,
    add_dtype,
    add_recipe,
    add_sizes,
    given,
    new_command,
    runnable,
    sizes,
)
from attention_gym.cli.report import console, emit
from attention_gym.errors import GymInputError
from attention_gym.gallery import load_all
from attention_gym.inputs import DTYPES, Problem, make_problem
from attention_gym.recipe import Recipe, Sizes
from flexattn import create_block_mask, flex_attention

RUN_EXAMPLES = "run sliding_window --window 512 --q-len 4096\nrun alibi --backward --json"
VERIFY_EXAMPLES = "verify t5_bias\nverify prefix_lm --prefix 5 --backend cpp\nverify --all"
EXPLAIN_EXAMPLES = "explain tanh_softcap\nexplain document --q-len 4096"
# Odd lengths, and more queries per key head than one.
CHECKED = Sizes(batch=2, heads=4, kv_heads=2, q_len=83, kv_len=101, head_dim=24)


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands, "run", "run a recipe on random inputs and time it", run, RUN_EXAMPLES
    )
    add_recipe(parser, recipe)
    add_sizes(parser)
    add_dtype(parser)
    add_backend(parser)
    parser.add_argument("--backward", action="store_true", help="run the backward too")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs, 5 if not given")
    parser = new_command(
        commands,
        "verify",
        "check a recipe against its pictures and the dense definition in float64",
        verify,
        VERIFY_EXAMPLES,
    )
    add_recipe(parser, recipe, optional=True)
    parser.add_argument("--all", action="store_true", help="check every recipe")
    add_sizes(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="one dtype; float32 and bfloat16 if not given"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, help="one backend; all that run on the CPU if not given"
    )
    parser = new_command(
        commands,
        "explain",
        "print every stage of a recipe's compilation",
        explain,
        EXPLAIN_EXAMPLES,
    )
    add_recipe(parser, recipe)
    add_sizes(parser)
    add_dtype(parser)


def block_mask(problem: Problem) -> flexattn.BlockMask | None:
    if problem.mask_mod is None:
        return None
    batch, heads, q_len, _ = problem.query.shape
    varies = "bh" in problem.recipe.needs
    shape = (batch if varies else None, heads if varies else None)
    return create_block_mask(problem.mask_mod, *shape, q_len, problem.key.shape[2], device="cpu")


def run(options: argparse.Namespace) -> int:
    if options.repeat < 1:
        raise GymInputError(f"--repeat is {options.repeat}.", fix="give a number above 0.")
    recipe: Recipe = options.recipe
    size = sizes(options, recipe.sizes)
    problem = make_problem(recipe, size, given(options), dtype=DTYPES[options.dtype])
    start = time.perf_counter()
    mask = block_mask(problem)
    mask_seconds = time.perf_counter() - start

    def once() -> tuple[float, torch.Tensor]:
        start = time.perf_counter()
        with torch.set_grad_enabled(options.backward):
            out = flex_attention(
                problem.query, problem.key, problem.value,
                score_mod=problem.score_mod, block_mask=mask, scale=problem.scale,
                enable_gqa=problem.grouped, backend=options.backend,
            )  # fmt: skip
        if options.backward:
            torch.autograd.grad(out.sum(), list(problem.leaves.values()))
        return time.perf_counter() - start, out

    first, out = once()
    later = [once()[0] for _ in range(options.repeat)]
    row = {
        "recipe": recipe.name,
        "dtype": options.dtype,
        "query": list(problem.query.shape),
        "key": list(problem.key.shape),
        "backward": options.backward,
        "blocks": block_counts(mask) if mask is not None else None,
        "mask_ms": mask_seconds * 1e3,
        "first_ms": first * 1e3,
        "later_ms": statistics.median(later) * 1e3,
        "mean_magnitude": float(out.detach().abs().mean()),
    }
    if options.json:
        print(json.dumps(row, indent=2))
    else:
        blocks = row["blocks"]
        shown = "-" if blocks is None else " / ".join(str(n) for n in blocks.values())
        emit(
            [row | {"empty/partial/full": shown}],
            as_json=False,
            columns="recipe dtype query key backward empty/partial/full mask_ms first_ms later_ms",
        )
    return 0


def verify(options: argparse.Namespace) -> int:
    if (options.recipe is None) != options.all:
        raise GymInputError("verify takes the NAME of a recipe or --all, one of the two.")
    recipes = list(load_all()) if options.all else [options.recipe]
    backends = [options.backend] if options.backend else runnable()
    dtypes = [options.dtype] if options.dtype else ["float32", "bfloat16"]
    size = sizes(options, CHECKED)
    parameters = {} if options.all else given(options)
    checks: list[Check] = []
    for recipe, backend in itertools.product(recipes, backends):
        checks += [check_picture(recipe, i, backend) for i in range(len(recipe.pictures))]
        for check, dtype in itertools.product((check_dense, check_graph), dtypes):
            checks += check(recipe, size, parameters, dtype=DTYPES[dtype], backend=backend)
    rows = [asdict(check) | {"passed": check.passed} for check in checks]
    emit(rows if options.json else summary(checks), as_json=options.json)
    failed = sum(not row["passed"] for row in rows)
    if not options.json:
        bad = f"[red]{failed} of {len(rows)} checks failed"
        console().print(bad if failed else f"{len(rows)} checks passed")
    return 1 if failed else 0


def summary(checks: list[Check]) -> list[dict[str, Any]]:
    """Per recipe, backend and dtype the check that is nearest to its limit, or beyond it."""
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.recipe, check.backend, check.dtype), []).append(check)
    rows = []
    for (recipe, backend, dtype), group in groups.items():
        worst = max(group, key=lambda check: check.error / check.allowed)
        rows.append(
            {
                "recipe": recipe,
                "backend": backend,
                "dtype": dtype,
                "checks": len(group),
                "nearest": worst.what,
                "error": worst.error,
                "allowed": worst.allowed,
                "passed": all(check.passed for check in group),
            }
        )
    return rows


def explain(options: argparse.Namespace) -> int:
    recipe: Recipe = options.recipe
    size = sizes(options, recipe.sizes)
    problem = make_problem(recipe, size, given(options), dtype=DTYPES[options.dtype])
    report = flexattn.explain(
        problem.score_mod, problem.mask_mod, B=size.batch, H=size.heads, Hkv=size.kv_heads,
        Q_LEN=size.q_len, KV_LEN=size.kv_len, D=size.head_dim, dtype=DTYPES[options.dtype],
    )  # fmt: skip
    print(report.to_json() if options.json else report)
    return 0
