"""The mods region of a C++ kernel, from the hooks that the passes made (see mods.h)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import I32, Node, walk
from flexattn.ir.program import Piece
from flexattn.lowering.emit import VECTOR, Emitter, Place
from flexattn.lowering.gradients import GradientCode, lower_gradients
from flexattn.lowering.layout import Layout
from flexattn.lowering.spellings import SCALAR_TYPES, STORED_TYPES

_UNIFORM = Place("u.", names={"b": "b", "h": "h"})
_Q = Place("u.", q="qv.", names={"b": "b", "h": "h", "q_idx": "q"})
_KV = Place("u.", kv="kvv.", names={"b": "b", "h": "h", "kv_idx": "(kv0 + j)"})
_ONE_QUERY = Place("u.", names={"b": "b", "h": "h", "q_idx": "q"})

_FAR = """\
// Whether an element of a capture may lie beyond what a 32-bit offset reaches.
static inline bool needs_64_bits(const Mods& a, int first, int last) {
  double span = 0;
  for (int d = first; d < last; d++)
    span += double(a.capture_sizes[d]) * __builtin_fabs(double(a.capture_strides[d]));
  return span > 2147483647.0;
}
"""


def lower_hooks(hooks: Hooks) -> str:
    """Text for the mods region of a kernel that asks this of the mods."""
    layout = Layout(hooks)
    mask = ("VM mask_mod(const Site& s, i64 i, i64 j)", hooks.mask, "splat<VM>(-1)")
    score = ("VF score_mod(const Site& s, i64 i, i64 j, VF score)", hooks.score, "score")
    fault = ("VM fault(const Site& s, i64 i, i64 j, VF score)", hooks.fault, "splat<VM>(0)")
    functions = [_vector_hook(layout, *row) for row in (mask, score, fault)]
    functions.append(_ask_for_tables(layout))
    functions += [_kv_ranges(layout), *_gradient_parts(lower_gradients(layout))]
    return "\n".join([*_flags(hooks), assemble(layout, functions)])


def assemble(layout: Layout, functions: Sequence[str]) -> str:
    """``functions``, which were lowered with ``layout``, behind all that they rely on."""
    hoists = [
        _hoist_kv(layout),
        _hoist_q(layout),
        _hoist_uniform(layout),  # last: the others ask for what it provides
    ]
    q_fields = [(f"q_{n}[BM]", STORED_TYPES[node.dtype]) for n, node in enumerate(layout.hooks.q)]
    q_fields += [(f"{name}[BM]", _integer(key)) for key, name in layout.offsets.items()]
    kv_fields = [
        (f"kv_{n}[BN]", STORED_TYPES[node.dtype]) for n, node in enumerate(layout.hooks.kv)
    ]
    kv_fields += [(name, "mutable Turned") for name in layout.turned.values()]
    parts = [
        _FAR if any(name.startswith("far") for name in layout.first) else "",
        _struct("Uniform", _uniform_fields(layout)),
        _struct("QValues", q_fields, "alignas(64) "),
        _struct("KVValues", kv_fields, "alignas(64) "),
        *reversed(hoists),
        *functions,
    ]
    return "\n".join(part for part in parts if part)


def _flags(hooks: Hooks) -> list[str]:
    flags = {
        "SCORE_MOD": hooks.score is not None,
        "MASK_MOD": hooks.mask is not None,
        "FAULT": hooks.fault is not None,
        "CAPTURE_GRADS": bool(hooks.capture_grads),
    }
    lines = [f"constexpr bool HAS_{name} = {str(value).lower()};" for name, value in flags.items()]
    numbers = {"CAPTURE_GRADS": hooks.capture_grads, "RANGES": _row_pieces(hooks)}
    lines += [f"constexpr int NUM_{name} = {len(value)};" for name, value in numbers.items()]
    return [*lines, ""]


def _integer(key: Sequence[object]) -> str:
    return "int" if key[0] == I32 else "i64"


def _uniform_fields(layout: Layout) -> list[tuple[str, str]]:
    fields = [(name, type_name) for name, (type_name, _) in layout.first.items()]
    for number, node in enumerate(layout.hooks.uniform):
        fields.append((f"u_{number}", SCALAR_TYPES[node.dtype]))
    for (capture, *_), name in layout.addresses.items():
        fields.append((name, f"const {layout.element(capture)}*"))  # type: ignore[arg-type]
    return fields


def _struct(name: str, fields: Iterable[tuple[str, str]], prefix: str = "") -> str:
    lines = [f"  {prefix}{type_name} {field};" for field, type_name in fields]
    return "\n".join([f"struct {name} {{", *lines, "};"]) if lines else f"struct {name} {{}};"


def _function(head: str, body: Sequence[str], *, loop: str | None = None) -> str:
    if not body:
        return f"{head} {{}}"
    pad = "    " if loop else "  "
    lines = [pad + line for line in body]
    if loop:
        lines = [f"  {loop}", *lines, "  }"]
    return "\n".join([head + " {", *lines, "}"])


def _hoist_uniform(layout: Layout) -> str:
    emitter = Emitter(layout, _UNIFORM)
    values = []
    for number, node in enumerate(layout.hooks.uniform):
        emitter.lines.append(f"u.u_{number} = {emitter.value(node)};")
    for (capture, *dims), name in layout.addresses.items():
        base = f"u.{layout.capture(capture)}"  # type: ignore[arg-type]
        at = emitter.offset(dims, lambda dim, c=capture: layout.stride(c, dim))  # type: ignore
        values.append(f"u.{name} = {base} + {at};")
    first = [f"u.{name} = {value};" for name, (_, value) in layout.first.items()]
    head = "static inline void hoist_uniform(const Mods& a, i64 b, i64 h, Uniform& u)"
    return _function(head, [*first, *emitter.lines, *values])


def _hoist_q(layout: Layout) -> str:
    emitter = Emitter(layout, _Q)
    for number, node in enumerate(layout.hooks.q):
        emitter.lines.append(f"qv.q_{number}[i] = {emitter.value(node)};")
    for key, name in layout.offsets.items():
        _, capture, *dims = key
        at = emitter.offset(dims, lambda dim, c=capture: layout.stride(c, dim))  # type: ignore
        emitter.lines.append(f"qv.{name}[i] = {_integer(key)}({at});")
    head = (
        "static void hoist_q(const Mods& a, const Uniform& u, i64 b, i64 h, i64 q0, i64 n,"
        " i64 limit, QValues& qv)"
    )
    if not emitter.lines:
        return head + " {}"
    clamp = "const i64 q = q0 + i < limit ? q0 + i : limit - 1;"
    return _function(head, [clamp, *emitter.lines], loop="for (i64 i = 0; i < BM; i++) {")


def _hoist_kv(layout: Layout) -> str:
    emitter = Emitter(layout, _KV)
    for number, node in enumerate(layout.hooks.kv):
        emitter.lines.append(f"kvv.kv_{number}[j] = {emitter.value(node)};")
    head = (
        "static void hoist_kv(const Mods& a, const Uniform& u, i64 b, i64 h, i64 kv0, i64 n,"
        " KVValues& kvv)"
    )
    body = [f"kvv.{name}.clear();" for name in layout.turned.values()]
    if emitter.lines:
        body += ["for (i64 j = 0; j < n; j++) {", *(f"  {line}" for line in emitter.lines), "}"]
    return _function(head, body)


def _vector_hook(
    layout: Layout,
    head: str,
    root: Node | None,
    identity: str,
) -> str:
    emitter = Emitter(layout, VECTOR)
    result = identity if root is None else emitter.vector(root)
    return _function(f"static inline {head}", [*emitter.lines, f"return {result};"])


def _ask_for_tables(layout: Layout) -> str:
    emitter = Emitter(layout, VECTOR)
    root = layout.hooks.score
    for node in [] if root is None else walk(root):
        if node in layout.turned:
            emitter.ask(node)
    head = "FLEX_INLINE void ask_for_tables(const Site& s, i64 i, i64 j, i64 n)"
    return _function(head, emitter.lines)


def _row_pieces(hooks: Hooks) -> tuple[Piece, ...]:
    return () if hooks.ranges is None else hooks.ranges.rows


def _kv_ranges(layout: Layout) -> str:
    emitter = Emitter(layout, _ONE_QUERY)
    for piece, ends in enumerate(_row_pieces(layout.hooks)):
        low, high = map(emitter.value, ends)
        emitter.lines.append(f"low[{piece}] = {low}, high[{piece}] = {high};")
    head = (
        "static inline void kv_ranges(const Mods& a, const Uniform& u, i64 b, i64 h, i64 q,"
        " i64* low, i64* high)"
    )
    return _function(head, emitter.lines)


def _gradient_parts(code: GradientCode) -> list[str]:
    score_grad = "VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g)"
    return [
        *code.helpers,
        _struct("GradTile", code.fields),
        _function(f"static inline {score_grad}", code.score_grad),
        _function("static inline void grad_begin(GradTile& g, const Site& s)", code.begin),
        _function(
            "static inline void grad_flush_kv(GradTile& g, const Site& s, i64 n)", code.flush_kv
        ),
        _function(
            "static inline void grad_flush_q(GradTile& g, const Site& s, i64 n)", code.flush_q
        ),
    ]
