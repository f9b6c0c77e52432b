"""Writes graphs as C++ statements, one per node: scalars where all queries agree, else vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from flexattn.ir.nodes import BOOL, FLOATS, I32, I64, Apply, Const, DType, Input, Load, Node, walk
from flexattn.lowering.layout import Layout
from flexattn.lowering.spellings import SCALAR_TYPES, SPELLINGS, VECTOR_TYPES, kind


@dataclass(frozen=True)
class Place:
    """How a piece of generated code refers to what surrounds it.

    Attributes:
        uniform: Prefix of the fields of Uniform.
        q: Prefix of the fields of QValues.
        kv: Prefix of the fields of KVValues.
        names: Spelling of the inputs ``b h q_idx kv_idx score grad`` as i64 or F scalars.
        lanes: Whether values of the query are vectors over lanes from query ``i`` of the tile.
    """

    uniform: str
    q: str = ""
    kv: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    lanes: bool = False


# Inside a vector hook, called with the site s and (i, j).
VECTOR = Place(
    "s.u.",
    "s.qv.",
    "s.kvv.",
    {"b": "s.b", "h": "s.h", "kv_idx": "(s.kv0 + j)", "score": "score", "grad": "grad"},
    lanes=True,
)
_Dims: TypeAlias = list[tuple[int, Node]]
_LANE_INPUTS = frozenset({"q_idx", "score", "grad"})


class Emitter:
    """Turns nodes into statements; every node once.

    Attributes:
        lines: The statements so far.
    """

    def __init__(self, layout: Layout, place: Place) -> None:
        self.layout, self.place = layout, place
        self.lines: list[str] = []
        self._values: dict[Node, str] = {}
        self._splats: dict[Node, str] = {}
        self._varies: dict[Node, bool] = {}
        self._count = 0

    def value(self, root: Node) -> str:
        """Expression for ``root``: a vector if it varies from lane to lane, else a scalar."""
        for node in walk(root):
            if node not in self._varies:
                self._varies[node] = self.place.lanes and _in_lanes(node, self._varies)
                if not isinstance(node, Input):
                    self._values[node] = self._write(node)
        if root not in self._values:  # an input is read only where its value is needed
            self._values[root] = self._write(root)
        return self._values[root]

    def vector(self, root: Node) -> str:
        """Expression for ``root`` as a vector."""
        value = self.value(root)
        if self._varies[root]:
            return value
        if root not in self._splats:
            lane = f"-int{value}" if value.startswith("(") else f"-int({value})"
            lane = lane if root.dtype == BOOL else value
            self._splats[root] = f"splat<{VECTOR_TYPES[root.dtype]}>({lane})"
        return self._splats[root]

    def varies(self, root: Node) -> bool:
        """Whether ``root`` differs from lane to lane."""
        self.value(root)
        return self._varies[root]

    def statement(self, type_name: str, expression: str) -> str:
        """Name of a new constant with that value."""
        name = self.fresh()
        constant_type = type_name if type_name.endswith("*") else f"const {type_name}"
        self.lines.append(f"{constant_type} {name} = {expression};")
        return name

    def fresh(self) -> str:
        """A name not used yet."""
        self._count += 1
        return f"t{self._count}"

    def _write(self, node: Node) -> str:
        match node:
            case Const():
                return constant(node)
            case Input():
                return self._input(node)
            case Load():
                return self._vector_load(node) if self._varies[node] else self._scalar_load(node)
            case Apply():
                return self._apply(node)
        raise TypeError(f"not a node: {node!r}")

    def _apply(self, node: Apply) -> str:
        lanes = self._varies[node]
        args = [self.vector(arg) if lanes else self.value(arg) for arg in node.args]
        last = node.args[0 if node.op == "override_grad" else -1]
        spelling = SPELLINGS[node.op][kind(last.dtype)]
        if node.op == "pow":
            return self._power(node, args, lanes)
        text = spelling.form(vector=lanes).format(*args, V=VECTOR_TYPES[last.dtype])
        if text in args:
            return text
        types = VECTOR_TYPES if lanes else SCALAR_TYPES
        return self.statement(types[node.dtype], text)

    def _power(self, node: Apply, args: Sequence[str], lanes: bool) -> str:
        types, exponent = VECTOR_TYPES if lanes else SCALAR_TYPES, node.args[1]
        if node.dtype not in FLOATS:  # the exponent is a constant
            return self.statement(types[node.dtype], f"m_pow({args[0]}, {self.value(exponent)})")
        # The exponents that torch treats apart, as torch does.
        known = exponent.value if isinstance(exponent, Const) else None
        base = args[0]
        text = {
            2.0: f"{base} * {base}",
            3.0: f"{base} * {base} * {base}",
            0.5: f"m_sqrt({base})",
            -0.5: f"m_rsqrt({base})",
            -1.0: f"F(1) / {base}",
            -2.0: f"F(1) / ({base} * {base})",
        }.get(known, f"m_pow({base}, {args[1]})")  # type: ignore[arg-type]
        return self.statement(types[node.dtype], text)

    def _input(self, node: Input) -> str:
        name, dtype, place = node.name, node.dtype, self.place
        group, _, number = name.partition(":")
        if number:
            return self._hoisted(group, number, dtype)
        if name == "q_idx" and place.lanes:
            vector = VECTOR_TYPES[dtype]
            return self.statement(vector, f"s.q_idx<{vector}>(i)")
        if name in place.names:
            return place.names[name] if dtype in FLOATS else _as_int(place.names[name], dtype)
        if name.startswith("size"):
            capture, dim = map(int, name[4:].split("_"))
            return _as_int(place.uniform + self.layout.size(capture, dim), dtype)
        field_name = place.uniform + self.layout.number(int(name[1:]))
        return field_name if dtype in FLOATS else _as_int(field_name, dtype)

    def _hoisted(self, group: str, number: str, dtype: DType) -> str:
        place = self.place
        if group == "u":
            return f"{place.uniform}u_{number}"
        if group == "q" and place.lanes:
            stored = VECTOR_TYPES[I32 if dtype == BOOL else dtype]
            text = f"load_lanes<{stored}>({place.q}q_{number} + i)"
            return self.statement(
                VECTOR_TYPES[dtype], f"to_mask({text} != 0)" if dtype == BOOL else text
            )
        element = f"{place.q}q_{number}[i]" if group == "q" else f"{place.kv}kv_{number}[j]"
        return f"({element} != 0)" if dtype == BOOL else element

    # Loads -----------------------------------------------------------------------------------

    def offset(self, dims: Sequence[tuple[int, Node]], step: Callable[[int], str | None]) -> str:
        """Sum of scalar indices times strides, in elements; ``step`` names a dimension's stride."""
        terms = []
        for dim, index in dims:
            stride, value = step(dim), self.value(index)
            scaled = f" * {self.place.uniform}{stride}" if stride else ""
            terms.append(f"i64({value}){scaled}")
        return " + ".join(terms) or "0"

    def _scalar_load(self, node: Load) -> str:
        layout, capture = self.layout, node.capture
        base = self.place.uniform + layout.capture(capture)
        at = self.offset(list(enumerate(node.indices)), lambda dim: layout.stride(capture, dim))
        scalar = SCALAR_TYPES[node.dtype]
        if node.dtype == BOOL:
            return self.statement(scalar, f"{base}[{at}] != 0")
        return self.statement(scalar, f"widen<{scalar}>({base}[{at}])")

    def ask(self, node: Load) -> None:
        """Statements that ask for the elements of ``n`` keys from ``j`` on of a turned table."""
        base, keys, lanes = self._parts(node)
        if turned := self._turned(node, keys, lanes):
            self.lines.append(f"if ({turned[0]}) ask_for_rows({base}, {turned[1]}, n);")

    def _vector_load(self, node: Load) -> str:
        layout, place = self.layout, self.place
        base, keys, lanes = self._parts(node)
        narrow = all(index.dtype == I32 for _, index in lanes)
        far = self._gather(node, base, self._lane_offsets(node, lanes, I64))
        name, vector = self.fresh(), VECTOR_TYPES[node.dtype]
        branches = []
        if run := self._run(node, base, lanes):
            branches.append(run)
        if turned := self._turned(node, keys, lanes):
            row = f"{place.kv}{layout.blocks(node)}.row({base}, {turned[1]}, i, j)"
            text = f"to_mask((VM){row} != 0)" if node.dtype == BOOL else f"({vector}){row}"
            branches.append((turned[0], text))
        if narrow:
            near = self._gather(node, base, self._lane_offsets(node, lanes, I32))
            branches.append(
                (f"__builtin_expect(!{place.uniform}{layout.far(node.capture)}, 1)", near)
            )
        self.lines.append(f"{vector} {name};")
        for condition, text in branches:
            self.lines.append(f"if ({condition}) {name} = {text}; else")
        self.lines.append(f"{name} = {far};")
        return name

    def _parts(self, node: Load) -> tuple[str, _Dims, _Dims]:
        """The address with all indices applied but the lanes', the keys' indices, the lanes'."""
        layout, capture = self.layout, node.capture
        dims = list(enumerate(node.indices))
        reach = {index: reaches(index) for _, index in dims}
        for _, index in dims:
            self.value(index)
        head = [(dim, index) for dim, index in dims if not reach[index]]
        keys = [(dim, index) for dim, index in dims if reach[index] and not self._varies[index]]
        lanes = [(dim, index) for dim, index in dims if self._varies[index]]
        base = self.place.uniform + layout.address(capture, head)
        if keys:
            at = self.offset(keys, lambda dim: layout.stride(capture, dim))
            base = self.statement(f"const {layout.element(capture)}*", f"{base} + {at}")
        return base, keys, lanes

    def _run(self, node: Load, base: str, lanes: _Dims) -> tuple[str, str] | None:
        """Condition and text of a plain vector load: neighbouring queries read neighbours.

        Of ``q_idx`` plus or minus what is the same in all lanes; or of that minus ``q_idx``, which
        reads them backwards.
        """
        (dim, index), *more = lanes
        line = None if more else self._line(index)
        if line is None:
            return None
        storage = self.layout.hooks.captures[node.capture].dtype
        if storage == node.dtype and storage != BOOL:
            load = f"load_lanes<{VECTOR_TYPES[node.dtype]}>"
        elif storage in ("bf16", "f16") and self.layout.hooks.compute == "f32":
            load = "load_wide"
        else:
            return None
        stride = self.place.uniform + self.layout.stride(node.capture, dim)
        sign, terms = line
        shift = "".join(f" {'+' if by > 0 else '-'} i64({self.value(term)})" for by, term in terms)
        first = "(s.q0 + i)" if sign > 0 else "(s.q0 + i + W - 1)"
        text = f"{load}({base}{shift} {'+' if sign > 0 else '-'} {first})"
        text = text if sign > 0 else f"reverse_lanes({text})"
        return f"{stride} == 1 && s.q0 + i + W - 1 <= s.q_last", text

    def _turned(self, node: Load, keys: _Dims, lanes: _Dims) -> tuple[str, str] | None:
        """Condition and lanes' offsets where keys read neighbours, and queries other rows.

        Of one dimension indexed by ``kv_idx`` plus what is the same for all pairs of the tile, and
        others that depend on the query alone.
        """
        layout, uniform = self.layout, self.place.uniform
        storage, compute = layout.hooks.captures[node.capture].dtype, layout.hooks.compute
        if _TURNED[compute].get(storage) != node.dtype or len(keys) != 1:
            return None
        (dim, index), *_ = keys
        if not _is_key(index, layout) or any(reaches(lane) != {"q"} for _, lane in lanes):
            return None
        first = f"i64({self.value(index)}) - j % W"
        stride, size = layout.stride(node.capture, dim), layout.size(node.capture, dim)
        condition = f"{uniform}{stride} == 1 && {first} >= 0 && {first} + W <= {uniform}{size}"
        if any(lane.dtype != I32 for _, lane in lanes):
            return condition, self._lane_offsets(node, lanes, I64)
        condition += f" && !{uniform}{layout.far(node.capture)}"
        return condition, self._lane_offsets(node, lanes, I32)

    def _line(self, index: Node) -> tuple[int, list[tuple[int, Node]]] | None:
        """``index`` as ±q_idx and signed terms without lanes; None where it is no such sum."""
        match index:
            case Input("q_idx"):
                return 1, []
            case Apply("add" | "sub" as op, (a, b)):
                by = 1 if op == "add" else -1
                if not self._varies[b]:
                    line = self._line(a)
                    return line and (line[0], [*line[1], (by, b)])
                if not self._varies[a]:
                    line = self._line(b)
                    return line and (by * line[0], [(1, a), *((by * s, n) for s, n in line[1])])
            case Apply("neg", (a,)):
                line = self._line(a)
                return line and (-line[0], [(-s, n) for s, n in line[1]])
        return None

    def _lane_offsets(self, node: Load, lanes: _Dims, dtype: DType) -> str:
        layout, capture = self.layout, node.capture
        vector = VECTOR_TYPES[dtype]
        alone = [(dim, index) for dim, index in lanes if reaches(index) == {"q"}]
        terms = []
        if alone:
            stored = layout.offset(capture, alone, dtype)
            terms.append(f"load_lanes<{vector}>({self.place.q}{stored} + i)")
        for dim, index in lanes:
            if (dim, index) not in alone:
                stride = f"{self.place.uniform}{layout.stride(capture, dim)}"
                step = f"int({stride})" if dtype == I32 else stride
                value = self.vector(index)
                lane = value if index.dtype == dtype else f"convert<{vector}>({value})"
                terms.append(f"{lane} * splat<{vector}>({step})")
        return " + ".join(terms)

    def _gather(self, node: Load, base: str, offsets: str) -> str:
        if node.dtype == BOOL:
            return f"to_mask(gather<VI>({base}, {offsets}) != 0)"
        return f"gather<{VECTOR_TYPES[node.dtype]}>({base}, {offsets})"


# Storage of tables that turned.h reads, and as what, by compute dtype: one lane of a VF each.
_TURNED: dict[str, dict[str, DType]] = {
    "f32": {"f32": "f32", "bf16": "f32", "f16": "f32", "i32": I32, "bool": BOOL},
    "f64": {"f64": "f64"},
}


def _is_key(index: Node, layout: Layout) -> bool:
    """Whether ``index`` is ``kv_idx``, plus or minus what does not depend on the pair."""
    match index:
        case Input(name) if name.startswith("kv:"):
            return _is_key(layout.hooks.kv[int(name[3:])], layout)
        case Input("kv_idx"):
            return True
        case Apply("add", (a, b)):
            return (_is_key(a, layout) and not reaches(b)) or (
                _is_key(b, layout) and not reaches(a)
            )
        case Apply("sub", (a, b)):
            return _is_key(a, layout) and not reaches(b)
    return False


def reaches(root: Node) -> frozenset[str]:
    """Which of ``q`` and ``kv`` (``qkv`` for both) a value depends on; empty for neither."""
    found = set()
    for node in walk(root):
        if isinstance(node, Input):
            if node.name in _LANE_INPUTS or node.name.startswith("q:"):
                found.add("q")
            if node.name in ("kv_idx", "score", "grad") or node.name.startswith("kv:"):
                found.add("kv")
    return frozenset(found)


def constant(node: Const) -> str:
    """A C++ literal with the exact value."""
    value = node.value
    if node.dtype == BOOL:
        return "true" if value else "false"
    if node.dtype in FLOATS:
        return _float_literal(float(value))
    text = f"{value}LL" if node.dtype == I64 else str(value)
    if value == -(2**63):
        return "(-9223372036854775807LL - 1)"
    if value == -(2**31) and node.dtype == I32:
        return "(-2147483647 - 1)"
    return f"({text})" if value < 0 else text


def _float_literal(value: float) -> str:
    if value != value:
        return 'F(__builtin_nan(""))'
    if value in (float("inf"), float("-inf")):
        return "INF" if value > 0 else "(-INF)"
    return f"F({value.hex()})"


def _as_int(text: str, dtype: DType) -> str:
    return f"int({text.strip('()')})" if dtype == I32 else text


def _in_lanes(node: Node, varies: Mapping[Node, bool]) -> bool:
    if isinstance(node, Input):
        return node.name in _LANE_INPUTS or node.name.startswith("q:")
    return any(varies[arg] for arg in node.args)
