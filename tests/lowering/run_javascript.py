"""Runs graphs as generated JavaScript in QuickJS, at every (b, h, q_idx, kv_idx)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import quickjs
import torch
from lowered import STORAGE
from torch import Tensor

from flexattn.ir.nodes import BOOL, F32, Input, Node, walk
from flexattn.ir.program import CaptureType, Program
from flexattn.lowering.to_javascript import lower_javascript, runtime

LOOP = """
(text) => {
  const functions = text.map((one) => (0, eval)(one)(flexRuntime));
  return functions.map(({ score, mask }) => {
    const out = [];
    for (let b = 0; b < B; b++)
      for (let h = 0; h < H; h++)
        for (let q = 0; q < M; q++)
          for (let kv = 0; kv < N; kv++) {
            const place = [b, h, q, kv, ints, floats, captures];
            const raw = scores[((b * H + h) * M + q) * N + kv];
            out.push(Number(mask ? mask(...place) : score(raw, ...place)));
          }
    return out;
  });
}
"""


def run(
    roots: Sequence[Node],
    captures: Sequence[Tensor],
    score: Tensor,
    *,
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    compute: str = F32,
) -> list[Tensor]:
    """The values [B, H, M, N] of every root as doubles, for raw scores of that shape."""
    types = tuple(CaptureType(STORAGE[t.dtype], t.dim()) for t in captures)
    numbers = ("i64",) * len(ints) + (compute,) * len(floats)
    texts = []
    for root in roots:
        is_mask = root.dtype == BOOL and Input("score", compute) not in walk(root)
        parts = (None, root) if is_mask else (root, None)
        texts.append(lower_javascript(Program(*parts, types, numbers, compute)))
    given = {
        "scores": numbers_of(score),
        "ints": list(ints),
        "floats": list(floats),
        "captures": [{"shape": list(t.shape), "data": numbers_of(t)} for t in captures],
        **dict(zip("BHMN", score.shape, strict=True)),
    }
    context = quickjs.Context()
    context.eval(runtime())
    context.eval(special(f"const {{ {', '.join(given)} }} = {json.dumps(given)};"))
    told = "JSON.stringify(values, (key, v) => typeof v === 'number' && !isFinite(v) ? `${v}` : v)"
    found = context.eval(f"const values = ({LOOP})({json.dumps(texts)}); {told}")
    return [
        torch.tensor([float(v) for v in values], dtype=torch.float64).view(score.shape)
        for values in json.loads(found)
    ]


def numbers_of(tensor: Tensor) -> list[Any]:
    """Flat; what JSON lacks is a text."""
    flat = (tensor.long() if tensor.dtype == torch.bool else tensor).flatten().tolist()
    return [v if isinstance(v, int) or math.isfinite(v) else f"{v}!" for v in flat]


def special(text: str) -> str:
    for name, value in (("nan!", "NaN"), ("-inf!", "-Infinity"), ("inf!", "Infinity")):
        text = text.replace(f'"{name}"', value)
    return text
