"""Checks that the parts of a BlockMask fit together, before a kernel trusts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from flexattn.errors import ArgumentError, BlockMaskError
from flexattn.masks.tables import Pair, cdiv, to_listed

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


MOST = 1 << 31
"""Positions and sizes are counted in 32 bits."""


def device(value: Any) -> torch.device:
    """A device by its name."""
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(
            f"device is {value!r}.",
            why=f"{str(error).strip().splitlines()[0]}.",
            fix="pass a name that torch.device knows, such as 'cpu' or 'cuda:0'.",
        ) from error


def block_size(value: Any, name: str = "BLOCK_SIZE") -> tuple[int, int]:
    """``BLOCK_SIZE`` as (queries, keys) of one block."""
    sizes = value if isinstance(value, tuple | list) else (value, value)
    if len(sizes) != 2 or not all(_is_int(size) and size >= 1 and _fits(size) for size in sizes):
        raise BlockMaskError(
            f"{name} is {value!r}.",
            why="it counts at least one query and one key, and fewer than 2**31.",
            fix="pass an int, or two: for queries and for keys, each 1 or more.",
        )
    return int(sizes[0]), int(sizes[1])


def lengths(value: Any) -> tuple[int, int]:
    """``seq_lengths`` as (Q_LEN, KV_LEN)."""
    good = isinstance(value, tuple | list | torch.Size) and len(value) == 2
    if not good or not all(_is_int(length) and length >= 0 and _fits(length) for length in value):
        raise BlockMaskError(
            f"seq_lengths is {value!r}.",
            why="a mask covers a number of queries and a number of keys, each below 2**31.",
            fix="pass two ints of 0 or more: (Q_LEN, KV_LEN).",
        )
    return value[0], value[1]


def pair(counts: Any, indices: Any, name: str) -> Pair:
    """A table pair as int32 with dimensions [B, H, rows] and [B, H, rows, width]."""
    for table, label in ((counts, f"{name}_num_blocks"), (indices, f"{name}_indices")):
        if not isinstance(table, Tensor):
            raise BlockMaskError(
                f"{label} is {type(table).__name__}.",
                why="block lists are tensors.",
                fix=f"pass {label} as an int32 tensor.",
            )
        if table.dtype not in _INTEGERS:
            raise BlockMaskError(
                f"{label} has dtype {table.dtype}.",
                why="block lists hold numbers of blocks.",
                fix=f"pass {label}.to(torch.int32).",
            )
    if not 2 <= indices.ndim <= 4 or indices.shape[:-1] != counts.shape:
        raise BlockMaskError(
            f"{name}_num_blocks has shape {tuple(counts.shape)} and {name}_indices "
            f"{tuple(indices.shape)}.",
            why="each row of blocks has one count and one list of columns.",
            fix="pass [B, H, rows] and [B, H, rows, width], with B and H 1 for a shared mask.",
        )
    if counts.device != indices.device:
        raise BlockMaskError(
            f"{name}_num_blocks lies on {counts.device} and {name}_indices on {indices.device}.",
            why="one kernel reads both.",
            fix="move them to one device.",
        )
    missing = (1,) * (4 - indices.ndim)
    return (
        counts.to(torch.int32).reshape(*missing, *counts.shape) if missing else counts.int(),
        indices.to(torch.int32).reshape(*missing, *indices.shape) if missing else indices.int(),
    )


def same_frame(partial: Pair, full: Pair) -> tuple[Pair, Pair]:
    """Both pairs with one B and one H, expanded where one has 1."""
    shapes = [tuple(p[0].shape) for p in (partial, full)]
    fits = shapes[0][2] == shapes[1][2] and all(
        a == b or 1 in (a, b) for a, b in zip(shapes[0][:2], shapes[1][:2])
    )
    if not fits or partial[0].device != full[0].device:
        raise BlockMaskError(
            f"kv_num_blocks is {shapes[0]} on {partial[0].device}, full_kv_num_blocks "
            f"{shapes[1]} on {full[0].device}.",
            why="both lists describe the same rows of blocks.",
            fix="give both the same B, H, number of rows and device.",
        )
    batch, heads = (
        max(a, b) if 0 not in (a, b) else 0 for a, b in zip(shapes[0][:2], shapes[1][:2])
    )
    first, second = (
        (counts.expand(batch, heads, -1), indices.expand(batch, heads, -1, -1))
        for counts, indices in (partial, full)
    )
    return first, second


def rows_fit(rows: int, q_len: int, block: int) -> None:
    """Raise unless ``q_len`` queries fill ``rows`` blocks."""
    if rows != cdiv(q_len, block):
        raise BlockMaskError(
            f"the mask has {rows} rows of blocks, and {q_len} queries in blocks of {block} "
            f"make {cdiv(q_len, block)}.",
            why="each block of queries needs its row.",
            fix="pass seq_lengths that fit the tables, or slice the mask first: mask[:, :, rows].",
        )


def values_fit(partial: Pair, full: Pair | None, cols: int) -> None:
    """Raise unless counts, columns and the two lists are possible for ``cols`` columns.

    On an accelerator this waits for the tables. Tables without values (of torch.compile's
    fake tensors) pass.
    """
    lists = [("kv", partial)] + ([] if full is None else [("full_kv", full)])
    if any(not has_values(table) for _, tables in lists for table in tables):
        return
    listed = []
    for name, (counts, indices) in lists:
        width = indices.shape[-1]
        counts_bad = (counts < 0) | (counts > width)
        _refuse(counts_bad, counts, f"{name}_num_blocks", f"its list of columns has {width}")
        valid = torch.arange(width, device=counts.device) < counts.unsqueeze(-1)
        outside = valid & ((indices < 0) | (indices >= cols))
        _refuse(outside, indices, f"{name}_indices", f"the mask has {cols} columns of blocks")
        blocks = to_listed((counts, indices), cols)
        twice = blocks.sum(-1) != counts
        _refuse(twice, counts, f"{name}_num_blocks", "a row lists one column more than once")
        listed.append(blocks)
    if len(listed) == 2 and bool((both := listed[0] & listed[1]).any()):
        where = tuple(both.nonzero()[0].tolist())
        raise BlockMaskError(
            f"block {where} (b, h, row, column) is listed as partial and as full.",
            why="its keys would be attended to twice.",
            fix="name it in kv_indices or in full_kv_indices, not in both.",
        )


def _refuse(bad: Tensor, table: Tensor, name: str, why: str) -> None:
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        raise BlockMaskError(
            f"{name}{where} is {int(table[tuple(where)])}.",
            why=f"{why}.",
            fix="correct the tables, or pass the seq_lengths and BLOCK_SIZE they were made for.",
        )


def has_values(table: Tensor) -> bool:
    """Whether ``table`` holds numbers that Python may read: not under a tracer or a transform."""
    return not (
        torch.compiler.is_dynamo_compiling()
        or isinstance(table, FakeTensor)
        or table.device.type == "meta"
        or torch._C._functorch.is_functorch_wrapped_tensor(table)
        or torch._is_functional_tensor(table)
    )


def _fits(value: int | torch.SymInt) -> bool:
    return isinstance(value, torch.SymInt) or value < MOST  # no guard on what is not known yet


def _is_int(value: object) -> bool:
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def all_none(values: Sequence[object], names: Sequence[str]) -> None:
    """Raise if one of PyTorch's write-order fields is given."""
    for value, name in zip(values, names):
        if value is not None:
            raise BlockMaskError(
                f"{name} is given.",
                why="gradients here are repeatable without a write order, so none is kept.",
                fix=f"leave {name} out.",
            )
