"""The gradient hooks: the score's gradient, and how captured tensors collect theirs.

A captured gradient's buffer has the capture's shape, dense, one part per group; it holds doubles,
or F where no two pairs meet in an element. What a pair adds is gathered by where it goes:

``none``  one element per head        a vector of sums, added up once a tile
``q``     an element per query        a sum per query, added once a tile of queries
``kv``    an element per key          a sum per key, added once a tile of keys
``qkv``   any element                 added lane by lane, at once
``tile``  an element per pair         kept for a tile of keys, added row by row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flexattn.ir.hooks import CaptureGrad
from flexattn.ir.nodes import Input, Node
from flexattn.lowering.emit import VECTOR, Emitter, Place, reaches
from flexattn.lowering.layout import Layout

_HEAD = {"b": "s.b", "h": "s.h"}
_SITE = Place("s.u.", names=_HEAD)
_SITE_Q = Place("s.u.", q="s.qv.", names={**_HEAD, "q_idx": "(s.q0 + i)"})
_SITE_KV = Place("s.u.", kv="s.kvv.", names={**_HEAD, "kv_idx": "(s.kv0 + j)"})

_ADD_LANES = """\
// The sum of all lanes.
static inline double add_lanes(VF v) {
  F lanes[W];
  store_lanes(lanes, v);
  double sum = 0;
  for (int l = 0; l < W; l++) sum += lanes[l];
  return sum;
}"""
_SCATTER = """\
// Adds each lane to an element of its own choice; a zero adds nothing.
template <class Sum> static inline void scatter_add(Sum* base, VL offsets, VF v) {
  i64 at[W];
  F lanes[W];
  store_lanes(at, offsets);
  store_lanes(lanes, v);
  for (int l = 0; l < W; l++)
    if (lanes[l] != 0) base[at[l]] += lanes[l];
}"""


@dataclass
class GradientCode:
    """Pieces of the generated region.

    Attributes:
        helpers: Functions the others call.
        fields: Name and type of the fields of GradTile.
        score_grad: Statements of that hook; so too ``begin``, ``flush_kv`` and ``flush_q``.
    """

    helpers: list[str] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    score_grad: list[str] = field(default_factory=list)
    begin: list[str] = field(default_factory=list)
    flush_kv: list[str] = field(default_factory=list)
    flush_q: list[str] = field(default_factory=list)


def lower_gradients(layout: Layout) -> GradientCode:
    """The code of the four gradient hooks."""
    hooks, code = layout.hooks, GradientCode()
    emitter = Emitter(layout, VECTOR)
    result = "grad" if hooks.score_grad is None else emitter.vector(hooks.score_grad)
    if hooks.capture_grads:
        live = emitter.statement("VM", "to_mask(grad != splat<VF>(0))")
        begin = Emitter(layout, _SITE)
        for number, grad in enumerate(hooks.capture_grads):
            value = f"select({live}, {emitter.vector(grad.value)}, splat<VF>(0))"
            _begin(code, layout, begin, number, grad)
            _COLLECT[_way(grad)](code, layout, emitter, number, grad, value)
        code.begin[:0] = begin.lines
    ways = {_way(grad) for grad in hooks.capture_grads}
    code.helpers += [_ADD_LANES] * bool(ways & {"none", "kv"}) + [_SCATTER] * ("qkv" in ways)
    code.score_grad += [*emitter.lines, f"return {result};"]
    return code


def _way(grad: CaptureGrad) -> str:
    """Which of the ways in the head of this file a gradient is collected."""
    names = [i.name for i in grad.indices if isinstance(i, Input) and i.name in ("q_idx", "kv_idx")]
    varying = [index for index in grad.indices if reaches(index)]
    exact = grad.dense and len(varying) == 2 and sorted(names) == ["kv_idx", "q_idx"]
    return "tile" if exact else grad.depends


def _begin(
    code: GradientCode, layout: Layout, emitter: Emitter, number: int, grad: CaptureGrad
) -> None:
    """The buffer's address, with the indices applied that are the same for the whole head."""
    element = "F" if grad.dense else "double"
    at = _offset(emitter, layout, grad, _dims(grad, {()}))
    code.fields.append((f"p{number}", f"{element}*"))
    code.begin.append(
        f"g.p{number} = ({element}*)s.a.grads[{number}]"
        f" + s.group * s.a.grad_group_strides[{number}] + {at};"
    )


def _dims(grad: CaptureGrad, wanted: set[tuple[str, ...]]) -> list[tuple[int, Node]]:
    return [
        (dim, index)
        for dim, index in enumerate(grad.indices)
        if tuple(sorted(reaches(index))) in wanted
    ]


def _offset(
    emitter: Emitter, layout: Layout, grad: CaptureGrad, dims: Sequence[tuple[int, Node]]
) -> str:
    return emitter.offset(dims, lambda dim: layout.dense_stride(grad.capture, dim))


def _collect_none(
    code: GradientCode, layout: Layout, emitter: Emitter, n: int, grad: CaptureGrad, value: str
) -> None:
    code.fields += [(f"acc{n}", "VF"), (f"sum{n}", "double")]
    code.begin.append(f"g.acc{n} = splat<VF>(0), g.sum{n} = 0;")
    emitter.lines.append(f"g.acc{n} += {value};")
    code.flush_kv.append(f"g.sum{n} += add_lanes(g.acc{n}), g.acc{n} = splat<VF>(0);")
    code.flush_q.append(f"*g.p{n} += g.sum{n};")


def _collect_q(
    code: GradientCode, layout: Layout, emitter: Emitter, n: int, grad: CaptureGrad, value: str
) -> None:
    code.fields += [(f"acc{n}[BM / W]", "VF"), (f"sum{n}[BM]", "double")]
    code.begin += [
        f"for (VF& acc : g.acc{n}) acc = splat<VF>(0);",
        f"for (double& sum : g.sum{n}) sum = 0;",
    ]
    emitter.lines.append(f"g.acc{n}[i / W] += {value};")
    code.flush_kv += [
        "for (i64 i = 0; i < BM; i += W) {",
        "  F lanes[W];",
        f"  store_lanes(lanes, g.acc{n}[i / W]);",
        f"  g.acc{n}[i / W] = splat<VF>(0);",
        f"  for (int l = 0; l < W; l++) g.sum{n}[i + l] += lanes[l];",
        "}",
    ]
    code.flush_q += _loop(layout, _SITE_Q, grad, "i", f"g.p{n}", f"g.sum{n}[i]")


def _collect_kv(
    code: GradientCode, layout: Layout, emitter: Emitter, n: int, grad: CaptureGrad, value: str
) -> None:
    code.fields.append((f"acc{n}[BN]", "VF"))
    code.begin.append(f"for (VF& acc : g.acc{n}) acc = splat<VF>(0);")
    emitter.lines.append(f"g.acc{n}[j] += {value};")
    code.flush_kv += _loop(layout, _SITE_KV, grad, "j", f"g.p{n}", f"add_lanes(g.acc{n}[j])")
    code.flush_kv.append(f"for (i64 j = 0; j < n; j++) g.acc{n}[j] = splat<VF>(0);")


def _loop(
    layout: Layout, place: Place, grad: CaptureGrad, counter: str, base: str, value: str
) -> list[str]:
    emitter = Emitter(layout, place)
    at = _offset(emitter, layout, grad, _dims(grad, {("q",), ("kv",)}))
    body = [f"  {line}" for line in emitter.lines]
    return [
        f"for (i64 {counter} = 0; {counter} < n; {counter}++) {{",
        *body,
        f"  {base}[{at}] += {value};",
        "}",
    ]


def _collect_anywhere(
    code: GradientCode, layout: Layout, emitter: Emitter, n: int, grad: CaptureGrad, value: str
) -> None:
    keys = _offset(emitter, layout, grad, _dims(grad, {("kv",)}))
    terms = []
    for dim, index in _dims(grad, {("q",), ("kv", "q")}):
        stride = layout.dense_stride(grad.capture, dim)
        lane = f"convert<VL>({emitter.vector(index)})"
        terms.append(f"{lane} * splat<VL>(s.u.{stride})" if stride else lane)
    emitter.lines.append(f"scatter_add(g.p{n} + {keys}, {' + '.join(terms)}, {value});")


def _collect_tile(
    code: GradientCode, layout: Layout, emitter: Emitter, n: int, grad: CaptureGrad, value: str
) -> None:
    # Neighbouring queries lie a row apart in memory: going there lane by lane costs a cache miss
    # each, going there once a tile costs one per row.
    steps = {}
    for dim, index in enumerate(grad.indices):
        if isinstance(index, Input) and index.name in ("q_idx", "kv_idx"):
            stride = layout.dense_stride(grad.capture, dim)
            steps[index.name] = f"s.u.{stride}" if stride else "1"
    code.fields.append((f"acc{n}[BN * BM]", "alignas(64) F"))
    code.begin.append(f"__builtin_memset(g.acc{n}, 0, sizeof g.acc{n});")
    emitter.lines.append(f"store_lanes(g.acc{n} + j * BM + i, {value});")
    at = f"(s.q0 + i) * {steps['q_idx']} + s.kv0 * {steps['kv_idx']}"
    if steps["kv_idx"] == "1":
        step, rows = steps["q_idx"], "least(BM, s.q_last - s.q0 + 1)"
        to = f"g.p{n} + s.q0 * {step} + s.kv0"
        code.flush_kv.append(f"add_turned({to}, {step}, g.acc{n}, {rows}, n);")
        return
    code.flush_kv += [
        "for (i64 i = 0; i < BM && s.q0 + i <= s.q_last; i++) {",
        f"  F* row = g.p{n} + {at};",
        f"  for (i64 j = 0; j < n; j++) row[j * {steps['kv_idx']}] += g.acc{n}[j * BM + i];",
        "}",
        f"__builtin_memset(g.acc{n}, 0, n * BM * sizeof(F));",
    ]


_COLLECT = {
    "tile": _collect_tile,
    "none": _collect_none,
    "q": _collect_q,
    "kv": _collect_kv,
    "qkv": _collect_anywhere,
}
