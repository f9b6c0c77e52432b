"""What one attention call computes, as plain values: the hand-over to every backend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.op.outputs import gradient_strides
from flexattn.op.programs import Bound

COMPUTE = {"f32": torch.float32, "f64": torch.float64}

Position: TypeAlias = tuple[int, int, int, int]
KernelOptions: TypeAlias = tuple[tuple[str, Any], ...]
Outputs: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor]]


@dataclass(slots=True)
class Call:
    """The forward.

    Attributes:
        bound: The program with its captures and numbers.
        tables: ``[]`` (every block is partial), ``[kv_num_blocks, kv_indices]`` or those two and
            ``full_kv_num_blocks, full_kv_indices``: int32, ``[B|1, Hq|1, rows(, cols)]``.
            Of a program with ranges ``[]``: these tell (`op/ranges.py`).
        block: Queries and keys per block.
        scale: Factor on the dot products.
        backend: A key of ``call.BACKENDS``.
        lse: Whether the log-sum-exp is wanted.
        max_scores: Whether the row maxima are wanted.
        deterministic: Whether gradients of captured tensors must repeat bit by bit.
        kernel: Options of ``kernel_options`` that the backend reads, sorted by name.
        differentiated: Whether a backward follows. It computes the scores again, and must find
            those that ``lse`` was made of: a forward that sums products in another order, as
            decoding kernels do, is then no choice.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bound: Bound
    tables: Sequence[Tensor]
    block: tuple[int, int]
    scale: float
    backend: str
    lse: bool
    max_scores: bool
    deterministic: bool = False
    kernel: KernelOptions = ()
    differentiated: bool = False

    def without_tensors(self) -> Call:
        """The same call on no tensors, for a node that saves those as autograd wants it."""
        none: Any = None
        return Call(
            none,
            none,
            none,
            self.bound.replace_captures([]),
            self.tables,
            self.block,
            self.scale,
            self.backend,
            self.lse,
            self.max_scores,
            self.deterministic,
            self.kernel,
            self.differentiated,
        )

    def options(self) -> str:
        """What the torch operators carry as ``options``."""
        flags = (self.lse, self.max_scores, self.deterministic, self.differentiated)
        return _options_text(self.backend, tuple(self.block), flags, self.kernel)


@dataclass(slots=True)
class Saved:
    """What the backward takes beside the call.

    Attributes:
        lse: ``[B, Hq, M]`` log-sum-exp of the forward, in the compute dtype.
        grad_out: Gradient of ``out``, any strides.
        grad_lse: Gradient of ``lse``, or None for zero.
        inputs: Whether query, key and value are to receive a gradient.
        captures: Numbers of the captures that are to receive one.
    """

    out: Tensor
    lse: Tensor
    grad_out: Tensor
    grad_lse: Tensor | None
    inputs: tuple[bool, bool, bool]
    captures: tuple[int, ...]


_strides = lru_cache(maxsize=1024)(gradient_strides)


def empty_gradient(tensor: Tensor) -> Tensor:
    """Uninitialised memory for the gradient of ``tensor``: its dtype, and strides as autograd's."""
    return torch.empty_strided(
        tensor.shape,
        _strides(tensor.shape, tensor.stride()),
        dtype=tensor.dtype,
        device=tensor.device,
    )


def as_gradient(grad: Tensor, tensor: Tensor) -> Tensor:
    """``grad`` in the dtype and layout that autograd expects for ``tensor``."""
    strides = _strides(tensor.shape, tensor.stride())
    if grad.dtype == tensor.dtype and grad.stride() == strides:
        return grad
    return empty_gradient(tensor).copy_(grad)


@lru_cache(maxsize=256)
def _options_text(
    backend: str, block: tuple[int, int], flags: tuple[bool, ...], kernel: KernelOptions
) -> str:
    lse, max_scores, deterministic, differentiated = flags
    options: dict[str, Any] = {"backend": backend, "block": block, "lse": lse, "max": max_scores}
    if deterministic:
        options["deterministic"] = True
    if differentiated:
        options["differentiated"] = True
    if kernel:
        options["kernel"] = kernel
    return json.dumps(options, sort_keys=True, separators=(",", ":"))
