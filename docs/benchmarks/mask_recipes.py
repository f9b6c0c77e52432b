"""Builds masks of recipes of any length; writes what decided their blocks, in what time and memory.

The same of the masks of many kinds on which the proofs are tested.

    python docs/benchmarks/mask_recipes.py [--only NAME] [--rounds N] [--no-peers] [--most TOKENS]

The page is docs/benchmarks/mask_recipes.md: shares at 32,768 tokens, or the longest up to there;
time and memory beside PyTorch's builder up to 32,768 tokens, ours alone up to a million. One batch,
one head, blocks of 128 x 128.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from attention_gym.gallery import load, names
from attention_gym.recipe import Recipe, Sizes
from flexattn.bench.mask_builds import STAGES
from flexattn.bench.mask_cases import LENGTHS, Case
from flexattn.bench.masks import mask_row
from flexattn.bench.report import machine, progress

sys.path.append(str(Path(__file__).parents[2] / "tests/analysis"))
import study_vision  # noqa: F401  registers its masks
from study_masks import MASKS, build

PAGE = Path(__file__).parent / "mask_recipes.md"
SHARED = 32768
PROBE = 1024
SHARES = tuple(name.replace(" ", "_") for name in STAGES.values())
TIMES = (
    *("first_ms", "ours_ms", "peak_mb", "stored_mb"),
    *("torch_ms", "torch_resident_mb", "over_torch"),
)


def case(recipe: Recipe) -> Case:
    """A recipe's mask for any length; every turn has fresh captures and a fresh closure."""

    def make(tokens: int, turn: int) -> Callable[..., Any]:
        captures = recipe.make_captures(Sizes(batch=1, heads=1, q_len=tokens), {})
        fresh = {k: v.clone() if isinstance(v, Tensor) else v for k, v in captures.items()}
        _, mask_mod = recipe.mods(fresh)
        assert mask_mod is not None
        return mask_mod

    return Case(recipe.name, make)


def any_length(recipe: Recipe) -> bool:
    """Whether a recipe has a mask at every length, with captures that grow no faster than it."""
    if recipe.mask is None or recipe.fits is not None:
        return False
    captures = recipe.make_captures(Sizes(batch=1, heads=1, q_len=PROBE), {})
    return sum(tensor.numel() for tensor in captures.values()) <= 64 * PROBE


def study_case(name: str) -> Case:
    """A mask of the tests; every turn draws its tables anew."""
    return Case(
        name.partition(" ")[2],
        lambda tokens, turn: build(name, tokens, turn)[0],
        lengths=(SHARED,),
        sides=lambda tokens: build(name, tokens)[1:],
    )


def cell(value: Any, name: str = "") -> str:
    match value:
        case None:
            return "too noisy"
        case float() if name.startswith("over_"):
            return f"{value:.0f}×"
        case float() if name in SHARES:
            return f"{100 * value:.3g}%" if value else ""
        case float():
            return f"{value:.3g}"
    return str(value)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
        *("| " + " | ".join(cell(row[name], name) for name in columns) + " |" for row in rows),
    ]
    return "\n".join(lines)


def study_part(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    times = [row["ours_ms"] for row in rows]
    return (
        f"\n## {len(rows)} masks of many kinds, at {SHARED:,} tokens\n\n"
        "Those of `tests/analysis/study_masks.py` and `study_vision.py`; the median of *ours* is "
        f"{statistics.median(times):.2g} ms, the worst {max(times):.3g} ms.\n\n"
        + table(rows, ("mask", *SHARES, "first_ms", "ours_ms", "peak_mb"))
    )


def page(rows: Sequence[dict[str, Any]], study: Sequence[dict[str, Any]]) -> str:
    facts = machine()
    tokens = max(row["tokens"] for row in rows if row["tokens"] <= SHARED)
    shared = [row for row in rows if row["tokens"] == tokens]
    return "\n".join(
        [
            "# Masks of the recipes\n",
            f"Built on {facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
            f"{facts['date']}, by `python docs/benchmarks/mask_recipes.py`. One batch, one head, "
            "blocks of 128 × 128.\n",
            f"## What decided their blocks, at {tokens:,} tokens\n",
            table(shared, ("mask", *SHARES)),
            "\n## Time and memory\n",
            "*first* starts with empty caches; *ours* is a later build with a fresh closure and "
            "fresh captures. *peak* is what Python and NumPy held at once, *stored* the blocks "
            "of the mask; torch is `torch.nn.attention.flex_attention.create_block_mask`, its "
            "memory what the process grew by. – is not measured: PyTorch's builder would need "
            "more than 12 GB, or blocks are made on demand.\n",
            table(rows, ("mask", "tokens", *TIMES)),
            study_part(study),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="recipes whose name holds this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-peers", action="store_true", help="leave PyTorch's builder out")
    parser.add_argument("--most", type=int, default=LENGTHS[-1], help="longest mask, in tokens")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    chosen = [load(name) for name in names() if arguments.only in name]
    cases = [case(recipe) for recipe in chosen if any_length(recipe)]
    lengths = [tokens for tokens in LENGTHS if tokens <= arguments.most]
    rows = []
    kinds = [study_case(name) for name in MASKS if arguments.only in name]
    study = []
    with progress(len(cases) * len(lengths) + len(kinds), "masks of the recipes") as tick:
        for built in cases:
            for tokens in lengths:
                peers = not arguments.no_peers
                rows.append(mask_row(built, tokens, arguments.rounds, peers))
                tick()
        for built in kinds:
            study.append(mask_row(built, SHARED, arguments.rounds, False))
            tick()
    arguments.output.write_text(page(rows, study))


if __name__ == "__main__":
    main()
