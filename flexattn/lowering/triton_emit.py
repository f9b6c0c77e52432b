"""Writes graphs as Triton statements, one per node, on tensors of whatever shapes broadcast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import (
    BOOL,
    F32,
    F64,
    FLOATS,
    I64,
    Apply,
    Const,
    DType,
    Input,
    Load,
    Node,
    walk,
)
from flexattn.lowering.triton_spellings import SPELLINGS, TYPES, kind

_VARYING = frozenset({"q_idx", "kv_idx", "score", "score_log2", "output", "grad"})
_HOISTED = {"u": "u", "q": "qv", "kv": "kvv"}
# Quotients by these need no care for -1.
_PLAIN_DIVISIONS = {"truncdiv": "{0} // {1}", "fmod": "{0} % {1}"}


@dataclass(frozen=True)
class CaptureLayout:
    """Where things lie in the tuple ``captures``: address, sizes and strides of each, numbers."""

    hooks: Hooks

    def address(self, capture: int) -> str:
        return f"captures[{self._start(capture)}]"

    def size(self, capture: int, dim: int) -> str:
        return f"captures[{self._start(capture) + 1 + dim}]"

    def stride(self, capture: int, dim: int) -> str:
        ndim = self.hooks.captures[capture].ndim
        return f"captures[{self._start(capture) + 1 + ndim + dim}]"

    def number(self, position: int) -> str:
        return f"captures[{self._start(len(self.hooks.captures)) + position}]"

    def _start(self, capture: int) -> int:
        return sum(1 + 2 * known.ndim for known in self.hooks.captures[:capture])


@dataclass
class TritonEmitter:
    """Turns nodes into statements; every node once.

    Attributes:
        layout: What the hook's argument ``captures`` holds.
        spellings: Text per operation that replaces the table's.
        lines: The statements so far.
    """

    layout: CaptureLayout
    spellings: Mapping[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    _values: dict[Node, str] = field(default_factory=dict)

    def value(self, root: Node) -> str:
        """Name of the value of ``root``, or an expression that needs no parentheses."""
        for node in walk(root):
            if node not in self._values and not isinstance(node, Const):
                self._values[node] = self._write(node)
        if isinstance(root, Const):
            return typed(root)
        return self._values[root]

    def statement(self, expression: str) -> str:
        """Name of a new variable with that value."""
        name = f"t{len(self.lines) + 1}"
        self.lines.append(f"{name} = {expression}")
        return name

    def _write(self, node: Node) -> str:
        match node:
            case Input():
                return self._input(node)
            case Load():
                return self._load(node)
            case Apply():
                return self._apply(node)
        raise TypeError(f"not a node: {node!r}")

    def _input(self, node: Input) -> str:
        name, dtype = node.name, node.dtype
        group, _, number = name.partition(":")
        if number:
            return f"{_HOISTED[group]}[{number}]"
        if name in _VARYING or name in ("b", "h"):
            return name if dtype != I64 else self.statement(f"tl.cast({name}, tl.int64)")
        if name.startswith("size"):
            text = self.layout.size(*map(int, name[4:].split("_")))
        else:
            text = self.layout.number(int(name[1:]))
        # The interpreter hands numbers on as Python's, which would pass through float32.
        exact = dtype == F64
        return self.statement(
            f"tl.full((), {text}, tl.float64)" if exact else f"tl.cast({text}, {TYPES[dtype]})"
        )

    # Operations ------------------------------------------------------------------------------

    def _apply(self, node: Apply) -> str:
        if node.op == "pow":
            return self._power(node)
        last = node.args[0 if node.op == "override_grad" else -1]
        row = SPELLINGS[node.op]
        text = self.spellings.get(node.op, row[kind(last.dtype)])
        if kind(last.dtype) == "int" and isinstance(last, Const) and last.value not in (0, -1):
            text = _PLAIN_DIVISIONS.get(node.op, text)
        args = self._arguments(node, literal="(" not in text or node.op == "where")
        text = text.format(*args, T=TYPES[node.dtype])
        if node.dtype == BOOL and last.dtype in FLOATS and not varies(node):
            # The interpreter takes a scalar that floats were compared for a float once it meets
            # a tensor.
            text = f"tl.where({text}, 1, 0) != 0"
        return text if text in args else self.statement(text)

    def _arguments(self, node: Apply, *, literal: bool) -> list[str]:
        """The arguments; constants as bare literals where they take another argument's type."""
        peers = node.args[1:] if node.op == "where" else node.args
        literal = literal and any(not isinstance(arg, Const) for arg in peers)
        return [
            bare(arg)
            if literal and isinstance(arg, Const) and _has_literal(arg)
            else self.value(arg)
            for arg in node.args
        ]

    def _power(self, node: Apply) -> str:
        base, exponent = node.args
        known = exponent.value if isinstance(exponent, Const) else None
        if node.dtype not in FLOATS:
            return self._whole_power(self.value(base), int(known or 0), node.dtype)
        # The exponents that torch treats apart, as torch does.
        name, one = self.value(base), typed(Const(1.0, node.dtype))
        text = {
            2.0: f"{name} * {name}",
            3.0: f"{name} * {name} * {name}",
            0.5: f"m_sqrt({name})",
            -0.5: f"tl.rsqrt({name})",
            -1.0: f"m_div({one}, {name})",
            -2.0: f"m_div({one}, {name} * {name})",
        }.get(known)  # type: ignore[arg-type]
        return self.statement(text or f"m_pow({name}, {self.value(exponent)})")

    def _whole_power(self, base: str, exponent: int, dtype: DType) -> str:
        result = ""
        while exponent:
            if exponent & 1:
                result = self.statement(f"{result} * {base}") if result else base
            exponent >>= 1
            if exponent:
                base = self.statement(f"{base} * {base}")
        return result or typed(Const(1, dtype))

    # Loads -----------------------------------------------------------------------------------

    def _load(self, node: Load) -> str:
        place = self.layout.address(node.capture)
        dims = list(enumerate(node.indices))
        # What is the same for the whole tile first: it makes a scalar address.
        for varying in (False, True):
            offset = self.offset(
                [
                    (index, self.layout.stride(node.capture, dim))
                    for dim, index in dims
                    if varies(index) == varying
                ]
            )
            if offset:
                place = self.statement(f"{place} + ({offset})")
        storage = self.layout.hooks.captures[node.capture].dtype
        if storage == "bool":
            return self.statement(f"tl.load({place}) != 0")
        same = storage == node.dtype
        return self.statement(f"tl.load({place})" + ("" if same else f".to({TYPES[node.dtype]})"))

    def offset(self, terms: Sequence[tuple[Node, str]]) -> str:
        """Sum of indices times strides, in elements; empty for nothing."""
        found = []
        for index, stride in terms:
            if isinstance(index, Const):
                if index.value:
                    found.append(f"{stride} * {index.value}" if index.value != 1 else stride)
            elif index.dtype == I64:
                found.append(f"m_step({self.value(index)}, {stride})")
            else:
                found.append(f"{self.value(index)} * {stride}")
        return " + ".join(found)


def varies(root: Node) -> bool:
    """Whether a value differs inside one head."""
    return any(
        isinstance(node, Input) and (node.name in _VARYING or node.name.startswith(("q:", "kv:")))
        for node in walk(root)
    )


def bare(node: Const) -> str:
    """A literal with the exact value, of the type of what it meets."""
    value = node.value
    if node.dtype not in FLOATS:
        return str(value)
    value = float(value)
    if node.dtype == F32:
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    if math.isfinite(value):
        return repr(value) if node.dtype == F64 else _short(value)
    return f'float("{value}")'


def typed(node: Const) -> str:
    """An expression of the constant's own type."""
    if node.dtype in FLOATS and not _has_literal(node):
        return f"-1.0 * {typed(Const(0.0, node.dtype))}"
    if node.dtype == F64:  # a literal alone would pass through float32
        return f"tl.full((), {bare(node)}, tl.float64)"
    return f"tl.cast({bare(node)}, {TYPES[node.dtype]})"


def _has_literal(node: Const) -> bool:
    """Triton makes 0.0 of the literal -0.0."""
    if node.dtype not in FLOATS:
        return node.dtype != BOOL
    return node.value != 0 or math.copysign(1.0, node.value) > 0


def _short(value: float) -> str:
    """The shortest literal that rounds to this float32."""
    text = repr(np.float32(value).item()) if value == 0 else str(np.float32(value))
    return text if float(np.float32(float(text))) == value else repr(value)
