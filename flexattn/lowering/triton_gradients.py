"""The hooks that sum gradients of captured tensors; how depends on ``CaptureGrad.way``.

``head``      a sum per query of the tile, added up and stored once a tile
``query``     a sum per query, stored once a tile
``key``       a sum per key and query head, in the kernel for dK and dV
``distance``  sums along the diagonals of each tile, added to one entry per distance
``pair``      stored where no two pairs meet, in a buffer of the capture's shape
``scatter``   added one by one to such a buffer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexattn.ir.hooks import CaptureGrad
from flexattn.ir.nodes import Const
from flexattn.lowering.triton_emit import CaptureLayout, TritonEmitter
from flexattn.lowering.triton_spellings import TYPES

_ROW_ADD = """\
@triton.jit
def add_row_grads(
    sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx,
    bh, chunk, B, Hq, q0, kv0, q_last, kv_last, M, N,
    BM: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr,
):"""
_ROW_END = """\
@triton.jit
def end_row_grads(
    sums, grads, captures, u, qv, b, h, q_idx, bh, chunk, B, Hq, q0, last, M, N, tile, tiles,
    BM: tl.constexpr,
):"""
_ROW_BEGIN = "@triton.jit\ndef begin_row_grads(BM: tl.constexpr):"
_KEY_ADD = """\
@triton.jit
def add_key_grads(sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx):"""
_KEY_END = """\
@triton.jit
def end_key_grads(
    sums, grads, captures, u, kvv, b, h, kv_idx, bh, kv0, last, N, BN: tl.constexpr,
):"""
_KEY_BEGIN = "@triton.jit\ndef begin_key_grads(BN: tl.constexpr):"


@dataclass(frozen=True)
class GradientHooks:
    """The functions, and whether the kernels for rows and for keys have to call theirs."""

    functions: tuple[str, ...]
    row: bool
    key: bool


def lower_gradients(layout: CaptureLayout, spellings: Mapping[str, str]) -> GradientHooks:
    """The six hooks for gradients of captured tensors."""
    places = list(enumerate(layout.hooks.capture_grads))
    rows = [(number, place) for number, place in places if place.way != "key"]
    keys = [(number, place) for number, place in places if place.way == "key"]
    row, key = _Side(layout, spellings, rows, "BM"), _Side(layout, spellings, keys, "BN")
    functions = (
        row.begin(_ROW_BEGIN),
        row.add(_ROW_ADD),
        row.end(_ROW_END),
        key.begin(_KEY_BEGIN),
        key.add(_KEY_ADD),
        key.end(_KEY_END),
    )
    return GradientHooks(functions, bool(rows), bool(keys))


@dataclass(frozen=True)
class _Side:
    """The hooks of one kernel; its sums are vectors along the tile's first dimension."""

    layout: CaptureLayout
    spellings: Mapping[str, str]
    places: Sequence[tuple[int, CaptureGrad]]
    size: str

    @property
    def sums(self) -> list[tuple[int, CaptureGrad]]:
        return [entry for entry in self.places if entry[1].way in ("head", "query", "key")]

    def begin(self, head: str) -> str:
        zeros = f"tl.zeros([{self.size}], {TYPES[self.layout.hooks.compute]}),"
        return _text(head, [f"return ({' '.join([zeros] * len(self.sums))})"])

    def add(self, head: str) -> str:
        emitter = TritonEmitter(self.layout, self.spellings)
        if not self.places:
            return _text(head, ["return sums"])
        lines = emitter.lines
        sums: list[str] = []
        for number, place in self.places:
            value = emitter.value(place.value)
            found = f"tl.where(grad != 0, {value}, 0.0)"
            lines.append(f"v{number} = {found}")
            if place.way in ("head", "query", "key"):
                sums.append(f"sums[{len(sums)}] + tl.sum(v{number}, 1),")
            elif place.way == "distance":
                lines += _distance(number)
            else:
                lines += self._element(emitter, number, place)
        return _text(head, [*lines, f"return ({' '.join(sums)})"])

    def end(self, head: str) -> str:
        lines = []
        for entry, (number, place) in enumerate(self.sums):
            lines += (
                {"head": _HEAD, "query": _QUERY, "key": _KEY}[place.way]
                .format(n=number, sum=f"sums[{entry}]")
                .splitlines()
            )
        return _text(head, lines or ["pass"])

    def _element(self, emitter: TritonEmitter, number: int, place: CaptureGrad) -> list[str]:
        """Lines that put a pair's value where the indices say, in a contiguous buffer."""
        layout, lines = self.layout, emitter.lines
        strides: list[str] = []
        for dim in reversed(range(len(place.indices))):
            if not strides:
                strides.append("")
                continue
            size = f"tl.cast({layout.size(place.capture, dim + 1)}, tl.int64)"
            strides.append(emitter.statement(f"{size} * {strides[-1]}" if strides[-1] else size))
        terms = []
        for index, stride in zip(place.indices, reversed(strides), strict=True):
            if isinstance(index, Const) and not index.value:
                continue
            value = emitter.value(index)
            terms.append(f"{value} * {stride}" if stride else value)
        lines.append(f"a{number} = grads[{number}] + ({' + '.join(terms) or '0'})")
        return (_PAIR if place.way == "pair" else _SCATTER).format(n=number).splitlines()


_HEAD = """\
tl.store(grads[{n}] + tl.cast(bh, tl.int64) * tiles + tile, tl.sum({sum}, 0))"""
_QUERY = """\
o{n} = q0 + tl.arange(0, BM)
tl.store(grads[{n}] + tl.cast(bh, tl.int64) * M + o{n}, {sum}, mask=o{n} < last)"""
_KEY = """\
o{n} = kv0 + tl.arange(0, BN)
tl.store(grads[{n}] + tl.cast(bh, tl.int64) * N + o{n}, {sum}, mask=o{n} < last)"""
_PAIR = """\
if SHARED:
    tl.atomic_add(a{n}, v{n}, mask=v{n} != 0, sem="relaxed")
else:
    m{n} = (q0 + tl.arange(0, BM) < q_last)[:, None] & (kv0 + tl.arange(0, BN) < kv_last)[None, :]
    tl.store(a{n}, v{n}, mask=m{n})"""
_SCATTER = """\
tl.atomic_add(a{n}, v{n}, mask=v{n} != 0, sem="relaxed")"""


def _distance(number: int) -> list[str]:
    # Row i is turned by i, so that diagonals stand in columns, the pairs at kv - q = kv0 - q0 + j
    # above those of the diagonals BN, 2 BN, … before it.
    return f"""\
i{number} = tl.arange(0, BM)[:, None] + tl.arange(0, BN)[None, :]
v{number} = tl.gather(v{number}, i{number} % BN, 1)
d{number} = kv0 - q0 + tl.arange(0, BN) + (M - 1)
a{number} = grads[{number}] + tl.cast(chunk * B * Hq + bh, tl.int64) * (M + N)
for turn in tl.static_range((BM + BN - 2) // BN + 1):
    r{number} = tl.sum(tl.where(i{number} // BN == turn, v{number}, 0.0), 0)
    at{number} = a{number} + (d{number} - turn * BN)
    tl.atomic_add(at{number}, r{number}, mask=r{number} != 0, sem="relaxed")
""".splitlines()


def _text(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *(f"    {line}" for line in lines)])
