"""A program: the two mods of one attention call as graphs over one list of captures and numbers.

It is what kernels are generated from, what they are keyed by, and, as text, what the torch
operators carry, so that another process can run an exported call (`ir/printer.py`:
``print_program`` and its inverse ``parse_program``).
"""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.ir.nodes import DType, Node


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
class Program:
    """Score and mask of one call.

    Attributes:
        score: Root of the score_mod (dtype ``compute``), or None for the score unchanged.
        mask: Root of the mask_mod (dtype bool), or None for "keep all".
        captures: One entry per captured tensor, in the order of the run-time list.
        numbers: dtype of each lifted number (``i64`` or ``compute``): ``Input("n0")``, ….
        compute: ``f32``, or ``f64`` for float64 inputs.
    """

    score: Node | None
    mask: Node | None
    captures: tuple[CaptureType, ...] = ()
    numbers: tuple[DType, ...] = ()
    compute: DType = "f32"
