"""From a program to the text of one Triton kernel, its signature, and the key it is cached under.

As in `kernel/source.py` the key comes from the program and from the generator's own files, not
from the rendered text, so a kernel that is cached already costs no passes and no lowering.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import codegen_templates
from flexattn import ir, lowering, passes, template
from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import Node
from flexattn.ir.printer import print_graph, print_program
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof
from flexattn.kernel import findings, triton_spec
from flexattn.kernel.config import compute_dtype
from flexattn.kernel.targets import Target
from flexattn.kernel.triton_spec import RANGE_TABLES, TABLES, TRITON_SPECS, TritonSpec
from flexattn.kernel.triton_tiles import SIZES, Tile
from flexattn.lowering.to_triton import lower_triton_hooks
from flexattn.passes.pipeline import build_hooks

TYPES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "f64": "fp64", "bool": "u8"}
_EMPTY = Program(None, None)


@dataclass(frozen=True)
class Choices:
    """What is fixed when a kernel is compiled, beside dtype and head dims.

    Attributes:
        tile: Tile sizes, warps and stages.
        tables: 0 without a block mask, 2 with partial blocks alone, 4 with full blocks too or
            with ranges.
        even: Whether the mask's key blocks are multiples of the tile.
        descriptors: Load q, k, v through descriptors; needs ``aligned``.
        positive_scale: Whether ``scale`` is above 0.
        ordered: Whether tiles are visited in the order of the argument ``order``.
        pack: Decode: rows are heads of a group and queries, not queries of one head.
        has_grad_lse: The gradient of lse is given.
        want_dq: The gradient of queries is stored.
        shared: Gradients of pairs of several heads meet in one element.
        serial: Tiles are done one after another, so that sums have a fixed order.
        listed: Only listed blocks are classified.
        splits: Decode: parts that the keys are split into, for the kernel that combines them.
        aligned: Rows of q, k, v, out and gradients are contiguous and start at multiples of 16
            bytes.
        dense_captures: Per captured tensor: whether its last stride is 1.
        far: Sizes and strides of captures need 64 bits.
        fast_tanh: tanh with 11 bits, by the GPU's own instruction.
    """

    tile: Tile
    tables: int = 0
    even: bool = True
    descriptors: bool = False
    positive_scale: bool = True
    ordered: bool = False
    pack: bool = False
    has_grad_lse: bool = False
    want_dq: bool = True
    shared: bool = False
    serial: bool = False
    listed: bool = False
    splits: int = 1
    aligned: bool = False
    dense_captures: tuple[bool, ...] = ()
    far: bool = False
    fast_tanh: bool = False


@dataclass(frozen=True, eq=False)
class TritonSource:
    """One Triton kernel to be had: everything that decides it, and its text when asked for.

    Attributes:
        spec: Which template and arguments.
        program: The mods; empty for kernels that evaluate none.
        dtype: Storage dtype of q, k, v: f32 bf16 f16 f64.
        D: Head dim of queries and keys.
        DV: Head dim of values.
        target: Which GPU.
        choices: What else is fixed.
        grads: Captures that want a gradient (backward).
        proved: What is known of the program's sites (`ir/sites.py`).
        wide: Keep index arithmetic in 64 bits.
        program_text: The program, printed.
        key: Name in the cache.
        locations: Source lines of the program's nodes, quoted in the text; no part of the key.
    """

    spec: TritonSpec
    program: Program
    dtype: str
    D: int
    DV: int
    target: Target
    choices: Choices
    grads: frozenset[int]
    proved: frozenset[Proof]
    wide: bool
    program_text: str
    key: str
    locations: Mapping[Node, str] | None = None

    @functools.cached_property
    def hooks(self) -> Hooks:
        """The graphs spliced into the template."""
        return build_hooks(
            self.program,
            direction=self.spec.direction or "forward",
            grads=self.grads,
            proved=self.proved,
            wide=self.wide,
            base2=True,
        )

    @functools.cached_property
    def text(self) -> str:
        """The kernel's self-contained Python module."""
        mods = None
        if self.spec.direction:
            mods = lower_triton_hooks(self.hooks, fast_tanh=self.choices.fast_tanh)
        return template.render_triton(self.spec.name, mods=mods, head=self._head())

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of what ``launch`` takes, in order; the constants follow."""
        return tuple(name for name, _ in self.spec.arguments)

    @functools.cached_property
    def signature(self) -> dict[str, Any]:
        """Name → Triton's type, for each argument and each constant, in order."""
        types: dict[str, Any] = {name: self._type(name, kind) for name, kind in self.spec.arguments}
        return types | dict.fromkeys(self.spec.choices, "constexpr")

    @functools.cached_property
    def constexprs(self) -> dict[tuple[int, ...], Any]:
        """Place of each constant → its value; two numbers for an element of a tuple."""
        places: dict[tuple[int, ...], Any] = {}
        for i, (name, kind) in enumerate(self.spec.arguments):
            if self._is_innermost(name, kind):
                places[i,] = 1
            elif kind == "captures":
                places |= {(i, j): 1 for j in self._dense_strides()}
        first = len(self.spec.arguments)
        return places | {(first + i,): value for i, value in enumerate(self.constants.values())}

    @functools.cached_property
    def constants(self) -> dict[str, Any]:
        """Name of each of the kernel's choices → its value."""
        chosen = self.choices
        values = {
            "D": self.D,
            "DV": self.DV,
            "BM": chosen.tile.bm,
            "BN": chosen.tile.bn,
            "PRECISION": self._precision(),
        }
        return {
            name: values[name] if name in values else getattr(chosen, name.lower())
            for name in self.spec.choices
        }

    @functools.cached_property
    def attrs(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """Place of an argument → what is known to divide it."""
        if not self.choices.aligned:
            return {}
        known: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, (name, kind) in enumerate(self.spec.arguments):
            if kind in ("in*", "F*") and name != "grad_lse":
                known[i,] = [["tt.divisibility", 16]]
            elif kind == "i64" and not self._is_innermost(name, kind):
                known[i,] = [["tt.divisibility", 16 // SIZES[self.dtype]]]
        return known

    @property
    def options(self) -> dict[str, Any]:
        """Options of Triton's compiler."""
        tile = self.choices.tile
        return {
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
            "enable_fp_fusion": True,  # Triton 3.9 leaves it out unless told
        }

    @property
    def analysis_text(self) -> str:
        """What is proved of the program, and what this kernel hoists out of its inner loop."""
        proofs = findings.proofs(self.program, self.proved, self.wide)
        return f"== proofs ==\n{proofs}\n\n== hoisted ==\n{findings.hoisted(self.hooks)}\n"

    @property
    def meta(self) -> dict[str, Any]:
        """Facts stored beside the kernel."""
        tile = self.choices.tile
        return {
            "direction": self.spec.name,
            "dtype": self.dtype,
            "isa": self.target.name,
            "head_dims": [self.D, self.DV],
            "tile": [tile.bm, tile.bn, tile.num_warps, tile.num_stages],
            "wide": self.wide,
            "proved": sorted(map(list, self.proved)),
        }

    def _type(self, name: str, kind: str) -> Any:
        inputs, compute = TYPES[self.dtype], TYPES[compute_dtype(self.dtype)]
        match kind:
            case "in*":
                return f"*{inputs}"
            case "F*":
                return f"*{compute}"
            case "F":
                return compute
            case "i64" if self._is_innermost(name, kind):
                return "constexpr"
            case "i32" | "i64":
                return kind
            case "tables":
                fields = TABLES if self.program.ranges is None else RANGE_TABLES
                return tuple(self._type(*field) for field in fields)
            case "captures":
                return self._capture_types()
            case "grads":
                return (f"*{compute}",) * len(self.hooks.capture_grads)
        return f"*{kind.removesuffix('*')}"

    def _is_innermost(self, name: str, kind: str) -> bool:
        return self.choices.aligned and kind == "i64" and name.endswith("_d")

    def _capture_types(self) -> tuple[str, ...]:
        whole = "i64" if self.choices.far else "i32"
        types: list[str] = []
        for capture in self.program.captures:
            types.append(f"*{TYPES.get(capture.dtype, capture.dtype)}")
            types += [whole] * (2 * capture.ndim)
        for place in self._dense_strides():
            types[place] = "constexpr"
        number = "i64" if self.wide else "i32"
        compute = TYPES[self.program.compute]
        return (*types, *(number if kind == "i64" else compute for kind in self.program.numbers))

    def _dense_strides(self) -> list[int]:
        """Places in the tuple ``captures`` of the strides known to be 1."""
        places, place = [], 0
        dense = self.choices.dense_captures
        for i, capture in enumerate(self.program.captures):
            place += 1 + 2 * capture.ndim
            if capture.ndim and i < len(dense) and dense[i]:
                places.append(place - 1)
        return places

    def _precision(self) -> str:
        # Three products of tensor cores come close to float32; 16-bit inputs need one, exact.
        return "tf32x3" if self.dtype == "f32" and self.target.backend == "cuda" else "ieee"

    def _head(self) -> list[str]:
        lines = [
            f"flexattn {self.spec.name} kernel, {self.dtype} inputs, head dims {self.D} and "
            f"{self.DV}, {self.target.name}",
            f"generated from codegen_templates/triton/{self.spec.name}.py and these graphs",
        ]
        for name, root in (("score_mod", self.program.score), ("mask_mod", self.program.mask)):
            if root is not None:
                text = print_graph(root, locations=self.locations)
                lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
        lines += findings.ranges(self.program)
        chosen = " ".join(f"{name}={value}" for name, value in self.constants.items())
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        return [*lines, f"constants: {chosen}", f"options: {options}"]


def triton_source(
    program: Program,
    kernel: str,
    *,
    dtype: str,
    D: int,
    DV: int,
    target: Target,
    choices: Choices,
    grads: Iterable[int] = frozenset(),
    proved: Iterable[Proof] = frozenset(),
    wide: bool = False,
    locations: Mapping[Node, str] | None = None,
) -> TritonSource:
    """What Triton kernel to run; its text is generated when first asked for.

    Args:
        program: The mods.
        kernel: Name of a spec (`kernel/triton_spec.py`).
        dtype: Storage dtype of q, k, v: f32 bf16 f16 f64.
        D: Head dim of queries and keys.
        DV: Head dim of values.
        target: Which GPU, or the interpreter.
        choices: What else is fixed.
        grads: Captures that want a gradient (backward only).
        proved: Sites known to be harmless for the lengths at hand.
        wide: Keep index arithmetic in 64 bits, for lengths or numbers beyond the limits that
            narrow kernels assume (`passes/narrow.py`).
        locations: Where in the user's code a node of the program comes from.
    """
    spec = TRITON_SPECS[kernel]
    if not spec.direction:
        program, grads, proved, wide = _EMPTY, frozenset(), frozenset(), False
    grads, proved = frozenset(grads), frozenset(proved)
    text = print_program(program)
    parts = (
        _generator_digest(),
        triton_version() or "",
        spec.name,
        dtype,
        f"{D} {DV}",
        target.name,
        repr(astuple(choices)),
        repr(sorted(grads)),
        repr(sorted(proved)),
        repr(wide),
        text,
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
    return TritonSource(
        spec, program, dtype, D, DV, target, choices, grads, proved, wide, text, key, locations
    )


@functools.cache
def triton_version() -> str | None:
    """Version of the Triton that an import would find, without importing it; None if none."""
    try:
        found = importlib.util.find_spec("triton")
    except (ImportError, ValueError):  # something keeps it from being imported
        found = None
    if found is None or found.origin is None:
        return None
    stated = re.search(rb"""^__version__ = ['"](.+?)['"]""", _read(found.origin), re.M)
    return stated[1].decode() if stated else "unknown"


@functools.cache
def _generator_digest() -> str:
    # Everything that has a say in a kernel's text or in how it is compiled.
    files = (template.__file__, triton_spec.__file__, findings.__file__, __file__)
    digest = hashlib.sha256(b"".join(_read(str(file)) for file in files))
    for package in (ir, passes, lowering, codegen_templates):
        top = next(iter(package.__path__))
        for folder, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                if name.endswith(".py"):
                    digest.update(name.encode() + b"\0" + _read(os.path.join(folder, name)))
    return digest.hexdigest()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
