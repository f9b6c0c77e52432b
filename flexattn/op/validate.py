"""Checks the arguments of one attention call, so that nothing wrong reaches a kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import (
    ArgumentError,
    BlockMaskDeviceError,
    BlockMaskError,
    HeadCountError,
    InputDeviceError,
    InputDtypeError,
    LayoutError,
    MixedDtypeError,
    ShapeError,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WHOLE_SEQUENCE = 1 << 30  # PyTorch's block size for "one block holds everything"


def check_inputs(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    """Raise the fitting error unless the three fit together."""
    if _fit(query, key, value):
        return
    _check_kinds(query, key, value)
    _check_dtypes(query, key, value)
    _check_shapes(query, key, value)
    _check_heads(query, key, enable_gqa)


def _fit(query: Any, key: Any, value: Any) -> bool:
    """A quick yes for the usual call; anything else is looked at check by check."""
    try:
        batch, heads, _, dim = query.shape
        kv_shape, dtype, device = key.shape, query.dtype, query.device
        return bool(
            kv_shape[:2] == (batch, heads)
            and value.shape[:3] == kv_shape[:3]
            and len(value.shape) == 4
            and kv_shape[3] == dim > 0 < value.shape[3]
            and dtype in DTYPES
            and dtype is key.dtype is value.dtype
            and device == key.device == value.device
            and not (query.is_nested or key.is_nested or value.is_nested)
            and query.layout is key.layout is value.layout is torch.strided
        )
    except (AttributeError, ValueError, IndexError):
        return False


def _check_kinds(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"{name} is of type {type(tensor).__name__}.",
                why="query, key and value are tensors of shape [B, H, length, head dim].",
                fix=f"pass a torch tensor as {name}.",
            )
        if tensor.is_nested or tensor.layout is not torch.strided:
            raise LayoutError(
                f"{name} is a {'nested' if tensor.is_nested else tensor.layout} tensor.",
                why="the kernels read plain strided memory.",
                fix="pack the sequences into one tensor and separate them with a document mask.",
            )
        if tensor.ndim != 4:
            raise ShapeError(
                f"{name} has {tensor.ndim} dimensions: {tuple(tensor.shape)}.",
                why="query, key and value have the shape [B, H, length, head dim].",
                fix="add the missing dimensions with unsqueeze, or merge surplus ones.",
            )


def _check_dtypes(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.dtype not in DTYPES:
        raise InputDtypeError(
            f"query has dtype {query.dtype}.",
            why="attention is built for float32, bfloat16, float16 and float64.",
            fix="convert query, key and value with .to(torch.float32) or another of these.",
        )
    if key.dtype != query.dtype or value.dtype != query.dtype:
        raise MixedDtypeError(
            f"query, key and value have dtypes {query.dtype}, {key.dtype} and {value.dtype}.",
            why="one kernel reads all three in one dtype.",
            fix="convert them to one dtype, for example key.to(query.dtype).",
        )
    if key.device != query.device or value.device != query.device:
        raise InputDeviceError(
            f"query, key and value lie on {query.device}, {key.device} and {value.device}.",
            why="one kernel reads all three.",
            fix="move them to one device, for example key.to(query.device).",
        )


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    q, k, v = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    if k[:3] != v[:3]:
        raise ShapeError(
            f"key and value have shapes {k} and {v}.",
            why="each key has one value: batch, heads and length have to agree.",
            fix="give key and value the same first three dimensions.",
        )
    if q[3] != k[3]:
        raise ShapeError(
            f"query and key have head dimensions {q[3]} and {k[3]}.",
            why="a score is the dot product of a query with a key.",
            fix="project query and key to one head dimension; only value may have another.",
        )
    if q[3] == 0 or v[3] == 0:
        raise ShapeError(
            f"the head dimension is 0: query {q}, value {v}.",
            why="there is nothing to multiply or to sum.",
            fix="use a head dimension of at least 1.",
        )
    if k[0] not in (q[0], 1):
        raise ShapeError(
            f"query has batch size {q[0]}, key and value have {k[0]}.",
            why="key and value have the query's batch size, or 1 to be shared by the batch.",
            fix="expand or index key and value to the query's batch.",
        )


def _check_heads(query: Tensor, key: Tensor, enable_gqa: bool) -> None:
    heads, kv_heads = query.shape[1], key.shape[1]
    if heads == kv_heads:
        return
    if not enable_gqa:
        raise HeadCountError(
            f"query has {heads} heads, key and value have {kv_heads}.",
            why="without enable_gqa every query head has a key head of its own.",
            fix="pass enable_gqa=True to share key heads between groups of query heads.",
        )
    if kv_heads == 0 or heads % kv_heads:
        raise HeadCountError(
            f"query has {heads} heads, key and value have {kv_heads}.",
            why="with enable_gqa each key head serves the same number of query heads.",
            fix="make the number of query heads a multiple of the number of key heads.",
        )


def check_scale(scale: float | None, head_dim: int) -> float:
    """The scale to use: ``1 / sqrt(head_dim)`` for None."""
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(scale, (bool, Tensor)) or not isinstance(scale, (int, float)):
        raise ArgumentError(
            f"scale is of type {type(scale).__name__}.",
            why="it is one Python number for the whole call.",
            fix="pass float(scale), or multiply the score by a captured tensor in a score_mod.",
        )
    if not math.isfinite(scale):
        raise ArgumentError(
            f"scale is {scale}.",
            why="every score would be NaN or infinite.",
            fix="pass a finite number.",
        )
    return float(scale)


def check_flags(**flags: Any) -> None:
    """Raise ``ArgumentError`` unless each flag is True, False or None."""
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            raise ArgumentError(
                f"{name} is {value!r}.", why="it is a switch.", fix=f"pass {name}=True or False."
            )


def check_returns(return_lse: bool, return_aux: Any) -> tuple[bool, bool]:
    """Whether the caller wants (lse, max_scores)."""
    if return_aux is None:
        return bool(return_lse), False
    if return_lse:
        raise ArgumentError(
            "both return_lse and return_aux are given.",
            why="they ask for the same output in two shapes.",
            fix="drop return_lse and pass return_aux=AuxRequest(lse=True).",
        )
    if not (hasattr(return_aux, "lse") and hasattr(return_aux, "max_scores")):
        raise ArgumentError(
            f"return_aux is of type {type(return_aux).__name__}.",
            why="it names the outputs wanted beside the main one.",
            fix="pass return_aux=AuxRequest(lse=True, max_scores=True).",
        )
    return bool(return_aux.lse), bool(return_aux.max_scores)


def check_block_mask(mask: Any, query: Tensor, key: Tensor) -> None:
    """Raise the fitting error unless ``mask`` was made for these lengths, heads and device."""
    lengths = (query.shape[2], key.shape[2])
    made_for = tuple(mask.seq_lengths)
    if made_for != lengths and tuple(mask.BLOCK_SIZE) != (WHOLE_SEQUENCE, WHOLE_SEQUENCE):
        raise BlockMaskError(
            f"block_mask was made for lengths {made_for}, the call has {lengths}.",
            why="its blocks cover (Q_LEN, KV_LEN) positions, no more and no fewer.",
            fix=f"create it with Q_LEN={lengths[0]}, KV_LEN={lengths[1]}, or crop a longer one "
            f"with block_mask._adjust({lengths[0]}, {lengths[1]}).",
        )
    for dim, name, count in ((0, "batch", query.shape[0]), (1, "head", query.shape[1])):
        if mask.shape[dim] not in (1, count):
            raise BlockMaskError(
                f"block_mask has {name} dimension {mask.shape[dim]}, the query has {count}.",
                why="each dimension of a mask is 1, for a mask shared by all, or the query's.",
                fix=f"create the mask with {'B' if dim == 0 else 'H'}=None or {count}.",
            )
    if mask.device != query.device:
        raise BlockMaskDeviceError(
            f"block_mask lies on {mask.device}, the query on {query.device}.",
            why="the kernel reads both.",
            fix=f"move it with block_mask.to({str(query.device)!r}).",
        )
