"""A program: the two mods of one attention call as graphs over one list of captures and numbers.

It is what kernels are generated from, what they are keyed by, and, as text, what the torch
operators carry, so that another process can run an exported call (`ir/printer.py`:
``print_program`` and its inverse ``parse_program``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from flexattn.ir.nodes import DType, Node, rewrite

Piece: TypeAlias = tuple[Node, Node]

MAX_PIECES = 4
"""Kernels hold the ends of all pieces in registers."""


@dataclass(frozen=True)
class CaptureType:
    """What a kernel must know of a captured tensor when it is generated.

    Attributes:
        dtype: Storage dtype: bool u8 i8 i16 i32 i64 bf16 f16 f32 f64. A ``Load`` widens it:
            floats to the program's compute dtype, integers to i64.
        ndim: Number of dimensions; sizes and strides are run-time arguments.
    """

    dtype: str
    ndim: int


@dataclass(frozen=True)
class Ranges:
    """What a mask keeps, as ranges, from which kernels read which blocks to visit.

    A pair is kept only where some piece (low, high) has low <= index < high. Both ends are i64
    and never fall as the index they are given grows; they may lie outside the lengths. Their
    loads are inside the captures, and divisors positive, at every index of a call.

    Let a row of blocks hold the queries q0 … q1. A piece visits the blocks that the keys from
    low(q0) up to high(q1) lie in, and fills those that lie between low(q1) and high(q0), unless
    the row or the block reaches beyond its length. What some piece fills is full; what else some
    piece visits is partial.

    Attributes:
        rows: Of kv_idx, by ``b h q_idx``, numbers, sizes and captures.
        cols: Of q_idx, by ``b h kv_idx`` and the same; here columns of blocks take the place of
            rows.
    """

    rows: tuple[Piece, ...]
    cols: tuple[Piece, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All ends, rows first."""
        return tuple(end for piece in (*self.rows, *self.cols) for end in piece)

    def map(self, rule: Callable[[Node], Node]) -> Ranges:
        """The same with ``rule`` applied to every node, see ``nodes.rewrite``."""
        rows, cols = (
            tuple((rewrite(low, rule), rewrite(high, rule)) for low, high in pieces)
            for pieces in (self.rows, self.cols)
        )
        return Ranges(rows, cols)


@dataclass(frozen=True)
class Program:
    """Score and mask of one call.

    Attributes:
        score: Root of the score_mod (dtype ``compute``), or None for the score unchanged.
        mask: Root of the mask_mod (dtype bool), or None for "keep all".
        captures: One entry per captured tensor, in the order of the run-time list.
        numbers: dtype of each lifted number (``i64`` or ``compute``): ``Input("n0")``, ….
        compute: ``f32``, or ``f64`` for float64 inputs.
        ranges: Where the mask can keep anything, if kernels are to read it from here; then a call
            has no block lists.
    """

    score: Node | None
    mask: Node | None
    captures: tuple[CaptureType, ...] = ()
    numbers: tuple[DType, ...] = ()
    compute: DType = "f32"
    ranges: Ranges | None = None
