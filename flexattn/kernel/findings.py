"""Tells what was found out about the mods of one kernel: what is proved and what is hoisted."""

from __future__ import annotations

from collections.abc import Set

from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import Apply, Load
from flexattn.ir.printer import print_graph
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof, Site, find_sites

PROOFS = {
    "inside": "proved inside",
    "wraps": "proved inside after wrapping a negative index",
    "guarded": "proved harmless: never reaches a kept score",
}


def hoisted(hooks: Hooks) -> str:
    """What is computed outside the inner loop, and how often."""
    rows = []
    for title, name, values in (
        ("once per head", "u", hooks.uniform),
        ("once per query", "q", hooks.q),
        ("once per key", "kv", hooks.kv),
    ):
        rows += [f"{title}: {name}:{i}\n{print_graph(value)}" for i, value in enumerate(values)]
    return "\n".join(rows) or "nothing: all of it varies with both q_idx and kv_idx."


def proofs(program: Program, proved: Set[Proof], wide: bool) -> str:
    """What is known of each gather, integer division and shift, and what that makes of it."""
    sites = find_sites(program)
    if not sites:
        return "no gathers, integer divisions or shifts that could fail."
    rows = [f"{_place(site)}: {_proof(site, proved)}" for site in sites]
    return "\n".join(
        [*rows, f"index arithmetic: {'64' if wide else '32'} bits where bounds allow it"]
    )


def ranges(program: Program) -> list[str]:
    """The ends of the ranges that kernels read, line by line; nothing where there are lists."""
    if program.ranges is None:
        return []
    lines = []
    for title, pieces in (
        ("ranges of kv_idx, low and high of each:", program.ranges.rows),
        ("ranges of q_idx:", program.ranges.cols),
    ):
        graph = print_graph(*(end for piece in pieces for end in piece))
        lines += [title, *(f"  {line}" for line in graph.splitlines())]
    return lines


def _proof(site: Site, proved: Set[Proof]) -> str:
    """The strongest thing proved of a site, in the order of ``PROOFS``."""
    for proof, text in PROOFS.items():
        if (site.number, proof) in proved:
            return text
    return "guarded at run time"


def _place(site: Site) -> str:
    match site.node:
        case Load(capture):
            return f"capture{capture}, index {site.dim}"
        case Apply(op):
            return f"second argument of {op}"
    return str(site.node)
