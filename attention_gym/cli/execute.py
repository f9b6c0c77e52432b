"""The commands that compute: ``run`` and ``explain``."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

import flexattn
from attention_gym.blocks import block_counts
from attention_gym.cli.options import (
    add_backend,
    add_dtype,
    add_recipe,
    add_sizes,
    given,
    new_command,
    sizes,
)
from attention_gym.cli.report import console, emit
from attention_gym.errors import GymInputError
from attention_gym.inputs import DTYPES, Problem, make_problem
from attention_gym.recipe import Recipe
from flexattn import create_block_mask, flex_attention

RUN_EXAMPLES = "run sliding_window --window 512 --q-len 4096\nrun alibi --backward --json"
EXPLAIN_EXAMPLES = "explain tanh_softcap\nexplain document --q-len 4096"


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
        if mask is not None and mask.sparsity() == 100:
            console().print("the mask keeps nothing: every output is 0")
    return 0


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
