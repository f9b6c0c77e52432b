"""Captured tensors and lifted numbers as arguments of Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexattn.ir.nodes import I64
from flexattn.op.programs import Bound
from flexattn.op.triton_tables import moved_to


def captures_on(bound: Bound, device: torch.device) -> list[Tensor]:
    """The captured tensors as kernels can read them: on ``device``, values in memory.

    One without dimensions may lie on the CPU. For an empty one, of which kernels may read
    element 0 in places that do not count, there is a zero.
    """
    found = []
    for tensor in bound.captures:
        if tensor.device != device:
            tensor = moved_to(tensor, device)
        if tensor.is_neg():
            tensor = tensor.resolve_neg()
        found.append(tensor.detach())
    return found


def capture_arguments(bound: Bound, captures: Sequence[Tensor]) -> tuple[Any, ...]:
    """The kernels' argument ``captures``: address, sizes and strides of each, then the numbers."""
    values: list[Any] = []
    for tensor in captures:
        shape = tensor.shape
        if 0 in shape:
            tensor = tensor.new_zeros([max(1, size) for size in shape])
        if tensor.dtype == torch.bool:
            tensor = tensor.view(torch.uint8)
        values.append(tensor)
        values += shape
        values += tensor.stride()
    kinds = bound.variant.program.numbers
    if kinds:
        ints, floats = iter(bound.ints), iter(bound.floats)
        values += [next(ints) if kind == I64 else next(floats) for kind in kinds]
    return tuple(values)


def choices_of_captures(captures: Sequence[Tensor]) -> tuple[tuple[bool, ...], bool]:
    """``dense_captures`` and ``far`` of ``Choices``."""
    return tuple(map(_is_dense, captures)), any(map(_is_far, captures))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and (tensor.stride(-1) == 1 or tensor.shape[-1] <= 1)


def _is_far(tensor: Tensor) -> bool:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return max(reach, *tensor.shape, 0) >= 1 << 31 if tensor.ndim else False
