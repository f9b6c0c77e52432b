"""What generated code keeps per head and per tile: the fields of Uniform, QValues and KVValues.

Lowering a hook asks for what it needs (a lifted number, a stride, an address that only depends
on the head) by name; the structs and the functions that fill them are written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import I64, Load, Node
from flexattn.lowering.spellings import CAPTURE_TYPES


@dataclass
class Layout:
    """Fields asked for so far.

    Attributes:
        hooks: What is lowered.
        first: Fields of Uniform that need nothing but ``Mods``: name → (C++ type, value).
        addresses: Fields of Uniform, (capture, dimensions and indices) → name: the capture's
            address with the indices that are the same for the whole head applied.
        offsets: Fields of QValues, (capture, dimensions and indices) → name: the offset in
            elements that the query contributes.
        turned: Fields of KVValues, load → name: the blocks of a table that are read along its rows.
    """

    hooks: Hooks
    first: dict[str, tuple[str, str]] = field(default_factory=dict)
    addresses: dict[tuple[object, ...], str] = field(default_factory=dict)
    offsets: dict[tuple[object, ...], str] = field(default_factory=dict)
    turned: dict[Load, str] = field(default_factory=dict)

    def number(self, position: int) -> str:
        """Field holding lifted number ``position`` of the program."""
        is_int = self.hooks.numbers[position] == I64
        place = sum((dtype == I64) == is_int for dtype in self.hooks.numbers[:position])
        value = ("i64", f"a.ints[{place}]") if is_int else ("F", f"F(a.floats[{place}])")
        return self._first(f"n{position}", value)

    def size(self, capture: int, dim: int) -> str:
        at = self._dimension(capture, dim)
        return self._first(f"size{capture}_{dim}", ("i64", f"a.capture_sizes[{at}]"))

    def stride(self, capture: int, dim: int) -> str:
        at = self._dimension(capture, dim)
        return self._first(f"stride{capture}_{dim}", ("i64", f"a.capture_strides[{at}]"))

    def capture(self, capture: int) -> str:
        """Field holding the address of a capture's first element."""
        pointer = f"const {self.element(capture)}*"
        return self._first(f"c{capture}", (pointer, f"({pointer})a.captures[{capture}]"))

    def far(self, capture: int) -> str:
        """Field telling whether offsets into a capture may need more than 32 bits."""
        start, end = self._dimension(capture, 0), self._dimension(capture + 1, 0)
        return self._first(f"far{capture}", ("bool", f"needs_64_bits(a, {start}, {end})"))

    def dense_stride(self, capture: int, dim: int) -> str | None:
        """Field holding a stride of the gradient's buffer, which is dense; None for 1."""
        if dim == self.hooks.captures[capture].ndim - 1:
            return None
        size, outer = self.size(capture, dim + 1), self.dense_stride(capture, dim + 1)
        value = f"u.{size} * u.{outer}" if outer else f"u.{size}"
        return self._first(f"step{capture}_{dim}", ("i64", value))

    def address(self, capture: int, dims: Sequence[tuple[int, Node]]) -> str:
        """Field holding a capture's address with the indices of ``dims`` applied."""
        if not dims:
            return self.capture(capture)
        return self.addresses.setdefault((capture, *dims), f"p{len(self.addresses)}")

    def offset(self, capture: int, dims: Sequence[tuple[int, Node]], dtype: str) -> str:
        """Field of QValues holding the offset that indices depending on the query make."""
        return self.offsets.setdefault((dtype, capture, *dims), f"o{len(self.offsets)}")

    def blocks(self, load: Load) -> str:
        """Field of KVValues holding turned blocks of a table."""
        return self.turned.setdefault(load, f"t{len(self.turned)}")

    def element(self, capture: int) -> str:
        """C++ type of a capture's elements."""
        return CAPTURE_TYPES[self.hooks.captures[capture].dtype]

    def _first(self, name: str, value: tuple[str, str]) -> str:
        self.first.setdefault(name, value)
        return name

    def _dimension(self, capture: int, dim: int) -> int:
        return sum(c.ndim for c in self.hooks.captures[:capture]) + dim
