"""The command that builds kernels for a GPU that need not be there: ``compile``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from attention_gym.cli.options import add_recipe, given, new_command
from attention_gym.cli.report import emit, shown
from attention_gym.errors import GymInputError
from attention_gym.inputs import DTYPES
from attention_gym.recipe import Recipe
from flexattn import compile_only

DIRECTIONS = {"fwd": "forward", "bwd": "backward", "decode": "decode"}
SHORT = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}
COLUMNS = "kernel registers spilled_words stack shared_bytes mma tile seconds"


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands, "compile", "compile a recipe's kernels for a GPU, which need not be there",
        build, "compile causal --target sm_90 --head-dim 128\n"
        "compile alibi --target gfx942 --direction bwd --dtype bf16 --json",
    )  # fmt: skip
    add_recipe(parser, recipe)
    parser.add_argument("--target", default="sm_90", help="GPU such as sm_90 or gfx942, sm_90")
    parser.add_argument(
        "--direction", choices=(*DIRECTIONS, "forward", "backward"), default="fwd", help="fwd"
    )
    parser.add_argument(
        "--head-dim", default="", metavar="D[,Dv]", help="channels per head, the recipe's"
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), type=dtype_name, default="bfloat16",
        help="dtype of q, k and v, bfloat16; bf16, fp16 and so on will do",
    )  # fmt: skip


def dtype_name(text: str) -> str:
    return SHORT.get(text.replace("fp", "f"), text)


def head_dim(text: str, recipe: Recipe) -> int | tuple[int, int]:
    """``128`` or ``192,128``; the recipe's own when empty.

    Raises:
        GymInputError: It is neither.
    """
    if not text:
        return recipe.sizes.head_dim
    first, comma, second = text.partition(",")
    try:
        return (int(first), int(second)) if comma else int(first)
    except ValueError:
        raise GymInputError(
            f"--head-dim is {text!r}.", fix="give one number, or two: 192,128."
        ) from None


def build(options: argparse.Namespace) -> int:
    recipe: Recipe = options.recipe
    values, sizes = given(options), recipe.sizes
    captures = recipe.make_captures(sizes, values)
    for name in recipe.learned:
        captures[name].requires_grad_()
    score_mod, mask_mod = recipe.mods({**values, **captures})
    facts = compile_only(
        score_mod=score_mod,
        mask_mod=mask_mod,
        target=options.target,
        direction=DIRECTIONS.get(options.direction, options.direction),
        dtype=DTYPES[options.dtype],
        head_dim=head_dim(options.head_dim, recipe),
        B=sizes.batch,
        H=sizes.heads,
        Q_LEN=sizes.q_len,
        KV_LEN=sizes.kv_len,
    )
    if options.json:
        print(json.dumps({"recipe": recipe.name, **facts}, indent=2))
        return 0
    if "kernels" not in facts:  # an instruction set of CPUs
        emit([facts], as_json=False, title=recipe.name)
        return 0
    rows = [
        {"kernel": name, **fact, "mma": pairs(fact["mma"]), "tile": pairs(fact["tile"])}
        for name, fact in facts["kernels"].items()
    ]
    title = f"{recipe.name}, {facts['direction']}, {facts['target']}, {facts['dtype']}, head dims "
    emit(rows, as_json=False, title=title + shown(facts["head_dim"]), columns=COLUMNS)
    return 0


def pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
