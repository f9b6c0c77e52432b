"""Turns the two traced mods of a call into a program and its run-time arguments.

Numbers must not multiply kernels. Mods of equal structure form a *family*; its first program
has all numbers built in, and the second distinct value met at a position makes that position a
run-time scalar for the family from then on. Bools, and numbers that the tracer needs as
constants (exponents, dims, direct indices), never become one; 0.0, ±1.0, ±inf and NaN never
cause one, because with them built in whole operations disappear. Whole numbers are sizes and
offsets, of which 0 and 1 are like any other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flexattn.ir.nodes import I64, Apply, Input, Load, Node, rewrite, walk
from flexattn.ir.printer import parse_program, print_program
from flexattn.ir.program import CaptureType, Program
from flexattn.runtime import counters
from flexattn.trace import Traced

Number: TypeAlias = bool | int | float

FAMILY_LIMIT = 4096  # families kept; the oldest goes first
VARIANT_LIMIT = 256  # programs kept per family
STORAGE = {
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.float64: "f64",
}
_FAULTING = frozenset({"floordiv", "mod", "truncdiv", "fmod", "shl", "shr"})


class Variant:
    """A program with all that is remembered about it: its text, its kernels, its proofs.

    Attributes:
        program: What kernels are generated from.
        positions: For lifted number ``n{i}`` of the program, its position among the numbers met.
        needs_proof: Whether an index or divisor may be out of range for some lengths.
        inputs: Names of the inputs the two graphs read.
        kernels: Loaded kernels; see `op/kernels.py`.
        facts: Proofs by lengths, sizes and numbers; see `op/kernels.py`.
        plans: Prepared launches by shapes and strides; see `op/cpp.py`.
        ranged: The same program with ranges; see `op/ranges.py`.
    """

    __slots__ = (
        "_text",
        "facts",
        "inputs",
        "kernels",
        "needs_proof",
        "plans",
        "positions",
        "program",
        "ranged",
    )

    def __init__(self, program: Program, positions: tuple[int, ...] = ()) -> None:
        self.program = program
        self.positions = positions
        nodes = list(walk(program.score, program.mask))
        self.needs_proof = any(
            isinstance(node, Load) or (isinstance(node, Apply) and node.op in _FAULTING)
            for node in nodes
        )
        self.inputs = frozenset(node.name for node in nodes if isinstance(node, Input))
        self.kernels: dict[Any, Any] = {}
        self.facts: dict[Any, Any] = {}
        self.plans: dict[Any, Any] = {}
        self.ranged: dict[Any, Variant] = {}
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The program as text, which the torch operators carry."""
        if self._text is None:
            self._text = print_program(self.program)
        return self._text


@dataclass(slots=True)
class Bound:
    """A program with the values of one call.

    Attributes:
        variant: The program.
        captures: Captured tensors, in the program's order.
        ints: Values of the lifted i64 numbers, in order.
        floats: Values of the other lifted numbers, in order.
        score: Traced score_mod, for messages.
        mask: Traced mask_mod, for messages.
    """

    variant: Variant
    captures: list[Tensor]
    ints: list[int]
    floats: list[float]
    score: Traced | None = None
    mask: Traced | None = None

    def replace_captures(self, captures: list[Tensor]) -> Bound:
        """The same program and numbers on other tensors, without the traces."""
        return Bound(self.variant, captures, self.ints, self.floats)


@dataclass(slots=True)
class _Family:
    first: tuple[Number, ...]
    lifted: frozenset[int] = frozenset()
    variants: dict[Hashable, Variant] = field(default_factory=dict)

    def find(self, numbers: tuple[Number, ...]) -> Variant | None:
        """The program for ``numbers``: the one they are built into, or the one that takes them."""
        found = self.variants.get(_variant_key(numbers, frozenset()))
        if found is None and self.lifted:
            found = self.variants.get(_variant_key(numbers, self.lifted))
        return found


_lock = threading.Lock()
_families: dict[Hashable, _Family] = {}
_LIFTED = object()


def bind(score: Traced | None, mask: Traced | None, compute: str) -> Bound:
    """The program of a call and the values that go with it."""
    counters.add("traces", (score is not None) + (mask is not None))
    numbers, captures, links = merge(score, mask)
    key = (score and score.structure, mask and mask.structure, links, compute)
    family = _families.get(key)
    variant = None
    if family is not None:
        variant = family.find(numbers)
    if variant is None:
        with _lock:
            variant = _find_or_make(key, numbers, score, mask, captures, links, compute)
    if not variant.positions:
        return Bound(variant, captures, [], [], score, mask)
    values = [numbers[at] for at in variant.positions]
    kinds = variant.program.numbers
    ints = [int(v) for v, kind in zip(values, kinds, strict=True) if kind == I64]
    floats = [float(v) for v, kind in zip(values, kinds, strict=True) if kind != I64]
    return Bound(variant, captures, ints, floats, score, mask)


@lru_cache(maxsize=1024)
def variant_of_text(text: str) -> Variant:
    """The variant of a printed program."""
    return Variant(parse_program(text))


@counters.on_clear
def clear_programs() -> None:
    """Forget every family, program and loaded kernel of this process."""
    with _lock:
        _families.clear()
    variant_of_text.cache_clear()


def merge(
    score: Traced | None, mask: Traced | None
) -> tuple[tuple[Number, ...], list[Tensor], tuple[int, ...]]:
    """Numbers and captures of both mods, and the place of each of the mask's captures."""
    if mask is None:
        return (score.numbers, score.captures, ()) if score is not None else ((), [], ())
    if score is None:
        return mask.numbers, mask.captures, ()
    numbers = score.numbers + mask.numbers
    if not mask.captures:
        return numbers, score.captures, ()
    captures = list(score.captures)
    place = {id(tensor): at for at, tensor in enumerate(captures)}
    links = []
    for tensor in mask.captures:
        at = place.setdefault(id(tensor), len(captures))
        if at == len(captures):
            captures.append(tensor)
        links.append(at)
    return numbers, captures, tuple(links)


def _find_or_make(
    key: Hashable,
    numbers: tuple[Number, ...],
    score: Traced | None,
    mask: Traced | None,
    captures: list[Tensor],
    links: tuple[int, ...],
    compute: str,
) -> Variant:
    family = _families.get(key)
    if family is None:
        if len(_families) >= FAMILY_LIMIT:
            del _families[next(iter(_families))]
        family = _families[key] = _Family(first=numbers)
    else:
        family.lifted |= _newly_varying(family, numbers, must_bake_of(score, mask))
    known = family.find(numbers)
    if known is not None:
        return known
    variant = make_variant(numbers, family.lifted, score, mask, captures, links, compute)
    if len(family.variants) >= VARIANT_LIMIT:
        del family.variants[next(iter(family.variants))]
    family.variants[_variant_key(numbers, family.lifted)] = variant
    return variant


def make_variant(
    numbers: tuple[Number, ...],
    lifted: frozenset[int],
    score: Traced | None,
    mask: Traced | None,
    captures: list[Tensor],
    links: tuple[int, ...],
    compute: str,
) -> Variant:
    """The program with the numbers at positions ``lifted`` as inputs and the others built in."""
    positions = tuple(sorted(lifted))
    floats = (float, torch.SymFloat)
    kinds = tuple(compute if isinstance(numbers[at], floats) else I64 for at in positions)
    inputs = {
        at: Input(f"n{i}", kind) for i, (at, kind) in enumerate(zip(positions, kinds, strict=True))
    }
    split = len(score.numbers) if score is not None else 0
    score_root = mask_root = None
    if score is not None:
        score_root = score.graph({at: node for at, node in inputs.items() if at < split})
    if mask is not None:
        mask_root = mask.graph({at - split: node for at, node in inputs.items() if at >= split})
        if links:
            mask_root = _renumber(mask_root, links)
    types = tuple(CaptureType(STORAGE[tensor.dtype], tensor.ndim) for tensor in captures)
    return Variant(Program(score_root, mask_root, types, kinds, compute), positions)


def lines_of(bound: Bound) -> dict[Node, str]:
    """The user's line for each node of the bound program; runs the mods once more."""
    lines: dict[Node, str] = {}
    split = len(bound.score.numbers) if bound.score is not None else 0
    links = merge(bound.score, bound.mask)[2]
    kinds = bound.variant.program.numbers
    inputs = {
        at: Input(f"n{i}", kind)
        for i, (at, kind) in enumerate(zip(bound.variant.positions, kinds, strict=False))
    }
    if bound.score is not None:
        bound.score.graph({at: node for at, node in inputs.items() if at < split})
        lines |= bound.score.locations
    if bound.mask is not None:
        bound.mask.graph({at - split: node for at, node in inputs.items() if at >= split})
        found = bound.mask.locations
        lines |= {_renumber(node, links): line for node, line in found.items()} if links else found
    return lines


def _renumber(root: Node, links: Sequence[int]) -> Node:
    def rule(node: Node) -> Node:
        if isinstance(node, Load):
            return Load(links[node.capture], node.indices, node.dtype)
        return node

    return rewrite(root, rule)


def must_bake_of(score: Traced | None, mask: Traced | None) -> frozenset[int]:
    """Positions of the numbers that the tracer needs as constants."""
    split = len(score.numbers) if score is not None else 0
    own = score.must_bake if score is not None else frozenset()
    return own | {at + split for at in (mask.must_bake if mask is not None else ())}


def _newly_varying(
    family: _Family, numbers: tuple[Number, ...], must_bake: frozenset[int]
) -> frozenset[int]:
    return frozenset(
        at
        for at, (value, first) in enumerate(zip(numbers, family.first, strict=True))
        if at not in must_bake and _liftable(value) and _exact(value) != _exact(first)
    )


def _liftable(value: Number) -> bool:
    if isinstance(value, float):
        return value not in (0.0, 1.0, -1.0) and math.isfinite(value)
    return not isinstance(value, bool)


def _variant_key(numbers: tuple[Number, ...], lifted: frozenset[int]) -> Hashable:
    if not lifted:
        return tuple(map(_exact, numbers))
    return tuple(_LIFTED if at in lifted else _exact(value) for at, value in enumerate(numbers))


def _exact(value: Number) -> Hashable:
    """``value`` as a key: -0.0 is not 0.0 and NaN equals itself."""
    if isinstance(value, float) and (value == 0.0 or value != value):
        return repr(value)
    return value
