"""Attention by the interpreter in bounded chunks of query rows: the reference of all backends.

It follows the definition and nothing else: score, score_mod, block list AND mask_mod, softmax.
Memory is bounded by ``CHUNK_ELEMENTS`` scores, never Q x KV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import I64, Const, Input, Load, Node
from flexattn.ir.program import Program
from flexattn.ir.sites import find_sites
from flexattn.op.outputs import empty_like_query
from flexattn.op.ranges import listed_blocks
from flexattn.op.request import COMPUTE, Call, Gradients, Position, Saved, as_gradient
from flexattn.passes.differentiate import gradients, score_loads
from flexattn.passes.guard import guard

CHUNK_ELEMENTS = 1 << 21


class Problem:
    """One call in the terms of its definition: index tensors, numbers and sizes by input name."""

    def __init__(self, call: Call) -> None:
        self.query, self.key, self.value = (t.detach() for t in (call.query, call.key, call.value))
        self.program: Program = call.bound.variant.program
        self.captures = [tensor.detach() for tensor in call.bound.captures]
        self.block, self.scale = call.block, call.scale
        self.dtype = COMPUTE[self.program.compute]
        self.batch, self.heads, self.rows = self.query.shape[:3]
        self.keys = self.key.shape[2]
        device = self.query.device
        self.inputs: dict[str, Tensor] = {
            "b": torch.arange(self.batch, device=device).view(-1, 1, 1, 1),
            "h": torch.arange(self.heads, device=device).view(1, -1, 1, 1),
            "kv_idx": torch.arange(self.keys, device=device).view(1, 1, 1, -1),
        }
        ints, floats = iter(call.bound.ints), iter(call.bound.floats)
        for i, kind in enumerate(self.program.numbers):
            number = next(ints) if kind == I64 else next(floats)
            dtype = torch.int64 if kind == I64 else self.dtype
            self.inputs[f"n{i}"] = torch.tensor(number, dtype=dtype, device=device)
        for c, tensor in enumerate(self.captures):
            for d, size in enumerate(tensor.shape):
                self.inputs[f"size{c}_{d}"] = torch.tensor(size, device=device)
        if self.program.ranges is None:
            self.listed = _listed_blocks(self, call.tables)
        else:
            lengths = (self.batch, self.heads, self.rows, self.keys)
            self.listed = listed_blocks(call.bound, lengths, call.block, device)

    def chunks(self) -> Iterator[slice]:
        step = max(1, CHUNK_ELEMENTS // max(1, self.batch * self.heads * self.keys))
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def expand_keys(self, tensor: Tensor) -> Tensor:
        """Keys or values with the query's batch and heads, in the compute dtype."""
        tensor = tensor.to(self.dtype).expand(self.batch, -1, -1, -1)
        kv_heads = tensor.shape[1]
        if kv_heads == self.heads:
            return tensor
        group = self.heads // kv_heads
        return tensor.repeat_interleave(group, dim=1)


@contextmanager
def _plain_torch(call: Call) -> Iterator[None]:
    """No recording, and no autocast: it would turn the float32 products into bfloat16 ones."""
    with torch.no_grad(), torch.autocast(call.query.device.type, enabled=False):
        yield


def forward(call: Call) -> tuple[Tensor, Tensor, Tensor, Position | None]:
    """out, lse, max_scores and the first position with a fault, if any."""
    with _plain_torch(call):
        return _forward(Problem(call))


def backward(call: Call, saved: Saved) -> Gradients:
    """Gradients of query, key, value and of the captures asked for, in the inputs' dtypes."""
    with _plain_torch(call):
        *grads, rest = _backward(Problem(call), saved)
    inputs = (call.query, call.key, call.value)
    grad_q, grad_k, grad_v = (
        as_gradient(grad, tensor) for grad, tensor in zip(grads, inputs, strict=True)
    )
    captures = [call.bound.captures[c] for c in saved.captures]
    return grad_q, grad_k, grad_v, [as_gradient(g, t) for g, t in zip(rest, captures, strict=True)]


def _forward(p: Problem) -> tuple[Tensor, Tensor, Tensor, Position | None]:
    shape = (p.batch, p.heads, p.rows)
    out = empty_like_query(p.query, (*shape, p.value.shape[3]))
    lse = p.query.new_empty(shape, dtype=p.dtype)
    top = p.query.new_empty(shape, dtype=p.dtype)
    key, value = p.expand_keys(p.key), p.expand_keys(p.value)
    first: Position | None = None
    for rows in p.chunks():
        raw = _raw_scores(p, key, rows)
        env = {**p.inputs, "score": raw, "q_idx": _row_index(p, rows)}
        keep = _kept(p, env, rows)
        fault = _first_fault(p, env, keep, rows)
        first = fault if first is None else min(first, fault or first)
        score = _modified(p, env, raw).masked_fill(~keep, -torch.inf)
        weights, lse[:, :, rows], top[:, :, rows] = _softmax(score)
        out[:, :, rows] = (weights @ value).to(out.dtype)
    return out, lse, top, first


def _backward(p: Problem, saved: Saved) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    key, value = p.expand_keys(p.key), p.expand_keys(p.value)
    grad_q = p.query.new_zeros(p.query.shape, dtype=p.dtype)
    grad_k, grad_v = torch.zeros_like(key), torch.zeros_like(value)
    grads = {c: torch.zeros_like(p.captures[c], dtype=torch.float64) for c in saved.captures}
    slopes = _slopes(p.program, frozenset(saved.captures))
    for rows in p.chunks():
        raw = _raw_scores(p, key, rows)
        env = {**p.inputs, "score": raw, "q_idx": _row_index(p, rows)}
        score = _modified(p, env, raw)
        weights = _weights(score, _kept(p, env, rows), saved.lse[:, :, rows])
        d_out = saved.grad_out[:, :, rows].to(p.dtype)
        delta = (d_out * saved.out[:, :, rows].to(p.dtype)).sum(-1, keepdim=True)
        if saved.grad_lse is not None:
            delta = delta - saved.grad_lse[:, :, rows].to(p.dtype)[..., None]
        gone = weights == 0
        env["grad"] = (weights * (d_out @ value.mT - delta)).masked_fill(gone, 0.0)
        d_raw = _at(slopes.score, p, env).expand(raw.shape).masked_fill(gone, 0.0)
        for load, slope in slopes.loads:
            part = _at(slope, p, env).expand(raw.shape).masked_fill(gone, 0.0)
            _scatter(grads[load.capture], [_at(index, p, env) for index in load.indices], part)
        grad_q[:, :, rows] = d_raw @ key * p.scale
        grad_k += d_raw.mT @ p.query[:, :, rows].to(p.dtype) * p.scale
        grad_v += weights.mT @ d_out
    found = [grads[c] for c in saved.captures]
    return grad_q, _fold(p, grad_k, p.key), _fold(p, grad_v, p.value), found


@dataclass(frozen=True)
class _Slopes:
    """Gradient graphs of a score_mod: at the raw score, and at each load of a wanted capture."""

    score: Node
    loads: tuple[tuple[Load, Node], ...]


@lru_cache(maxsize=256)
def _slopes(program: Program, wanted: frozenset[int]) -> _Slopes:
    raw, grad = Input("score", program.compute), Input("grad", program.compute)
    if program.score is None:
        return _Slopes(grad, ())
    root = guard(program.score, find_sites(program), frozenset()).root
    loads = score_loads(root, wanted)
    at_score, *at_loads = gradients(root, (raw, *loads), grad)
    found = tuple((load, slope) for load, slope in zip(loads, at_loads) if slope is not None)
    return _Slopes(Const(0.0, program.compute) if at_score is None else at_score, found)


def _at(node: Node, p: Problem, env: dict[str, Tensor]) -> Tensor:
    return evaluate(node, env, p.captures, p.program.compute, on_fault="safe")


def _scatter(total: Tensor, indices: list[Tensor], part: Tensor) -> None:
    if not indices:
        total += part.sum(dtype=total.dtype)
        return
    places = tuple(index.expand(part.shape) for index in indices)
    total.index_put_(places, part.to(total.dtype), accumulate=True)


def _raw_scores(p: Problem, key: Tensor, rows: slice) -> Tensor:
    return p.query[:, :, rows].to(p.dtype) @ key.mT * p.scale


def _row_index(p: Problem, rows: slice) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=p.query.device).view(1, 1, -1, 1)


def _modified(p: Problem, env: dict[str, Tensor], raw: Tensor) -> Tensor:
    return raw if p.program.score is None else _at(p.program.score, p, env).expand(raw.shape)


def _kept(p: Problem, env: dict[str, Tensor], rows: slice) -> Tensor:
    shape = (p.batch, p.heads, rows.stop - rows.start, p.keys)
    if p.program.mask is None:
        keep = torch.ones((), dtype=torch.bool, device=p.query.device)
    else:
        keep = _at(p.program.mask, p, env)
    if p.listed is not None:
        partial, full = (_spread(p, table, rows) for table in p.listed)
        keep = (keep & partial) | full
    return keep.expand(shape)


def _spread(p: Problem, blocks: Tensor, rows: slice) -> Tensor:
    """Block flags ``[b, h, rows, cols]`` as element flags of the query rows ``rows``."""
    device = p.query.device
    q_block = torch.arange(rows.start, rows.stop, device=device) // p.block[0]
    kv_block = torch.arange(p.keys, device=device) // p.block[1]
    return blocks[:, :, q_block][..., kv_block]


def _listed_blocks(p: Problem, tables: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    if not tables:
        return None
    rows, cols = (max(1, -(-n // b)) for n, b in zip((p.rows, p.keys), p.block, strict=True))
    partial = _dense_table(tables[0], tables[1], rows, cols)
    if len(tables) == 2:
        return partial, torch.zeros_like(partial)
    return partial, _dense_table(tables[2], tables[3], rows, cols)


def _dense_table(counts: Tensor, indices: Tensor, rows: int, cols: int) -> Tensor:
    width = indices.shape[-1]
    used = torch.arange(width, device=counts.device) < counts[..., None]
    used = used & (indices < cols)
    hits = torch.zeros((*counts.shape, cols), dtype=torch.int32, device=counts.device)
    hits.scatter_add_(-1, indices.clamp(0, cols - 1).long(), used.int())
    dense = hits > 0
    missing = rows - dense.shape[2]
    return torch.nn.functional.pad(dense, (0, 0, 0, missing)) if missing > 0 else dense


def _softmax(score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, lse and maximum of each row; an empty row gives 0, -inf, -inf."""
    if score.shape[-1] == 0:
        lowest = score.new_full(score.shape[:-1], -torch.inf)
        return score, lowest, lowest
    top = score.amax(-1, keepdim=True)
    empty = top == -torch.inf
    weights = torch.exp(score - top.masked_fill(empty, 0.0))
    total = weights.sum(-1, keepdim=True)
    lse = top + torch.log(total)
    weights = weights / total.masked_fill(empty, 1.0)
    return weights, lse.squeeze(-1), top.squeeze(-1)


def _weights(score: Tensor, keep: Tensor, lse: Tensor) -> Tensor:
    lse = lse[..., None]
    weights = torch.exp(score - lse.masked_fill(lse == -torch.inf, 0.0))
    return weights.masked_fill(~keep | (lse == -torch.inf), 0.0)


def _fold(p: Problem, grad: Tensor, like: Tensor) -> Tensor:
    """Sum the gradient of expanded keys back over the head group and a shared batch."""
    kv_heads = like.shape[1]
    if kv_heads != p.heads:
        grad = grad.unflatten(1, (kv_heads, p.heads // kv_heads)).sum(2)
    if like.shape[0] != p.batch:
        grad = grad.sum(0, keepdim=True)
    return grad


@lru_cache(maxsize=256)
def _faults(program: Program) -> tuple[Node | None, Node | None]:
    """Where the score and the mask read what they may not."""
    sites = find_sites(program)
    score, mask = (
        None if root is None else guard(root, sites, frozenset()).fault
        for root in (program.score, program.mask)
    )
    return score, mask


def _first_fault(p: Problem, env: dict[str, Tensor], keep: Tensor, rows: slice) -> Position | None:
    score, mask = _faults(p.program)
    if score is None and mask is None:
        return None
    bad = torch.zeros((), dtype=torch.bool, device=keep.device)
    if score is not None:
        bad = _at(score, p, env) & keep
    if mask is not None:
        # A mask that cannot be read decides nothing, so it counts wherever it was asked.
        asked = _at(mask, p, env)
        if p.listed is not None:
            asked = asked & _spread(p, p.listed[0], rows)
        bad = bad | asked
    found = bad.expand(keep.shape).nonzero()
    if not len(found):
        return None
    b, h, q, kv = found[0].tolist()
    return b, h, q + rows.start, kv
