"""The problem a report speaks of: mods traced at one shape, with their program and facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from flexattn.errors import ArgumentError
from flexattn.ir.interpreter import compute_dtype
from flexattn.ir.nodes import Node
from flexattn.ir.program import Program
from flexattn.op.kernels import Facts, facts_of
from flexattn.op.programs import STORAGE, Bound, bind
from flexattn.trace import trace_mod

Mod = Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """Shapes of one call: ``q[B, Hq, M, D]``, ``k[B, Hkv, N, D]``, ``v[B, Hkv, N, Dv]``."""

    B: int
    Hq: int
    Hkv: int
    M: int
    N: int
    D: int
    Dv: int
    dtype: torch.dtype

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        return self.B, self.Hq, self.M, self.N


@dataclass(frozen=True)
class Traced:
    """Both mods at one problem.

    Attributes:
        bound: The program with its captures and numbers.
        facts: What is proved for the problem's lengths.
        locations: Source line of each node.
        name: The mods' own names.
    """

    bound: Bound
    facts: Facts
    locations: dict[Node, str]
    name: str

    @property
    def program(self) -> Program:
        return self.bound.variant.program


def make_problem(
    B: int,
    H: int,
    Q_LEN: int,
    KV_LEN: int | None,
    D: int,
    Dv: int | None,
    Hkv: int | None,
    dtype: torch.dtype,
) -> Problem:
    """A problem with what was left out filled in: square, as many key heads, Dv = D."""
    Hkv = H if Hkv is None else Hkv
    if H < 1 or Hkv < 1 or H % Hkv:
        raise ArgumentError(
            f"{H} query heads do not share {Hkv} key heads evenly.",
            why="each key head serves H / Hkv query heads.",
            fix="make H a multiple of Hkv.",
        )
    if dtype not in STORAGE or not dtype.is_floating_point:
        raise ArgumentError(
            f"dtype {dtype} is not one that attention is built for.",
            why="query, key and value are float32, bfloat16, float16 or float64.",
            fix="pass dtype=torch.float32, for instance.",
        )
    KV_LEN = Q_LEN if KV_LEN is None else KV_LEN
    return Problem(B, H, Hkv, Q_LEN, KV_LEN, D, D if Dv is None else Dv, dtype)


def trace(score_mod: Mod | None, mask_mod: Mod | None, problem: Problem) -> Traced:
    """Trace the mods as a call of this problem would."""
    compute = compute_dtype(problem.dtype)
    score = trace_mod(score_mod, "score", compute=compute) if score_mod is not None else None
    mask = trace_mod(mask_mod, "mask", compute=compute) if mask_mod is not None else None
    bound = bind(score, mask, compute)
    locations: dict[Node, str] = {}
    for traced in (score, mask):
        if traced is not None:
            locations |= traced.locations
    names = [getattr(mod, "__name__", type(mod).__name__) for mod in (score_mod, mask_mod) if mod]
    return Traced(bound, facts_of(bound, problem.lengths), locations, " + ".join(names) or "noop")
