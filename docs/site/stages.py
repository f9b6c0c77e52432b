"""The page that follows one mask through every stage, as the stages print it during the build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import flexattn
from attention_gym.code import code
from attention_gym.gallery import load
from attention_gym.recipe import MaskMod, Sizes
from flexattn.ir.printer import print_graph
from flexattn.passes.pipeline import PASSES, State
from flexattn.reports.problem import Traced, make_problem, trace

NAME = "causal_window_document"
SIZES = Sizes(batch=1, heads=2, q_len=64)
GIVEN = {"window": 12, "documents": 3}
BLOCK = 8
REGION = ("// >>> mods", "// <<< mods")
# What each section of `explain` is, in the order in which they come to be.
SECTIONS = {
    "proofs": "Each read of a captured tensor must be inside it. What is proved needs no check.",
    "hoisted": "What needs the query alone, or the key alone, leaves the inner loop.",
    "closed form": "The mask solved for the key, and for the query. No pair is tried.",
    "decided": "So most tiles of the mask are settled without looking at their pairs.",
    "blocks": "The BlockMask: which blocks a kernel visits, and which of them it must mask.",
    "tiles": "The kernel's own tile, and how it is compiled.",
    "cost": "What the kernel will do, against attention that writes its scores to memory.",
}


def stages_page() -> str:
    """From Python to the result."""
    recipe = load(NAME)
    captures = recipe.make_captures(SIZES, GIVEN)
    _, mask_mod = recipe.mods({**GIVEN, **captures})
    assert mask_mod is not None
    told = flexattn.explain(mask_mod=mask_mod, B=1, H=2, Q_LEN=64, BLOCK_SIZE=BLOCK)
    problem = make_problem(1, 2, 64, None, 64, None, None, torch.float32)
    parts = [
        "# One mask, stage by stage\n",
        f"Packed documents with a causal window: `{NAME}` at 64 tokens, with a window of 12. The "
        "stages themselves printed what follows.\n",
        section("Python", "What a user writes.", code(recipe), "python"),
        section("graph", "The function, run once on symbols.", told.sections["graph"]),
        passes_section(trace(None, mask_mod, problem)),
        *(section(title, words, told.sections[title]) for title, words in SECTIONS.items()),
        section(
            "kernel", "The part of the C++ kernel that is this mask.", hook(told.forward), "cpp"
        ),
        section("result", "The call, beside plain torch.", result(mask_mod)),
    ]
    return "\n".join(parts)


def section(title: str, words: str, text: str, language: str = "text") -> str:
    return f"## {title}\n\n{words}\n\n```{language}\n{text}\n```\n"


def passes_section(traced: Traced) -> str:
    """Every pass of a forward kernel, and the graph after those that changed the mask."""
    rows = ["| pass | because | here |", "|---|---|---|"]
    graphs = []
    for name, reason, text in passes(traced):
        rows.append(f"| {name} | {reason} | {'a new graph' if text else 'nothing to do'} |")
        if text:
            graphs.append(f"After *{name}*:\n\n```text\n{text}\n```\n")
    return "\n".join(
        ["## passes\n", "Each makes a new graph, in this order.\n", *rows, "", *graphs]
    )


def passes(traced: Traced) -> Iterator[tuple[str, str, str]]:
    """Name, reason and, where it changed, the mask after each pass."""
    program, facts = traced.program, traced.facts
    assert program.mask is not None
    roots = {"mask": program.mask}
    state = State(program, "forward", frozenset(), facts.proved, facts.wide, roots)
    for entry in PASSES:
        before, state = state, entry.run(state)
        changed = state.roots != before.roots
        yield entry.name, entry.reason, print_graph(state.roots["mask"]) if changed else ""


def hook(kernel: str) -> str:
    """The marked region that was spliced into the template."""
    begin, end = (kernel.index(mark) for mark in REGION)
    return kernel[begin : end + len(REGION[1])]


def result(mask_mod: MaskMod) -> str:
    """Calls the kernel, and torch's own attention with the mask written out."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 64, 64)
    block_mask: Any = flexattn.create_block_mask(
        mask_mod, 1, None, 64, 64, device="cpu", BLOCK_SIZE=BLOCK
    )
    out = flexattn.flex_attention(q, k, v, block_mask=block_mask)
    keep = flexattn.create_mask(mask_mod, 1, 2, 64, 64, device="cpu")
    want = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=keep
    )
    worst = float((out - want).abs().max())
    if worst > 1e-5:
        raise RuntimeError(f"the page's own kernel is off by {worst:.2g}; nothing was written")
    visited = 1 - block_mask.sparsity() / 100
    return (
        f"flex_attention(q, k, v, block_mask=block_mask)   {list(out.shape)}\n"
        f"blocks visited                                   {visited:.1%}\n"
        f"largest difference from float64                  {worst:.1e}"
    )
