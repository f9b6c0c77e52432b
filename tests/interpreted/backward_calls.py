"""Runs the backward templates, interpreted, and the dense oracle that they are held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from template_calls import (
    Blocks,
    accumulator,
    capture_arguments,
    in_poison,
    launch,
    mods_text,
    poisoned,
    strides,
    tables_argument,
)
from torch import Tensor

from flexattn.kernel.triton_spec import PADDING

LIMIT = {torch.float32: 3e-6, torch.float64: 3e-14, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def backward_mods(derivative: str = "none", *, row: bool = False, key: bool = False, **bodies: str):
    """`mods_text` with the flags of the backward hooks."""
    text = mods_text(**bodies)
    false = "tl.constexpr = tl.constexpr(False)"
    for flag, wanted in (("HAS_ROW_GRADS", row), ("HAS_KEY_GRADS", key)):
        text = text.replace(f"{flag}: {false}", f"{flag}: {false.replace('False', str(wanted))}")
    return text.replace('DERIVATIVE: tl.constexpr = tl.constexpr("none")',
                        f'DERIVATIVE: tl.constexpr = tl.constexpr("{derivative}")')  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Inputs of one backward pass and what autograd makes of them in float64.

    `wanted` are the gradients of q, k, v and of each captured tensor.
    """

    tensors: dict[str, Tensor]
    keep: Tensor | None
    scale: float
    lse: Tensor
    grad_lse: Tensor | None
    captured: tuple[Tensor, ...]
    wanted: tuple[Tensor, ...]

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        (B, Hq, M, _), N = self.tensors["q"].shape, self.tensors["k"].shape[2]
        return B, Hq, M, N


def problem(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    mod: Callable[..., Tensor] | None = None,
    captured: Sequence[Tensor] = (),
    with_lse: bool = False,
) -> Problem:
    """A random one of shape (B, Bkv, Hq, Hkv, M, N, D, DV).

    Args:
        keep: Pairs that are kept, [B or 1, Hq or 1, M, N].
        mod: ``mod(score, b, h, q_idx, kv_idx, *captured)`` on the whole grid.
        captured: Tensors that get gradients.
    """
    B, Bkv, Hq, Hkv, M, N, D, DV = shape
    sizes = {"q": (B, Hq, M, D), "k": (Bkv, Hkv, N, D), "v": (Bkv, Hkv, N, DV)}
    data = {name: torch.randn(size).to(dtype) for name, size in sizes.items()}
    grad_out = torch.randn(B, Hq, M, DV).to(dtype)
    scale = 0.3125  # a float32
    q, k, v = leaves = [x.double().requires_grad_() for x in data.values()]
    theirs = [x.double().requires_grad_() for x in captured]
    k, v = (x.expand(B, -1, -1, -1).repeat_interleave(Hq // Hkv, 1) for x in (k, v))
    s = scale * (q @ k.mT)
    if mod is not None:
        s = mod(s, *torch.meshgrid(*map(torch.arange, s.shape), indexing="ij"), *theirs)
    if keep is not None:
        s = torch.where(keep, s, -torch.inf)
    none = (s == -torch.inf).all(-1)
    s = torch.where(none[..., None], 0.0, s)
    out = torch.where(none[..., None], 0.0, torch.softmax(s, -1)) @ v
    lse = torch.where(none, 0.0, s.logsumexp(-1))
    grad_lse = torch.randn(B, Hq, M, dtype=accumulator(dtype)) if with_lse else None
    total = (out * grad_out.double()).sum()
    if grad_lse is not None:
        total = total + (lse * grad_lse).sum()
    wanted = torch.autograd.grad(total, [*leaves, *theirs])
    tensors = data | {"grad_out": grad_out, "out": out.detach().to(dtype)}
    lse = torch.where(none, -torch.inf, lse).detach().to(accumulator(dtype))
    return Problem(tensors, keep, scale, lse, grad_lse, tuple(captured), wanted)


@dataclass(frozen=True)
class Cut:
    """Sizes of tiles, and of the blocks of the lists; `tables` as the choice TABLES."""

    BM: int = 16
    BN: int = 16
    tables: int = 0
    q_block: int = 16
    kv_block: int = 16


def _list(kept: Tensor, rows: int, cols: int, tables: int) -> list[Tensor]:
    """num, indices, full_num, full_indices of kept [B, H, rows, columns] cut in blocks."""
    B, H, M, N = kept.shape
    R, C = -(-M // rows), -(-N // cols)
    fields = [torch.zeros(B, H, R, dtype=torch.int32) for _ in range(2)]
    lists = [torch.full((B, H, R, C), 2**30, dtype=torch.int32) for _ in range(2)]
    for b, h, r, c in itertools.product(range(B), range(H), range(R), range(C)):
        block = kept[b, h, r * rows : (r + 1) * rows, c * cols : (c + 1) * cols]
        if bool(block.any()):
            full = tables == 4 and bool(block.all())
            lists[full][b, h, r, fields[full][b, h, r]] = c
            fields[full][b, h, r] += 1
    return [fields[0], lists[0], fields[1], lists[1]]


def _blocks(p: Problem, cut: Cut, *, transposed: bool) -> Blocks | None:
    if cut.tables == 0:
        return None
    kept = torch.ones(1, 1, *p.lengths[2:], dtype=torch.bool) if p.keep is None else p.keep
    sizes = (cut.q_block, cut.kv_block)
    if transposed:
        return Blocks(*_list(kept.mT, *sizes[::-1], cut.tables), *sizes)
    return Blocks(*_list(kept, *sizes, cut.tables), *sizes)


def _tiles(length: int, block: int, tile: int, tables: int) -> int:
    if tables == 0:
        return -(-length // tile)
    before = -(-length // block) - 1
    return before * -(-block // tile) + -(-(length - before * block) // tile)


class Backward:
    """One problem on its way through the three kernels, cut in one way."""

    def __init__(
        self,
        p: Problem,
        cut: Cut,
        mods: str | None = None,
        *,
        ordered: bool = False,
        descriptors: bool = False,
    ) -> None:
        self.p, self.cut, self.mods, self.ordered = p, cut, mods, ordered
        self.tensors = {name: in_poison(x) for name, x in p.tensors.items()}
        out, grad_out = self.tensors["out"], self.tensors["grad_out"]
        B, Hq, M, _ = p.lengths
        padded = -(-M // PADDING) * PADDING
        self.lse2, self.delta = poisoned(2, B, Hq, padded, dtype=p.lse.dtype)
        stats = {"lse2": self.lse2, "delta": self.delta}
        arguments = {"out": out, "grad_out": grad_out, "lse": p.lse, **stats}
        arguments["grad_lse"] = p.lse if p.grad_lse is None else p.grad_lse
        arguments |= strides(o=out, do=grad_out) | {"Hq": Hq, "M": M}
        choices = {"DV": out.shape[3], "BM": 16, "HAS_GRAD_LSE": p.grad_lse is not None}
        launch("delta", padded // 16 * B * Hq, arguments, choices)
        q, k, v = (self.tensors[name] for name in "qkv")
        self.common = {
            "q": q, "k": k, "v": v, "grad_out": grad_out, **stats,
            **strides(q=q, k=k, v=v, do=grad_out), "B": B, "Hq": Hq, "G": Hq // k.shape[1],
            "M": M, "N": k.shape[2], "scale": p.scale,
            "captures": capture_arguments(p.captured),
        }  # fmt: skip
        self.choices = {
            "D": q.shape[3], "DV": v.shape[3], "BM": cut.BM, "BN": cut.BN, "TABLES": cut.tables,
            "DESCRIPTORS": descriptors, "PRECISION": "ieee", "ORDERED": ordered,
        }  # fmt: skip

    def _order(self, tiles: int) -> Tensor:
        return torch.randperm(tiles, dtype=torch.int32)

    def row_tiles(self) -> int:
        return _tiles(self.p.lengths[2], self.cut.q_block, self.cut.BM, self.cut.tables)

    def dq(self, *grads: Tensor, shared=False, serial=0, want=True) -> Tensor:
        p, cut, tiles = self.p, self.cut, self.row_tiles()
        B, Hq = p.lengths[:2]
        grad_q = in_poison(poisoned(*p.tensors["q"].shape, dtype=p.tensors["q"].dtype))
        tables = tables_argument(_blocks(p, cut, transposed=False), (B, Hq))
        arguments = self.common | strides(dq=grad_q) | {
            "grad_q": grad_q, "heads_at_once": serial or 3, "tables": tables,
            "order": self._order(tiles), "grads": grads,
        }  # fmt: skip
        choices = self.choices | {
            "EVEN": cut.kv_block % cut.BN == 0, "WANT_DQ": want, "SHARED": shared,
            "SERIAL": serial > 0,
        }  # fmt: skip
        launch("dq", serial or tiles * B * Hq, arguments, choices, self.mods)
        return grad_q

    def dkdv(self, *grads: Tensor) -> tuple[Tensor, Tensor]:
        p, cut = self.p, self.cut
        tiles = _tiles(p.lengths[3], cut.kv_block, cut.BN, cut.tables)
        grad_k, grad_v = (
            in_poison(poisoned(*p.tensors[x].shape, dtype=p.tensors[x].dtype)) for x in "kv"
        )
        Bkv, Hkv = grad_k.shape[:2]
        tables = tables_argument(_blocks(p, cut, transposed=True), p.lengths[:2])
        arguments = self.common | strides(dk=grad_k, dv=grad_v) | {
            "grad_k": grad_k, "grad_v": grad_v, "Bkv": Bkv, "tables": tables,
            "order": self._order(tiles), "grads": grads,
        }  # fmt: skip
        arguments |= {f"{x}_{s}": arguments[f"{x}_{s}"] for x in ("dk", "dv") for s in "bhn"}
        choices = self.choices | {"EVEN": cut.q_block % cut.BM == 0}
        launch("dkdv", tiles * Bkv * Hkv, arguments, choices, self.mods)
        return grad_k, grad_v

    def check(self, grads: Sequence[Tensor] = (), key_grads: Sequence[Tensor] | None = None):
        """Run all, and compare the gradients of q, k and v."""
        got = (self.dq(*grads), *self.dkdv(*(grads if key_grads is None else key_grads)))
        for name, ours, theirs in zip("qkv", got, self.p.wanted, strict=False):
            check(name, ours, theirs)


def check(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Largest error relative to the largest element; NaN passes nowhere."""
    error = (ours.double() - theirs).abs().max()
    assert error <= LIMIT[ours.dtype] * theirs.abs().max().clamp(min=1e-3), (name, error)
