"""Kernels written by hand with the argument struct of `flexattn_tiles`, to test loading with."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from flexattn.ir.nodes import F32, I64
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel.spec import TILES, KernelSpec

# The arguments are all of 8 bytes, so a kernel may read them by number: 0 is `classes` (here
# the output), 1-13 the other fields, then captures, sizes, strides, ints, floats, fault, grads,
# grad_group_strides, threads.
ECHO = """
extern "C" int flexattn_tiles(const long long* a) {
  long long* out = (long long*)a[0];
  out[0] = a[22];                               // threads
  out[1] = a[1];                                // b0
  out[2] = *(const int*)((const void**)a[14])[0];   // first element of capture 0
  for (int i = 0; i < 3; i++) out[3 + i] = ((const long long*)a[15])[i];
  for (int i = 0; i < 3; i++) out[6 + i] = ((const long long*)a[16])[i];
  out[9] = ((const long long*)a[17])[0];
  out[10] = (long long)(((const double*)a[18])[0] * 1000);
  if (a[2] == 1) for (int i = 0; i < 4; i++) ((long long*)a[19])[i] = 10 + i;
  return (int)a[2];                             // h0
}
"""
PROGRAM = Program(None, None, (CaptureType("i32", 1), CaptureType("f32", 2)), (F32, I64))


@dataclasses.dataclass(eq=False)
class HandWritten:
    """Stands in for a KernelSource."""

    text: str = ECHO
    name: str = "echo"
    flags: tuple[str, ...] = ("-O1", "-shared", "-fPIC", "-fopenmp", "-nostartfiles")
    parts: int = 1
    spec: KernelSpec = TILES
    program: Program = PROGRAM
    program_text: str = "the program"
    analysis_text: str = "what is known of it"
    meta: dict[str, Any] = dataclasses.field(default_factory=lambda: {"direction": "tiles"})

    @property
    def key(self) -> str:
        return hashlib.sha256((self.name + self.text).encode()).hexdigest()[:40]
