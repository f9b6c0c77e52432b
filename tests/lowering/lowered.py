"""Compiles many graphs into one small kernel and evaluates them at every (b, h, q_idx, kv_idx)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexattn import template
from flexattn.ir.hooks import Hooks
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F32, FLOATS, Node
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel import config
from flexattn.kernel.isa import Isa, host
from flexattn.kernel.spec import TILES, KernelSpec
from flexattn.lowering.emit import VECTOR, Emitter
from flexattn.lowering.layout import Layout
from flexattn.lowering.to_cpp import assemble
from flexattn.passes.narrow import narrow
from flexattn.passes.split import split
from flexattn.runtime import launch

STORAGE = {
    torch.bool: "bool", torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16",
    torch.int32: "i32", torch.int64: "i64", torch.bfloat16: "bf16", torch.float16: "f16",
    torch.float32: "f32", torch.float64: "f64",
}  # fmt: skip

# The fields row0 and b0 carry the addresses of the scores and of nothing.
DRIVER = """
extern "C" int flexattn_tiles(const TilesArgs* p) {
  const TilesArgs& a = *p;
  const F* scores = (const F*)a.row0;
  i64* out = (i64*)a.classes;
  Uniform u;
  QValues qv;
  KVValues kvv;
  for (i64 b = 0; b < a.B; b++)
    for (i64 h = 0; h < a.H; h++) {
      hoist_uniform(a.mods, b, h, u);
      for (i64 q0 = 0; q0 < a.M; q0 += BM) {
        i64 n_q = q0 + BM < a.M ? BM : a.M - q0;
        hoist_q(a.mods, u, b, h, q0, n_q, a.M, qv);
        for (i64 kv0 = 0; kv0 < a.N; kv0 += BN) {
          i64 n = kv0 + BN < a.N ? BN : a.N - kv0;
          hoist_kv(a.mods, u, b, h, kv0, n, kvv);
          Site s = {a.mods, u, qv, kvv, b, h, q0, kv0, a.M - 1, 0};
          for (i64 j = 0; j < n; j++)
            for (i64 i = 0; i < n_q; i += W) {
              F row[W] = {};
              i64 got[ROOTS][W], at = ((b * a.H + h) * a.M + q0 + i) * a.N + kv0 + j;
              for (int l = 0; l < W && i + l < n_q; l++) row[l] = scores[at + l * a.N];
              eval(s, i, j, load_lanes<VF>(row), got);
              for (i64 k = 0; k < ROOTS; k++)
                for (int l = 0; l < W && i + l < n_q; l++)
                  out[k * a.B * a.H * a.M * a.N + at + l * a.N] = got[k][l];
            }
        }
      }
    }
  return 0;
}
"""
PUT = """
static inline void put(i64* p, VL v) { store_lanes(p, v); }
static inline void put_float(i64* p, VF v) {
  F lanes[W];
  store_lanes(lanes, v);
  for (int l = 0; l < W; l++) ((double*)p)[l] = lanes[l];
}
"""


@dataclasses.dataclass(eq=False)
class Source:
    """Stands in for a KernelSource."""

    text: str
    program: Program
    flags: tuple[str, ...]
    spec: KernelSpec = TILES
    program_text: str = ""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    parts: int = 1

    @property
    def key(self) -> str:
        return "test-" + hashlib.sha256((self.text + str(self.flags)).encode()).hexdigest()[:32]


def region(
    roots: Sequence[Node], captures: Sequence[CaptureType], numbers: Sequence[str], compute: str
) -> str:
    """A mods region with a function that evaluates all roots."""
    hoisted = split(roots)
    hooks = Hooks(
        hoisted.uniform, hoisted.q, hoisted.kv, None, None, None, None, (), tuple(captures),
        tuple(numbers), compute,
    )  # fmt: skip
    layout = Layout(hooks)
    emitter = Emitter(layout, VECTOR)
    for number, root in enumerate(hoisted.roots):
        value = emitter.vector(root)
        if root.dtype in FLOATS:
            emitter.lines.append(f"put_float(got[{number}], {value});")
        else:
            sign = "-" if root.dtype == BOOL else ""
            emitter.lines.append(f"put(got[{number}], convert<VL>({sign}{value}));")
    body = "\n".join(f"  {line}" for line in emitter.lines)
    head = "static void eval(const Site& s, i64 i, i64 j, VF score, i64 (*got)[W])"
    return assemble(layout, [PUT, f"{head} {{\n{body}\n}}"])


def run(
    roots: Sequence[Node],
    captures: Sequence[Tensor],
    score: Tensor,
    *,
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    compute: str = F32,
    isa: Isa | None = None,
    wide: bool = True,
) -> list[Tensor]:
    """The values [B, H, M, N] of every root, for raw scores of that shape."""
    types = tuple(CaptureType(STORAGE[t.dtype], t.dim()) for t in captures)
    numbers = ("i64",) * len(ints) + (compute,) * len(floats)
    narrowed = tuple(roots) if wide else narrow(tuple(roots), types)
    isa = isa or host()
    text = template.render(
        "mods.h",
        mods=region(narrowed, types, numbers, compute),
        defines=config.defines("f64" if compute == "f64" else "f32", isa) | {"ROOTS": len(roots)},
    )
    flags = tuple("-O1" if flag == "-O2" else flag for flag in config.compiler_flags(isa))
    kernel = launch.load(Source(text + DRIVER, Program(None, None, types, numbers, compute), flags))
    batch, heads, rows, keys = score.shape
    out = torch.zeros(len(roots), *score.shape, dtype=torch.int64)
    kernel(
        classes=out.data_ptr(), row0=score.data_ptr(), B=batch, H=heads, M=rows, N=keys,
        captures=captures, ints=ints, floats=floats,
    )  # fmt: skip
    return [
        out[k].view(torch.float64) if root.dtype in FLOATS else out[k]
        for k, root in enumerate(roots)
    ]


def expect(
    root: Node,
    captures: Sequence[Tensor],
    score: Tensor,
    *,
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    compute: str = F32,
) -> Tensor:
    """The same by the interpreter."""
    batch, heads, rows, keys = score.shape
    env: dict[str, Any] = {
        "b": torch.arange(batch).view(-1, 1, 1, 1),
        "h": torch.arange(heads).view(-1, 1, 1),
        "q_idx": torch.arange(rows).view(-1, 1),
        "kv_idx": torch.arange(keys),
        "score": score,
    }
    env |= {f"n{k}": value for k, value in enumerate((*ints, *floats))}
    value = evaluate(root, env, captures, compute)
    return value.expand(score.shape).to(torch.float64 if root.dtype in FLOATS else torch.int64)
