"""From a program to the text of one kernel, and to the key it is cached under.

The key comes from the program and from the generator's own files, not from the rendered text,
so a kernel that is cached already costs no passes and no lowering.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import codegen_templates
from flexattn import ir, knobs, lowering, passes, template
from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import Node
from flexattn.ir.printer import print_graph, print_program
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof
from flexattn.kernel import config, findings
from flexattn.kernel import isa as isa_module
from flexattn.kernel.isa import Isa
from flexattn.kernel.spec import SPECS, TILES, KernelSpec
from flexattn.lowering.to_cpp import lower_hooks
from flexattn.passes.pipeline import build_hooks


@dataclass(frozen=True, eq=False)
class KernelSource:
    """One kernel to be had: everything that decides its text, and the text when asked for.

    Attributes:
        spec: Forward, backward, tiles or decode.
        program: The mods.
        dtype: Storage dtype of q, k, v: f32 bf16 f16 f64.
        isa: Instruction set.
        grads: Captures that want a gradient (backward).
        proved: What is known of the program's sites (`ir/sites.py`).
        wide: Keep index arithmetic in 64 bits.
        program_text: The program, printed.
        key: Name in the cache.
        locations: Source lines of the program's nodes, quoted in the text; no part of the key.
    """

    spec: KernelSpec
    program: Program
    dtype: str
    isa: Isa
    grads: frozenset[int]
    proved: frozenset[Proof]
    wide: bool
    program_text: str
    key: str
    locations: Mapping[Node, str] | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Compiler options."""
        return config.compiler_flags(self.isa)

    @property
    def parts(self) -> int:
        """Parts that may be compiled at the same time (``FLEX_PART`` in `simd.h`)."""
        return 1 if self.spec is TILES else 2  # which has no products

    @functools.cached_property
    def hooks(self) -> Hooks:
        """The graphs spliced into the template."""
        return build_hooks(
            self.program,
            direction=self.spec.name,
            grads=self.grads,
            proved=self.proved,
            wide=self.wide,
        )

    @functools.cached_property
    def text(self) -> str:
        """The kernel's self-contained C++ file."""
        return template.render(
            self.spec.template,
            mods=lower_hooks(self.hooks),
            defines=config.defines(self.dtype, self.isa),
            head=self._head(),
        )

    @property
    def analysis_text(self) -> str:
        """What is proved of the program, and what this kernel hoists out of its inner loop."""
        proofs = findings.proofs(self.program, self.proved, self.wide)
        return f"== proofs ==\n{proofs}\n\n== hoisted ==\n{findings.hoisted(self.hooks)}\n"

    @property
    def meta(self) -> dict[str, Any]:
        """Facts stored beside the kernel; ``capture_grads`` tells what buffers it fills."""
        return {
            "direction": self.spec.name,
            "dtype": self.dtype,
            "isa": self.isa.name,
            "wide": self.wide,
            "proved": sorted(map(list, self.proved)),
            "capture_grads": [
                {
                    "capture": grad.capture,
                    "depends": grad.depends,
                    "dense": grad.dense,
                    "plain": sorted(grad.plain),
                }
                for grad in self.hooks.capture_grads
            ],
        }

    def _head(self) -> list[str]:
        lines = [f"flexattn {self.spec.name} kernel, {self.dtype} inputs, {self.isa.name}"]
        lines += [f"generated from codegen_templates/cpp/{self.spec.template} and these graphs"]
        for name, root in (("score_mod", self.program.score), ("mask_mod", self.program.mask)):
            if root is not None:
                text = print_graph(root, locations=self.locations)
                lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
        lines += findings.ranges(self.program)
        return [*lines, "compile: g++ " + " ".join(self.flags)]


def kernel_source(
    program: Program,
    direction: str,
    *,
    dtype: str,
    isa: Isa | None = None,
    grads: Iterable[int] = frozenset(),
    proved: Iterable[Proof] = frozenset(),
    wide: bool = False,
    locations: Mapping[Node, str] | None = None,
) -> KernelSource:
    """What kernel to run; its text is generated when first asked for.

    Args:
        program: The mods.
        direction: ``forward``, ``backward``, ``tiles`` or ``decode``.
        dtype: Storage dtype of q, k, v: f32 bf16 f16 f64; f32 for tiles.
        isa: Instruction set; None for the best of this machine.
        grads: Captures that want a gradient (backward only).
        proved: Sites known to be harmless for the lengths at hand.
        wide: Keep index arithmetic in 64 bits, for lengths or numbers beyond the limits that
            narrow kernels assume (`passes/narrow.py`).
        locations: Where in the user's code a node of the program comes from.

    Raises:
        ArgumentError: ``FLEXATTN_ISA`` names an instruction set this machine lacks.
    """
    spec = SPECS[direction]
    isa = isa or isa_module.host()
    grads, proved = frozenset(grads), frozenset(proved)
    text = print_program(program)
    parts = (
        _generator_digest(),
        spec.name,
        dtype,
        isa.name,
        platform.machine(),
        " ".join(config.compiler_flags(isa)),
        knobs.get("FLEXATTN_CXX") or os.environ.get("CXX") or "",
        repr(sorted(grads)),
        repr(sorted(proved)),
        repr(wide),
        text,
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
    return KernelSource(spec, program, dtype, isa, grads, proved, wide, text, key, locations)


@functools.cache
def _generator_digest() -> str:
    # Everything that has a say in a kernel's text, so that no edit leaves stale kernels behind.
    # (os functions: pathlib would take half the time of loading a kernel.)
    files = (template.__file__, findings.__file__, __file__)
    digest = hashlib.sha256(b"".join(_read(str(file)) for file in files))
    for package in (ir, passes, lowering, codegen_templates):
        top = next(iter(package.__path__))
        for folder, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                if name.endswith((".py", ".h", ".cpp")):
                    digest.update(name.encode() + b"\0" + _read(os.path.join(folder, name)))
    return digest.hexdigest()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
