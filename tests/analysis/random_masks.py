"""Random mask_mods as the text of an expression in b, h, q, k and some tables, for any seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LENGTH = 24  # of the tables; indices are clamped to it

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def tables(seed: int) -> dict[str, Tensor]:
    """What the expressions may read: ids in order, ids in none, numbers, flags, tables."""
    g = torch.Generator().manual_seed(seed)
    return {
        "IDS": (torch.rand(LENGTH, generator=g) < 0.3).cumsum(0),
        "LOOSE": torch.randint(-1, 6, (LENGTH,), generator=g).int(),
        "WIDE": torch.randint(-99, 99, (LENGTH,), generator=g),
        "SMALL": torch.randint(0, 9, (LENGTH,), generator=g).to(torch.uint8),
        "REAL": torch.randint(-9, 9, (LENGTH,), generator=g) / 4,
        "FLAGS": torch.rand(LENGTH, generator=g) < 0.3,
        "OFTEN": torch.rand(LENGTH, generator=g) < 0.8,
        "PAIRS": torch.rand(LENGTH, 9, generator=g) < 0.6,
        "PER_B": torch.randint(0, 20, (3, LENGTH), generator=g),
    }


def mod_of(text: str, names: dict[str, Tensor]) -> Callable[..., Any]:
    """The mask_mod that ``text`` is the value of."""
    scope: dict[str, Any] = {"torch": torch, **names}
    made: Callable[..., Any] = eval(f"lambda b, h, q, k: {text}", scope)
    return made


class Maker:
    """Draws expressions; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def mask(self) -> str:
        return self.bool_(self.draw.choice((1, 2, 2, 3)))

    def bool_(self, depth: int) -> str:
        draw = self.draw
        if depth == 0 or draw.random() < 0.15:
            return self.literal(draw.choice((0, 1, 1, 2)))
        kind = draw.choices(("&", "|", "~", "^", "==", "!=", "where"), (9, 7, 3, 1, 1, 1, 1))[0]
        if kind == "~":
            return f"~({self.bool_(depth - 1)})"
        parts = [f"({self.bool_(depth - 1)})" for _ in range(3 if kind == "where" else 2)]
        if kind == "where":
            return f"torch.where({', '.join(parts)})"
        return f"{parts[0]} {kind} {parts[1]}"

    def literal(self, depth: int) -> str:
        draw = self.draw
        kind = draw.choices(
            ("plain", "numbers", "one", "guard", "flag", "pairs", "real"), (6, 5, 3, 2, 2, 1, 1)
        )[0]
        op = draw.choice(COMPARISONS)
        match kind:
            case "plain":
                return f"{self.of('q', depth)} {op} {self.of('k', depth)}"
            case "numbers":
                return f"{self.int_(depth)} {op} {self.int_(depth)}"
            case "one":
                return f"{self.of(draw.choice('qk'), depth)} {op} {draw.randint(-5, 40)}"
            case "guard":
                table = draw.choice(("IDS", "LOOSE", "WIDE"))
                q, k = (f"{table}[{self.clamp(x)}]" for x in "qk")
                return f"({q} == {k}) & ({q} {op} {draw.randint(-1, 5)})"
            case "flag":
                return f"{draw.choice(('FLAGS', 'OFTEN'))}[{self.clamp(self.int_(depth))}]"
            case "pairs":
                i, j = self.of("q", depth), self.of("k", depth)
                return f"PAIRS[{self.clamp(i)}, {self.clamp(j, 9)}]"
        sides = (f"REAL[{self.clamp(self.of(x, 0))}]" for x in "qk")
        return f" {draw.choice(('<', '<=', '>', '>='))} ".join(sides)

    def of(self, index: str, depth: int) -> str:
        """An integer of one index (and b, h)."""
        return self.int_(depth, (index, index, index, "b", "h"))

    def int_(
        self, depth: int, leaves: tuple[str, ...] = ("q", "k", "q", "k", "(q - k)", "b", "h")
    ) -> str:
        draw = self.draw
        if depth == 0:
            return draw.choice(leaves)
        a = self.int_(depth - 1, leaves)
        kind = draw.choice(("number", "number", "divide", "shift", "two", "pick", "load", "sign"))
        match kind:
            case "number":
                return f"({a} {draw.choice('+-*&|^')} {draw.randint(-3, 12)})"
            case "divide":
                return f"({a} {draw.choice(('//', '%'))} {draw.choice((2, 3, 4, 5, 7, 8, 16))})"
            case "shift":
                return f"({a} {draw.choice(('<<', '>>'))} {draw.randint(0, 3)})"
            case "two":
                b = self.int_(depth - 1, leaves)
                name = draw.choice(("+", "-", "*", "minimum", "maximum", "&"))
                return f"({a} {name} {b})" if len(name) == 1 else f"torch.{name}({a}, {b})"
            case "pick":
                b = self.int_(depth - 1, leaves)
                return (
                    f"torch.where({a} {draw.choice(COMPARISONS)} {draw.randint(0, 30)}, {a}, {b})"
                )
            case "load":
                if draw.random() < 0.2:
                    return f"PER_B[b, {self.clamp(a)}]"
                # A byte would be a flag as an index.
                table = draw.choice(("IDS[{}]", "LOOSE[{}]", "WIDE[{}]", "SMALL[{}].long()"))
                return table.format(self.clamp(a))
        return draw.choice((f"(-{a})", f"abs({a})"))

    def clamp(self, index: str, length: int = LENGTH) -> str:
        return f"({index}).clamp(0, {length - 1})"
