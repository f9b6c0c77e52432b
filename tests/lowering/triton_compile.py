"""Compiles kernels made of lowered graphs for a named GPU, which need not be there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from flexattn.ir.hooks import Hooks
from flexattn.ir.program import CaptureType

ADDRESS = {
    "bool": "*u8", "u8": "*u8", "i8": "*i8", "i16": "*i16", "i32": "*i32", "i64": "*i64",
    "bf16": "*bf16", "f16": "*fp16", "f32": "*fp32", "f64": "*fp64",
}  # fmt: skip
NUMBER = {"i64": "i64", "f32": "fp32", "f64": "fp64"}
TARGETS = {"sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


def captures_type(hooks: Hooks, index: str = "i32") -> tuple[str, ...]:
    """Types of the tuple ``captures``; sizes and strides are of type ``index``."""
    found: list[str] = []
    for capture in hooks.captures:
        found += [ADDRESS[capture.dtype], *[index] * (2 * capture.ndim)]
    return (*found, *(NUMBER[number] for number in hooks.numbers))


def module_of(text: str, folder: Path) -> ModuleType:
    """The module with that text, from a file: Triton reads the source of what it compiles."""
    name = "kernel_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_for(
    kernel: Any,
    target: str,
    signature: dict[str, Any],
    constants: dict[str, Any],
    *,
    gluon: bool = False,
) -> Any:
    """The compiled kernel; raises what Triton raises."""
    backends = importlib.import_module("triton.backends.compiler")
    if gluon:
        make_source = importlib.import_module("triton.experimental.gluon._runtime").GluonASTSource
    else:
        make_source = importlib.import_module("triton.compiler").ASTSource
    source = make_source(
        kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    triton = importlib.import_module("triton")
    options = {"num_warps": 4, "enable_fp_fusion": True}
    return triton.compile(source, target=backends.GPUTarget(*TARGETS[target]), options=options)


__all__ = ["CaptureType", "captures_type", "compile_for", "module_of"]
