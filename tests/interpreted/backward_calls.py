"""Runs the backward templates by the interpreter: block lists, launches, and the dense oracle."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from flexattn.template import render_triton

FOLDER = Path(tempfile.mkdtemp(prefix="flexattn-backward-"))
NUMBER = itertools.count()


@functools.cache
def kernel_module(name: str, mods: str | None = None) -> ModuleType:
    """The rendered kernel file, imported."""
    path = FOLDER / f"{name}_{next(NUMBER)}.py"
    path.write_text(render_triton(name, mods=mods), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Problem:
    """One backward problem; `keep` is [B or 1, Hq or 1, M, N], None where all pairs are kept."""

    B: int = 1
    Hq: int = 1
    Hkv: int = 1
    M: int = 16
    N: int = 16
    D: int = 16
    DV: int = 16
    Bkv: int | None = None
    dtype: torch.dtype = torch.float32
    scale: float = 0.3125
    score_mod: Callable[..., Tensor] | None = None
    keep: Tensor | None = None
    mods: str | None = None
    captured: Sequence[Tensor] = ()  # as the hooks get them
    with_lse: bool = False
    inputs: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.Bkv = self.B if self.Bkv is None else self.Bkv
        shapes = {
            "q": (self.B, self.Hq, self.M, self.D),
            "k": (self.Bkv, self.Hkv, self.N, self.D),
            "v": (self.Bkv, self.Hkv, self.N, self.DV),
            "grad_out": (self.B, self.Hq, self.M, self.DV),
        }
        self.inputs = {name: torch.randn(shape).to(self.dtype) for name, shape in shapes.items()}
        self.grad_lse = torch.randn(self.B, self.Hq, self.M, dtype=self.compute)

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Wanted:
    """Results of the oracle, float64; `extra` are the gradients of the captured tensors."""

    out: Tensor
    lse: Tensor
    grad_q: Tensor
    grad_k: Tensor
    grad_v: Tensor
    extra: tuple[Tensor, ...]


def dense(problem: Problem, differentiable: Sequence[Tensor] = ()) -> Wanted:
    """Dense attention and torch's autograd, in float64."""
    p = problem
    leaves = [p.inputs[name].double().requires_grad_() for name in ("q", "k", "v")]
    q, k, v = leaves
    k, v = (x.repeat_interleave(p.Hq // p.Hkv, 1) for x in (k, v))
    s = p.scale * (q @ k.transpose(-1, -2))
    if p.score_mod is not None:
        grid = [torch.arange(n) for n in s.shape]
        s = p.score_mod(s, *torch.meshgrid(*grid, indexing="ij"))
    if p.keep is not None:
        s = torch.where(p.keep, s, -torch.inf)
    none = (s == -torch.inf).all(-1, keepdim=True)
    s = torch.where(none, 0.0, s)
    weights = torch.where(none, 0.0, torch.softmax(s, -1))
    out = weights @ v
    lse = torch.where(none[..., 0], -torch.inf, torch.logsumexp(s, -1))
    total = (out * p.inputs["grad_out"].double()).sum()
    if p.with_lse:
        total = total + (torch.where(none[..., 0], 0.0, lse) * p.grad_lse.double()).sum()
    got = torch.autograd.grad(total, [*leaves, *differentiable])
    return Wanted(out.detach(), lse.detach(), *got[:3], tuple(got[3:]))


@dataclass(frozen=True)
class Blocks:
    """How a problem is cut: tiles, and the blocks of its lists (`tables` 0 has none)."""

    BM: int = 16
    BN: int = 16
    tables: int = 0
    q_block: int = 16
    kv_block: int = 16


def list_blocks(kept: Tensor, rows: int, cols: int, tables: int) -> list[Any]:
    """Fields of the tuple `tables` but the block sizes, for kept [B, H, rows of cells, columns]."""
    B, H, M, N = kept.shape
    R, C = -(-M // rows), -(-N // cols)
    lists: list[list[list[int]]] = [[], []]
    for b, h, r in itertools.product(range(B), range(H), range(R)):
        row: list[list[int]] = [[], []]
        for c in range(C):
            block = kept[b, h, r * rows : (r + 1) * rows, c * cols : (c + 1) * cols]
            if bool(block.any()):
                row[tables == 4 and bool(block.all())].append(c)
        lists[0].append(row[0])
        lists[1].append(row[1])
    fields: list[Any] = []
    for found in lists:
        width = max(1, *(len(row) for row in found))
        index = torch.full((B, H, R, width), 2**30, dtype=torch.int32)  # never to be read
        num = torch.zeros((B, H, R), dtype=torch.int32)
        for at, row in enumerate(found):
            num.view(-1)[at] = len(row)
            index.view(-1, width)[at, : len(row)] = torch.tensor(row, dtype=torch.int32)
        fields += [num, R * H * (B > 1), R * (H > 1)]
        fields += [index, width * R * H * (B > 1), width * R * (H > 1), width]
    return fields


def tables_of(problem: Problem, blocks: Blocks, transposed: bool) -> tuple[Any, ...]:
    if blocks.tables == 0:
        nothing = torch.zeros(1, dtype=torch.int32)
        return (nothing, 0, 0, nothing, 0, 0, 0, nothing, 0, 0, nothing, 0, 0, 0, 1, 1)
    kept = problem.keep
    if kept is None:
        kept = torch.ones(1, 1, problem.M, problem.N, dtype=torch.bool)
    sizes = (blocks.q_block, blocks.kv_block)
    if transposed:
        fields = list_blocks(kept.transpose(-1, -2), *sizes[::-1], blocks.tables)
    else:
        fields = list_blocks(kept, *sizes, blocks.tables)
    return (*fields, *sizes)


def count_tiles(length: int, block: int, tile: int, tables: int) -> int:
    if tables == 0:
        return -(-length // tile)
    full = -(-length // block) - 1
    return full * -(-block // tile) + -(-(length - full * block) // tile)


def captures_tuple(captured: Sequence[Tensor]) -> tuple[Any, ...]:
    fields: list[Any] = []
    for tensor in captured:
        fields += [tensor, *tensor.shape, *tensor.stride()]
    return tuple(fields)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


class Backward:
    """Launches the three kernels of one problem, cut in one way."""

    def __init__(self, problem: Problem, blocks: Blocks, wanted: Wanted, **choices: Any) -> None:
        self.p, self.cut, self.choices = problem, blocks, choices
        p = problem
        self.lse = wanted.lse.to(p.compute).contiguous()
        self.out = wanted.out.to(p.dtype)
        self.delta = poisoned(p.B, p.Hq, p.M, dtype=p.compute)
        rows = -(-p.M // 16)
        kernel_module("delta").delta[(rows * p.B * p.Hq,)](
            self.out, p.inputs["grad_out"], p.grad_lse, self.delta,
            *self.out.stride()[:3], *p.inputs["grad_out"].stride(), p.Hq, p.M,
            DV=p.DV, BM=16, HAS_GRAD_LSE=p.with_lse,
        )  # fmt: skip

    def _constants(self, even: bool) -> dict[str, Any]:
        p, c = self.p, self.cut
        precision = "ieee" if p.dtype.itemsize > 2 else "tf32"
        common = {"D": p.D, "DV": p.DV, "BM": c.BM, "BN": c.BN, "TABLES": c.tables, "EVEN": even}
        more = {"DESCRIPTORS": False, "PRECISION": precision, "ORDERED": False}
        return common | more | self.choices

    def _order(self, tiles: int) -> Tensor:
        return torch.randperm(tiles, dtype=torch.int32)

    def _strides(self) -> list[int]:
        found: list[int] = []
        for name in ("q", "k", "v", "grad_out"):
            tensor = self.p.inputs[name]
            batch = 0 if name in "kv" and self.p.Bkv == 1 else tensor.stride(0)
            found += [batch, *tensor.stride()[1:]]
        return found

    def _inputs(self) -> list[Tensor]:
        return [self.p.inputs[name] for name in ("q", "k", "v", "grad_out")] + [
            self.lse,
            self.delta,
        ]

    def dq(
        self,
        grads: tuple[Tensor, ...] = (),
        *,
        shared: bool = False,
        serial: int = 0,
        want: bool = True,
    ) -> Tensor:
        p, c = self.p, self.cut
        grad_q = poisoned(p.B, p.Hq, p.M, p.D, dtype=p.dtype)
        tiles = count_tiles(p.M, c.q_block, c.BM, c.tables)
        kernel_module("dq", p.mods).dq[(serial or tiles * p.B * p.Hq,)](
            *self._inputs(), grad_q, *self._strides(), *grad_q.stride()[:3],
            p.B, p.Hq, p.Hq // p.Hkv, p.M, p.N, serial or 3, p.scale,
            tables_of(p, c, False), self._order(tiles), captures_tuple(p.captured), grads,
            **self._constants(c.kv_block % c.BN == 0),
            WANT_DQ=want, SHARED=shared, SERIAL=serial > 0,
        )  # fmt: skip
        return grad_q

    def dkdv(self, grads: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor]:
        p, c = self.p, self.cut
        grad_k, grad_v = (poisoned(*p.inputs[x].shape, dtype=p.dtype) for x in ("k", "v"))
        tiles = count_tiles(p.N, c.kv_block, c.BN, c.tables)
        kernel_module("dkdv", p.mods).dkdv[(tiles * p.Bkv * p.Hkv,)](
            *self._inputs(), grad_k, grad_v, *self._strides(),
            *grad_k.stride()[:3], *grad_v.stride()[:3],
            p.B, p.Bkv, p.Hq, p.Hq // p.Hkv, p.M, p.N, p.scale,
            tables_of(p, c, True), self._order(tiles), captures_tuple(p.captured), grads,
            **self._constants(c.q_block % c.BM == 0),
        )  # fmt: skip
        return grad_k, grad_v
