"""Builds the C++ templates alone, with hand-written mods, and calls them through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

CPP = Path(__file__).parents[2] / "codegen_templates" / "cpp"
REGION = re.compile(r"// >>> mods\n.*?// <<< mods\n", re.DOTALL)
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c"
ISA_FLAGS = ("", "-mavx2 -mfma -mf16c", AVX512, *(2 * [f"{AVX512} -mavx512bf16"]))
ISA_NEEDS = (
    (),
    ("avx2", "fma", "f16c"),
    ("avx512dq", "avx512vl"),
    ("avx512dq", "avx512_bf16"),
    ("avx512dq", "avx512_bf16", "amx_bf16"),
)
INPUTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
FLAGS = "-std=gnu++17 -O2 -shared -fPIC -fopenmp -pipe -Wno-psabi -fno-math-errno"


def isa_levels() -> list[int]:
    """The levels that this machine can run."""
    if platform.machine() != "x86_64":
        return [0]
    has = set(Path("/proc/cpuinfo").read_text().split())
    if ctypes.CDLL(None).syscall(158, 0x1023, 18):  # arch_prctl: may tiles be used?
        has.discard("amx_bf16")
    return [level for level, needs in enumerate(ISA_NEEDS) if has.issuperset(needs)]


BEST = max(isa_levels())
# Every dtype at the best level, and what differs in lower ones.
COMBINATIONS = [(dtype, BEST) for dtype in INPUTS] + [
    (dtype, level)
    for dtype, level in (
        (torch.float32, 0),
        (torch.float16, 0),
        (torch.float64, 0),
        (torch.float32, 1),
        (torch.float16, 1),
        (torch.bfloat16, 2),
        (torch.bfloat16, 3),
    )
    if level in isa_levels() and level < BEST
]


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="flexattn-templates-"))


@functools.cache
def build(
    template: str, mods: str = "", *, dtype: torch.dtype, isa: int, flags: str = ""
) -> ctypes.CDLL:
    """Compiles ``template``.cpp with the region of mods.h replaced by ``mods`` (if any).

    A ``template`` of several lines is the source itself.
    """
    key = hashlib.sha256(repr((template, mods, dtype, isa, flags)).encode()).hexdigest()[:16]
    folder = _folder() / key
    shutil.copytree(CPP, folder)
    if mods:
        header = (folder / "mods.h").read_text()
        (folder / "mods.h").write_text(REGION.sub(lambda _: region(mods), header))
    if "\n" in template:
        (folder / "source.cpp").write_text(template)
        template = "source"
    library = folder / "kernel.so"
    macros = f"-DFLEX_INPUT={INPUTS[dtype]} -DFLEX_ISA={isa}"
    line = f"g++ {FLAGS} {macros} {ISA_FLAGS[isa]} {flags} {folder / template}.cpp -o {library}"
    subprocess.run(line.split(), check=True)
    return ctypes.CDLL(str(library))


# What a region that says nothing of a name gets for it.
DEFAULTS = (
    ("#include", ""),
    ("HAS_SCORE_MOD", "constexpr bool HAS_SCORE_MOD = {VF score_mod(};"),
    ("HAS_MASK_MOD", "constexpr bool HAS_MASK_MOD = {VM mask_mod(};"),
    ("HAS_FAULT", "constexpr bool HAS_FAULT = {VM fault(};"),
    ("HAS_CAPTURE_GRADS", "constexpr bool HAS_CAPTURE_GRADS = {struct GradTile};"),
    ("NUM_CAPTURE_GRADS", "constexpr int NUM_CAPTURE_GRADS = 0;"),
    ("NUM_RANGES", "constexpr int NUM_RANGES = 0;"),
    ("struct Uniform", "struct Uniform {};"),
    ("struct QValues", "struct QValues {};"),
    ("struct KVValues", "struct KVValues {};"),
    ("struct GradTile", "struct GradTile {};"),
    ("hoist_uniform(", "static void hoist_uniform(const Mods&, i64, i64, Uniform&) {}"),
    (
        "hoist_q(",
        "static void hoist_q(const Mods&, const Uniform&, i64, i64, i64, i64, i64, QValues&) {}",
    ),
    (
        "hoist_kv(",
        "static void hoist_kv(const Mods&, const Uniform&, i64, i64, i64, i64, KVValues&) {}",
    ),
    (
        "kv_ranges(",
        "static void kv_ranges(const Mods&, const Uniform&, i64, i64, i64, i64*, i64*) {}",
    ),
    ("ask_for_tables(", "static void ask_for_tables(const Site&, i64, i64, i64) {}"),
    ("VM mask_mod(", "static VM mask_mod(const Site&, i64, i64) { return splat<VM>(-1); }"),
    ("VF score_mod(", "static VF score_mod(const Site&, i64, i64, VF score) { return score; }"),
    ("VM fault(", "static VM fault(const Site&, i64, i64, VF) { return splat<VM>(0); }"),
    (
        "VF score_grad(",
        "static VF score_grad(const Site&, i64, i64, VF, VF grad, GradTile&) { return grad; }",
    ),
    ("grad_begin(", "static void grad_begin(GradTile&, const Site&) {}"),
    ("grad_flush_kv(", "static void grad_flush_kv(GradTile&, const Site&, i64) {}"),
    ("grad_flush_q(", "static void grad_flush_q(GradTile&, const Site&, i64) {}"),
)


def region(mods: str) -> str:
    """A whole region from the definitions that differ from the identity."""
    before, after = [], []
    for name, text in DEFAULTS:
        if name in mods or not text:
            continue
        text = re.sub(r"= \{([^{}]+)\};", lambda m: f"= {str(m[1] in mods).lower()};", text)
        (before if text.startswith(("constexpr", "struct")) else after).append(text)
    includes = "\n".join(re.findall(r"^#include.*", mods, re.MULTILINE))
    body = re.sub(r"^#include.*\n", "", mods, flags=re.MULTILINE)
    return "\n".join([includes, *before, body, *after]) + "\n"


@functools.cache
def fields(name: str) -> tuple[str, ...]:
    """The fields of a struct of args.h in order, nested structs written out."""
    text = re.sub(r"//[^\n]*", "", (CPP / "args.h").read_text())
    body = re.search(rf"struct {name} \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    found: list[str] = []
    for declaration in filter(None, map(str.strip, body[1].split(";"))):
        kind, names = re.fullmatch(
            r"(.*?[*\s])\s*(\w+(?:,\s*\w+)*)", declaration, re.DOTALL
        ).groups()  # type: ignore[union-attr]
        if kind.strip() in ("BlockTables", "Mods"):
            found += fields(kind.strip())
        else:
            found += re.split(r",\s*", names)
    return tuple(found)


def call(
    library: ctypes.CDLL, direction: str, values: dict[str, int | float | Tensor | None]
) -> int:
    """Launches ``flexattn_{direction}``; fields left out are 0 or null, tensors are pointers."""
    names = fields(f"{direction.capitalize()}Args")
    assert set(values) <= set(names), set(values) - set(names)
    packed = bytearray()
    for name in names:
        value = values.get(name, 0)
        if isinstance(value, Tensor):
            value = value.data_ptr()
        packed += struct.pack("<d" if isinstance(value, float) else "<q", value or 0)
    entry = getattr(library, f"flexattn_{direction}")
    return int(entry(ctypes.c_char_p(bytes(packed))))


def strides(prefix: str, x: Tensor, dims: str) -> dict[str, int]:
    """``{prefix_b: …, prefix_h: …}``, 0 where a batch is shared."""
    return {
        f"{prefix}_{d}": 0 if d == "b" and x.shape[0] == 1 else x.stride(i)
        for i, d in enumerate(dims)
    }


def tables(
    partial: tuple[Tensor, Tensor] | None,
    full: tuple[Tensor, Tensor] | None,
    q_block: int,
    kv_block: int,
) -> dict[str, int | float | Tensor | None]:
    """Block-table fields from (numbers, indices) pairs of int32."""
    values: dict[str, int | float | Tensor | None] = {"q_block": q_block, "kv_block": kv_block}
    for prefix, short, pair in (("", "", partial), ("full_", "full_", full)):
        if pair is None:
            continue
        number, index = pair
        values |= {f"{prefix}kv_num_blocks": number, f"{prefix}kv_indices": index}
        values |= {"rows": number.shape[-1], f"{prefix}cols": index.shape[-1]}
        for d, name in enumerate("bhr"):
            values[f"{short}num_{name}"] = 0 if number.shape[d] == 1 else number.stride(d)
        for d, name in enumerate("bhrc"):
            shared = d < 2 and index.shape[d] == 1
            values[f"{short}idx_{name}"] = 0 if shared else index.stride(d)
    return values


def compute(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def forward(
    library: ctypes.CDLL,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    threads: int = 1,
    out: Tensor | None = None,
    **more: int | float | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """(out, lse, max, status); outputs start as NaN."""
    b, hq, m, d = q.shape
    n, dv = v.shape[-2:]
    if out is None:
        out = torch.full((b, hq, m, dv), float("nan"), dtype=q.dtype)
    lse = torch.full((b, hq, m), float("nan"), dtype=compute(q.dtype))
    peak = torch.full_like(lse, float("nan"))
    values: dict[str, int | float | Tensor | None] = {
        "q": q,
        "k": k,
        "v": v,
        "out": out,
        "lse": lse,
        "max": peak,
        "B": b,
        "Hq": hq,
        "Hkv": k.shape[1],
        "M": m,
        "N": n,
        "D": d,
        "Dv": dv,
        **strides("q", q, "bhmd"),
        **strides("k", k, "bhnd"),
        **strides("v", v, "bhnd"),
        **strides("o", out, "bhm"),
        "scale": float(d**-0.5 if scale is None else scale),
        "threads": threads,
        **more,
    }
    status = call(library, "forward", values)
    return out, lse, peak, status


def backward(
    library: ctypes.CDLL,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    *,
    dlse: Tensor | None = None,
    scale: float | None = None,
    threads: int = 1,
    chunks: int = 1,
    wanted: str = "qkv",
    **more: int | float | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv), which start as NaN; those not ``wanted`` stay so."""
    b, hq, m, d = q.shape
    n, dv = v.shape[-2:]
    nan = float("nan")
    grads = [torch.full(x.shape, nan, dtype=x.dtype) for x in (q, k, v)]
    values: dict[str, int | float | Tensor | None] = {
        "q": q,
        "k": k,
        "v": v,
        "out": out,
        "lse": lse,
        "dout": dout,
        "dlse": dlse,
        **{f"d{name}": x for name, x in zip("qkv", grads, strict=True) if name in wanted},
        "B": b,
        "Bkv": k.shape[0],
        "Hq": hq,
        "Hkv": k.shape[1],
        "M": m,
        "N": n,
        "D": d,
        "Dv": dv,
        "chunks": chunks,
        "threads": threads,
        **strides("q", q, "bhmd"),
        **strides("k", k, "bhnd"),
        **strides("v", v, "bhnd"),
        **strides("o", out, "bhm"),
        **strides("do", dout, "bhmd"),
        **strides("dq", grads[0], "bhm"),
        **strides("dk", grads[1], "bhn"),
        **strides("dv", grads[2], "bhn"),
        "scale": float(d**-0.5 if scale is None else scale),
        **more,
    }
    assert call(library, "backward", values) == 0
    return grads[0], grads[1], grads[2]
