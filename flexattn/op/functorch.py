"""vmap rules of the operators: the mapped dimension becomes part of the batch.

N mapped calls of batch size B are one call of batch size N·B, item ``n·B + b``. A program that
reads its batch index sees ``b % B``, and a captured tensor that differs from sample to sample
gets a first dimension, read at ``b // B``. B travels as a lifted number, so that no batch size
makes a kernel of its own. Nothing is computed in a loop, and what is shared stays shared,
except that the backward gives every sample a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.ir.nodes import I64, Apply, Input, Load, Node, rewrite, walk
from flexattn.ir.printer import parse_program, print_program
from flexattn.ir.program import CaptureType, Program
from flexattn.op.operators import LIBRARY, backward_op, blocks_op, forward_op

Dim: TypeAlias = int | None


def fold_program(program: Program, mapped: frozenset[int]) -> Program:
    """``program`` for a folded batch, with captures ``mapped`` one dimension larger.

    Returns the same object where nothing changes, else one with a further lifted number: the
    batch size before folding.
    """
    ends = () if program.ranges is None else program.ranges.nodes
    roots = [root for root in (program.score, program.mask, *ends) if root is not None]
    reads = any(isinstance(node, Input) and node.name == "b" for node in walk(*roots))
    if not reads and not mapped:
        return program
    batch = Input("b", I64)
    size = Input(f"n{len(program.numbers)}", I64)
    sample, inner = Apply("floordiv", (batch, size), I64), Apply("mod", (batch, size), I64)

    def rule(node: Node) -> Node:
        if node is batch:
            return inner
        if isinstance(node, Load) and node.capture in mapped:
            return Load(node.capture, (sample, *node.indices), node.dtype)
        return node

    return replace(
        program,
        score=None if program.score is None else rewrite(program.score, rule),
        mask=None if program.mask is None else rewrite(program.mask, rule),
        captures=tuple(
            CaptureType(kind.dtype, kind.ndim + 1) if i in mapped else kind
            for i, kind in enumerate(program.captures)
        ),
        numbers=(*program.numbers, I64),
        ranges=None if program.ranges is None else program.ranges.map(rule),
    )


@lru_cache(maxsize=256)
def _fold_text(text: str, mapped: frozenset[int]) -> tuple[str, bool]:
    """The folded program as text, and whether it takes the batch size as its last number."""
    program = parse_program(text)
    folded = fold_program(program, mapped)
    return (text, False) if folded is program else (print_program(folded), True)


def _first(tensor: Tensor, dim: Dim, samples: int) -> Tensor:
    """``tensor`` with the mapped dimension first; a view of stride 0 where it is not mapped."""
    if dim is None:
        return tensor.unsqueeze(0).expand(samples, *tensor.shape)
    return tensor.movedim(dim, 0)


def _fold(tensor: Tensor, dim: Dim, samples: int, batch: int) -> Tensor:
    """``tensor`` (its first own dimension is ``batch`` or 1) as ``[samples * batch, …]``.

    What is the same for the whole batch and all samples keeps a first dimension of 1.
    """
    if dim is None and tensor.shape[0] == 1:
        return tensor
    tensor = _first(tensor, dim, samples)
    return tensor.expand(-1, batch, *tensor.shape[2:]).flatten(0, 1)


def _unfold(tensor: Tensor, samples: int, batch: int) -> Tensor:
    return tensor.unflatten(0, (samples, batch))


class _Folded:
    """Program, captures, tables and numbers of a mapped call."""

    def __init__(
        self,
        samples: int,
        batch: int,
        captures: tuple[Sequence[Tensor], Sequence[Dim]],
        tables: tuple[Sequence[Tensor], Sequence[Dim]],
        program: str,
        ints: Sequence[int],
        apart: Sequence[int] = (),
    ) -> None:
        """``apart`` are captures to be treated as mapped though they are shared."""
        dims = captures[1]
        mapped = frozenset(i for i, dim in enumerate(dims) if dim is not None or i in apart)
        self.captures = [
            _first(tensor, dim, samples) if i in mapped else tensor
            for i, (tensor, dim) in enumerate(zip(*captures))
        ]
        self.tables = [_fold(tensor, dim, samples, batch) for tensor, dim in zip(*tables)]
        if len({table.shape[0] for table in self.tables}) > 1:
            self.tables = [table.expand(samples * batch, *table.shape[1:]) for table in self.tables]
        self.program, takes_batch = _fold_text(program, mapped)
        self.ints = [*ints, batch] if takes_batch else list(ints)


def _forward_rule(
    info: Any,
    dims: Sequence[Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    captures: Sequence[Tensor],
    tables: Sequence[Tensor],
    program: str,
    ints: Sequence[int],
    floats: Sequence[float],
    scale: float,
    options: str,
) -> tuple[Any, Any]:
    samples = info.batch_size
    batch = _own_shape(query, dims[0])[0]
    folded = _Folded(samples, batch, (captures, dims[3]), (tables, dims[4]), program, ints)
    query = _first(query, dims[0], samples).flatten(0, 1)
    key, value = _fold_pair(key, value, dims[1:3], samples, batch)
    out, lse, max_scores = forward_op(
        *(query, key, value, folded.captures, folded.tables, folded.program),
        *(folded.ints, floats, scale, options),
    )
    return _unfold_stats(out, lse, max_scores, samples, batch)


def _unfold_stats(
    out: Tensor, lse: Tensor, max_scores: Tensor, samples: int, batch: int
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Dim, Dim, Dim]]:
    # What was not asked for is empty and one-dimensional, for all samples alike.
    lse_dim, max_dim = (0 if stat.ndim == 3 else None for stat in (lse, max_scores))
    return (
        _unfold(out, samples, batch),
        lse if lse_dim is None else _unfold(lse, samples, batch),
        max_scores if max_dim is None else _unfold(max_scores, samples, batch),
    ), (0, lse_dim, max_dim)


def _own_shape(tensor: Tensor, dim: Dim) -> tuple[int, ...]:
    """The shape one sample sees."""
    shape = list(tensor.shape)
    if dim is not None:
        del shape[dim]
    return tuple(shape)


def _fold_pair(
    key: Tensor, value: Tensor, dims: Sequence[Dim], samples: int, batch: int
) -> tuple[Tensor, Tensor]:
    """key and value for the folded batch: both shared by all of it, or neither."""
    folded = [_fold(t, dim, samples, batch) for t, dim in zip((key, value), dims)]
    key, value = (
        (t.expand(samples * batch, *t.shape[1:]) for t in folded)
        if (folded[0].shape[0] != folded[1].shape[0])
        else folded
    )
    return key, value


def _backward_rule(
    info: Any,
    dims: Sequence[Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    captures: Sequence[Tensor],
    tables: Sequence[Tensor],
    program: str,
    grads: Sequence[int],
    ints: Sequence[int],
    floats: Sequence[float],
    scale: float,
    options: str,
) -> tuple[Any, Any]:
    samples = info.batch_size
    batch = _own_shape(query, dims[0])[0]
    folded = _Folded(samples, batch, (captures, dims[7]), (tables, dims[8]), program, ints, grads)
    rows = [
        _first(tensor, dim, samples).flatten(0, 1)
        for tensor, dim in zip((query, out, lse, grad_out), (dims[0], *dims[3:6]))
    ]
    if grad_lse is not None:
        grad_lse = _first(grad_lse, dims[6], samples).flatten(0, 1)
    # Every sample has gradients of its own, so keys shared by several are repeated for them.
    shared = _own_shape(key, dims[1])[0] != batch
    key, value = (
        _first(t, dim, samples).expand(-1, batch, -1, -1, -1).flatten(0, 1)
        for t, dim in zip((key, value), dims[1:3])
    )
    grad_query, grad_key, grad_value, grad_captures = backward_op(
        *(rows[0], key, value, *rows[1:], grad_lse, folded.captures, folded.tables),
        *(folded.program, grads, folded.ints, floats, scale, options),
    )
    grad_key, grad_value = _unfold(grad_key, samples, batch), _unfold(grad_value, samples, batch)
    if shared:
        grad_key, grad_value = grad_key.sum(1, keepdim=True), grad_value.sum(1, keepdim=True)
    result = (_unfold(grad_query, samples, batch), grad_key, grad_value, list(grad_captures))
    return result, (0, 0, 0, [0] * len(grad_captures))


def _blocks_rule(
    info: Any,
    dims: Sequence[Any],
    captures: Sequence[Tensor],
    program: str,
    ints: Sequence[int],
    floats: Sequence[float],
    batch: int,
    *rest: Any,
) -> tuple[Any, Any]:
    samples = info.batch_size
    folded = _Folded(samples, batch, (captures, dims[0]), ((), ()), program, ints)
    tables = blocks_op(folded.captures, folded.program, folded.ints, floats, samples * batch, *rest)
    return [_unfold(table, samples, batch) for table in tables], [0] * len(tables)


for _name, _rule in (
    ("forward", _forward_rule),
    ("backward", _backward_rule),
    ("blocks", _blocks_rule),
):
    torch.library.register_vmap(f"flexattn::{_name}", _rule, lib=LIBRARY)
