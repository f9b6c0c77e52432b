"""Where an access that bounds do not prove leaves its capture: a pair, or that there is none.

The access and the conditions under which it counts are a mask of their own: its tiles are proved
like those of any other, and only tiles in which it may hold are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.tiles.classify import Question, as_array, classify_tiles
from flexattn.analysis.tiles.values import UnknownNode
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, I64, Apply, Input, Load, Node, walk
from flexattn.ir.sites import Site, find_sites
from flexattn.masks.tables import cdiv
from flexattn.passes.guard import guard
from flexattn.reports.problem import Problem, Traced

TILES = 64
"""Tiles along one axis: coarse ones, as most accesses leave at an edge."""

MOST = 1 << 22
"""Pairs looked at for one access."""


def leavings(traced: Traced, problem: Problem) -> list[str]:
    """A sentence for each access that is guarded at run time."""
    proved = {number for number, _ in traced.facts.proved}
    return [
        f"{_name(site)}: {_leaving(site, traced, problem)}"
        for site in find_sites(traced.program)
        if site.number not in proved and isinstance(site.node, Load)
    ]


def _leaving(site: Site, traced: Traced, problem: Problem) -> str:
    where = _where_it_counts(site, traced)
    if where is None:
        return "leaves only where the score says so, which is known when the kernel runs"
    captures = [tensor.detach() for tensor in traced.bound.captures]
    looked = 0
    try:
        boxes = list(_boxes(where, traced, problem, captures))
    except (UnknownNode, RecursionError):
        boxes = [(0, 0, 0, 0, problem.M, problem.N)]
    for b, h, q, kv, rows, cols in boxes:
        looked += rows * cols
        if looked > MOST:
            return f"not found to leave among {MOST:,} pairs, and not proved to stay inside"
        found = _first(where, traced, captures, (b, h, q, kv, rows, cols))
        if found is not None:
            return _said(site, traced, captures, found)
    return "never leaves where it counts, as the tiles of that condition prove"


def _where_it_counts(site: Site, traced: Traced) -> Node | None:
    """The condition under which ``site`` leaves and matters; None if it depends on scores."""
    program = traced.program
    found = []
    for root, kept in ((program.mask, None), (program.score, program.mask)):
        if root is None or all(node is not site.node for node in walk(root)):
            continue
        fault = guard(root, [site], frozenset()).fault
        if fault is not None:
            found.append(fault if kept is None else Apply("and", (kept, fault), BOOL))
    where = reduce(lambda a, b: Apply("or", (a, b), BOOL), found)
    reads = {node.name for node in walk(where) if isinstance(node, Input)}
    return None if "score" in reads else where


Box = tuple[int, int, int, int, int, int]


def _boxes(
    where: Node, traced: Traced, problem: Problem, captures: Sequence[Tensor]
) -> Iterator[Box]:
    """(b, h, first query, first key, queries, keys) of the tiles in which ``where`` may hold."""
    block = max(1, cdiv(problem.M, TILES)), max(1, cdiv(problem.N, TILES))
    arrays = [as_array(tensor, traced.program.compute) for tensor in captures]
    shape = (problem.B, problem.Hq, problem.M, problem.N)
    asked = Question(where, None, arrays, _numbers(traced), shape, block)
    for b, h, row, col in np.argwhere(classify_tiles(asked).classes != 0).tolist():
        q, kv = row * block[0], col * block[1]
        yield b, h, q, kv, min(block[0], problem.M - q), min(block[1], problem.N - kv)


def _numbers(traced: Traced) -> dict[str, int | float]:
    bound = traced.bound
    ints, floats = iter(bound.ints), iter(bound.floats)
    kinds = enumerate(traced.program.numbers)
    return {f"n{i}": next(ints) if kind == I64 else next(floats) for i, kind in kinds}


def _first(where: Node, traced: Traced, captures: Sequence[Tensor], box: Box) -> Box | None:
    """The first pair of ``box`` for which ``where`` holds, as a box of one pair."""
    b, h, q, kv, rows, cols = box
    for start in range(q, q + rows, max(1, (1 << 18) // cols)):
        stop = min(q + rows, start + max(1, (1 << 18) // cols))
        env: dict[str, Tensor] = {
            "b": torch.tensor(b),
            "h": torch.tensor(h),
            "q_idx": torch.arange(start, stop).unsqueeze(-1),
            "kv_idx": torch.arange(kv, kv + cols),
        }
        env |= {name: torch.tensor(value) for name, value in _numbers(traced).items()}
        held = evaluate(where, env, captures, traced.program.compute, on_fault="safe")
        at = held.expand(stop - start, cols).nonzero()
        if len(at):
            row, col = at[0].tolist()
            return b, h, start + row, kv + col, 1, 1
    return None


def _said(site: Site, traced: Traced, captures: Sequence[Tensor], at: Box) -> str:
    names = ("b", "h", "q_idx", "kv_idx")
    env = {name: torch.tensor(value) for name, value in zip(names, at)}
    env |= {name: torch.tensor(value) for name, value in _numbers(traced).items()}
    index = int(evaluate(site.operand, env, captures, traced.program.compute, on_fault="safe"))
    assert isinstance(site.node, Load)
    size = captures[site.node.capture].shape[site.dim]
    place = ", ".join(f"{name}={value}" for name, value in zip(names, at))
    return f"leaves at {place}: index {index} of {size}"


def _name(site: Site) -> str:
    assert isinstance(site.node, Load)
    return f"capture{site.node.capture}, index {site.dim}"
