"""What an attention call returns: the auxiliary outputs and the memory layout of the main one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AuxRequest(NamedTuple):
    """Which auxiliary outputs to compute."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """Auxiliary outputs; None where not requested.

    Attributes:
        lse: ``[B, Hq, M]`` natural-log sum of exponentials of each row's scores, -inf for a row
            with nothing to attend. float32, or float64 for float64 inputs. Differentiable.
        max_scores: ``[B, Hq, M]`` largest modified score of each row. Not differentiable.
    """

    lse: Tensor | None = None
    max_scores: Tensor | None = None


def strides_like(shape: Sequence[int], pattern: Sequence[int]) -> tuple[int, ...]:
    """Dense strides for ``shape`` in the stride order of ``pattern``, the last dimension innermost.

    This is the layout PyTorch's flex_attention gives its output, with the query's strides as
    the pattern. Of equal strides the later dimension is the inner one.
    """
    last = len(shape) - 1
    order = sorted(range(last), key=lambda dim: (pattern[dim], -dim))
    strides = [1] * len(shape)
    step = shape[last]
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def empty_like_query(query: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor of ``shape`` in the query's dtype, device and stride order."""
    return torch.empty_strided(
        tuple(shape), strides_like(shape, query.stride()), dtype=query.dtype, device=query.device
    )


def dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides autograd gives the gradient of ``tensor``.

    They are the tensor's own where it is dense and does not overlap itself, else contiguous ones.
    """
    return gradient_strides(tensor.shape, tensor.stride())


def gradient_strides(shape: Sequence[int], strides: tuple[int, ...]) -> tuple[int, ...]:
    """``dense_strides`` of a tensor of ``shape`` and ``strides``; they may be symbolic."""
    step = 1
    for dim in sorted(range(len(shape)), key=lambda dim: strides[dim]):
        if shape[dim] == 1:
            continue
        if strides[dim] != step:
            return torch.empty(shape, device="meta").stride()
        step *= shape[dim]
    return strides
