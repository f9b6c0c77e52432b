"""Random masks of the kinds that have closed forms, from a seeded generator."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node

B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))
LENGTH = 80  # positions of masks, at most
BEYOND = 40  # entries of tables that only an offset reaches
ASCENDING, PER_BATCH, RUN, LOOSE, FLAGS = range(5)
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def captures(seed: int) -> list[Tensor]:
    """Ascending ids, ids per batch, one run of true entries, loose numbers, loose flags."""
    g = torch.Generator().manual_seed(seed)
    size = LENGTH + BEYOND
    gaps = torch.randint(0, 3, (size,), generator=g) * (torch.rand(size, generator=g) < 0.3)
    ids = gaps.cumsum(0) - int(torch.randint(0, 4, (1,), generator=g))
    batch = (torch.rand(3, size, generator=g) < 0.15).cumsum(1)
    start = int(torch.randint(0, 60, (1,), generator=g))
    run = (torch.arange(size) >= start) & (torch.arange(size) < start + 30)
    loose = torch.randint(-9, LENGTH, (size,), generator=g)
    flags = torch.rand(size, generator=g) < 0.7
    kinds = (torch.int64, torch.int32)[seed % 2]
    return [ids.to(kinds), batch, run, loose, flags]


class Maker:
    """Draws masks; numbers they read are collected in ``numbers``."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.numbers: list[int] = []

    def number(self, low: int, high: int) -> Node:
        """A whole number, built in or an input."""
        value = self.draw.randint(low, high)
        if self.draw.random() < 0.5:
            return Const(value, I64)
        self.numbers.append(value)
        return Input(f"n{len(self.numbers) - 1}", I64)

    def mask(self, depth: int = 2) -> Node:
        kind = self.draw.random()
        if depth == 0 or kind < 0.35:
            return self.literal()
        if kind < 0.8:
            op = self.draw.choice(("and", "and", "or"))
            return Apply(op, (self.mask(depth - 1), self.mask(depth - 1)), BOOL)
        if kind < 0.88:
            return Apply("not", (self.mask(depth - 1),), BOOL)
        if kind < 0.94:
            parts = (self.literal(), self.mask(depth - 1), self.mask(depth - 1))
            return Apply("where", parts, BOOL)
        return Apply(self.draw.choice(("xor", "eq", "ne")), (self.literal(), self.literal()), BOOL)

    def literal(self) -> Node:
        kind = self.draw.random()
        if kind < 0.08:
            return Load(RUN, (self.place(KV),), BOOL)
        if kind < 0.14:
            return Load(FLAGS, (self.place(Q),), BOOL)
        op = self.draw.choice(COMPARISONS)
        if kind < 0.22:
            left = Apply("mod", (self.both(), self.number(1, self.draw.choice((9, 40)))), I64)
            return Apply(op, (left, self.number(0, 9)), BOOL)
        a, b = self.side(), self.of_q()
        if self.draw.random() < 0.5:
            a, b = b, a
        return Apply(op, (a, b), BOOL)

    def both(self) -> Node:
        """A sum in which the key stands alone."""
        q = self.draw.choice((Q, Const(0, I64)))
        op = self.draw.choice(("add", "sub"))
        return Apply(op, (KV, q) if self.draw.random() < 0.5 else (q, KV), I64)

    def place(self, position: Node) -> Node:
        """Where a table is read: at the position, or beyond what positions reach."""
        if self.draw.random() < 0.7:
            return position
        return Apply("add", (position, self.number(0, BEYOND)), I64)

    def side(self) -> Node:
        """A number in which the key can be solved for."""
        kind = self.draw.random()
        if kind < 0.3:
            return KV
        if kind < 0.4:
            return self.both()
        if kind < 0.5:
            return Load(ASCENDING, (self.place(KV),), I64)
        if kind < 0.57:
            return Load(PER_BATCH, (B, self.place(KV)), I64)
        inner = self.side()
        op = self.draw.choice(
            ("floordiv", "mul", "add", "sub", "neg", "abs", "minimum", "maximum", "where", "shr")
        )
        if op in ("neg", "abs"):
            return Apply(op, (inner,), I64)
        if op == "where":
            return Apply(op, (self.literal(), inner, self.of_q()), I64)
        if op in ("minimum", "maximum"):
            return Apply(op, (inner, self.of_q()), I64)
        if op == "shr":
            return Apply(op, (inner, Const(self.draw.randint(0, 3), I64)), I64)
        low = 1 if op == "floordiv" else -3 if op == "mul" else -20
        return Apply(op, (inner, self.number(low, 20)), I64)

    def of_q(self) -> Node:
        """A number that does not read the key."""
        kind = self.draw.random()
        if kind < 0.4:
            return Q
        if kind < 0.55:
            return self.number(-5, 70)
        if kind < 0.65:
            return Load(self.draw.choice((ASCENDING, LOOSE)), (self.place(Q),), I64)
        if kind < 0.72:
            return Load(PER_BATCH, (B, self.place(Q)), I64)
        inner = self.of_q()
        op = self.draw.choice(("floordiv", "mod", "mul", "add", "sub", "minimum", "maximum", "neg"))
        if op == "neg":
            return Apply(op, (inner,), I64)
        if op in ("minimum", "maximum"):
            return Apply(op, (inner, self.number(-5, 60)), I64)
        low = 1 if op in ("floordiv", "mod") else -3
        return Apply(op, (inner, self.number(low, 20)), I64)


BLOCKS = ((16, 16), (8, 24), (5, 7), (32, 8), (80, 80), (1, 1))


@dataclass(frozen=True)
class Drawn:
    """A mask with all that a call needs."""

    root: Node
    captures: list[Tensor]
    numbers: list[int]
    shape: tuple[int, int, int, int]
    solved: str
    block: tuple[int, int]


def drawn(seed: int) -> Drawn:
    """The mask of a seed."""
    maker, draw = Maker(seed), random.Random(seed)
    root = maker.mask()
    shape = (draw.choice((1, 3)), 1, draw.randint(1, LENGTH), draw.randint(1, LENGTH))
    solved = draw.choice(("kv_idx", "kv_idx", "q_idx"))
    return Drawn(root, captures(seed % 17), maker.numbers, shape, solved, draw.choice(BLOCKS))
