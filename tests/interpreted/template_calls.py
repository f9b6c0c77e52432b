"""Calls Triton templates, interpreted, on torch tensors, in the argument order of their specs."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexattn.kernel.triton_spec import TABLES, TRITON_SPECS
from flexattn.template import render_triton, triton_part

NO_FAULT = (1 << 63) - 1


def mods_text(**bodies: str) -> str:
    """The region of mods with some functions replaced: `score_mod="score_log2 * 2"`.

    A body of several lines ends in `return …`. What is given switches its flag on.
    """
    text = triton_part("mods").partition("# >>> mods\n")[2].partition("# <<< mods")[0]
    for name, body in bodies.items():
        lines = body.strip().splitlines()
        if len(lines) == 1:
            lines[0] = f"return {lines[0]}"
        code = "\n".join(f"    {line}" for line in lines)
        pattern = rf'(def {name}\([^)]*\):\n    """.*?"""\n)(?:    [^\n]*\n?)*'
        text, found = re.subn(pattern, lambda m, c=code: f"{m[1]}{c}\n", text, flags=re.S)
        assert found == 1, name
        flag = f"HAS_{name.upper()}: tl.constexpr = tl.constexpr("
        text = text.replace(flag + "False)", flag + "True)")
    return text


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="flexattn-interpreted-"))


@functools.cache
def kernel(name: str, mods: str | None = None) -> Any:
    """The entry point of the rendered template."""
    text = render_triton(name, mods=mods)
    key = f"{name}_{hashlib.sha1(text.encode()).hexdigest()[:12]}"
    path = _folder() / f"{key}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def launch(
    name: str,
    programs: int,
    arguments: Mapping[str, Any],
    choices: Mapping[str, Any],
    mods: str | None = None,
) -> None:
    """Run a kernel; `arguments` and `choices` must be those of its spec, in any order."""
    spec = TRITON_SPECS[name]
    assert {n for n, _ in spec.arguments} == set(arguments)
    assert set(spec.choices) == set(choices)
    values = [arguments[n] for n, _ in spec.arguments]
    kernel(name, mods)[(programs,)](*values, **choices)


class Blocks(NamedTuple):
    """Block lists, [B', H', rows] and [B', H', rows, width]; the full ones may be missing."""

    num: Tensor
    indices: Tensor
    full_num: Tensor | None
    full_indices: Tensor | None
    q_block: int
    kv_block: int


def tables_argument(blocks: Blocks | None, heads: tuple[int, int]) -> tuple[Any, ...]:
    """The tuple `tables`; lists of one batch or head serve all."""
    if blocks is None:
        nothing = torch.zeros(1, dtype=torch.int32)
        fields: dict[str, Any] = dict.fromkeys((n for n, _ in TABLES), 0)
        fields |= dict.fromkeys(("num", "indices", "full_num", "full_indices"), nothing)
        return tuple((fields | {"q_block": 1, "kv_block": 1}).values())
    fields = {}
    lists = {"": (blocks.num, blocks.indices), "full_": (blocks.full_num, blocks.full_indices)}
    for prefix, (num, indices) in lists.items():
        if num is None or indices is None:
            num, indices = blocks.num, blocks.indices
        num, indices = (x.expand(*heads, *x.shape[2:]) for x in (num, indices))
        fields |= {f"{prefix}num": num, f"{prefix}indices": indices}
        fields |= {f"{prefix}num_{s}": num.stride(d) for d, s in enumerate("bh")}
        fields |= {f"{prefix}indices_{s}": indices.stride(d) for d, s in enumerate("bhr")}
    fields |= {"q_block": blocks.q_block, "kv_block": blocks.kv_block}
    return tuple(fields[n] for n, _ in TABLES)


def capture_arguments(captures: Iterable[Tensor], numbers: Iterable[Any] = ()) -> tuple[Any, ...]:
    """The tuple `captures`."""
    flat: list[Any] = []
    for c in captures:
        flat += [c, *c.shape, *c.stride()]
    return (*flat, *numbers)


def strides(**tensors: Tensor) -> dict[str, int]:
    """`q=q` gives q_b, q_h, q_m, q_d; a batch of one has stride 0."""
    axes = {"q": "bhmd", "k": "bhnd", "v": "bhnd", "o": "bhm", "do": "bhmd", "dq": "bhm"}
    found = {}
    for name, x in tensors.items():
        letters = axes.get(name, "bhn")
        found |= {f"{name}_{a}": x.stride(d) for d, a in enumerate(letters)}
        if x.shape[0] == 1:
            found[f"{name}_b"] = 0
    return found


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def in_poison(x: Tensor, rows: int = 3) -> Tensor:
    """An equal tensor whose memory goes on in NaNs after each row, and after the last one.

    Rows start at multiples of 16 bytes, as descriptors want them.
    """
    around = poisoned(*x.shape[:2], x.shape[2] + rows, x.shape[3] // 8 * 8 + 8, dtype=x.dtype)
    around[:, :, : x.shape[2], : x.shape[3]] = x
    return around[:, :, : x.shape[2], : x.shape[3]]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The compute dtype F."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_tiles(m: int, blocks: Blocks | None, bm: int) -> int:
    """How many tiles of `bm` queries there are."""
    if blocks is None:
        return -(-m // bm)
    rows = -(-m // blocks.q_block)
    return (rows - 1) * -(-blocks.q_block // bm) + -(-(m - (rows - 1) * blocks.q_block) // bm)


def table_choice(blocks: Blocks | None) -> int:
    return 0 if blocks is None else 2 if blocks.full_num is None else 4


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tile: tuple[int, int] = (16, 16),
    mods: str | None = None,
    captures: tuple[Any, ...] = (),
    blocks: Blocks | None = None,
    scale: float | None = None,
    order: Tensor | None = None,
    heads_at_once: int = 1,
    descriptors: bool = True,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """out, lse, max and the least place of a fault."""
    (b, hq, m, d), (_, hkv, n, dv) = q.shape, v.shape
    out = in_poison(poisoned(b, hq, m, dv, dtype=q.dtype))
    lse, peak = (poisoned(b, hq, m, dtype=accumulator(q.dtype)) for _ in range(2))
    fault_at = torch.tensor([NO_FAULT])
    scale = d**-0.5 if scale is None else scale
    arguments = {
        "q": q, "k": k, "v": v, "out": out, "lse": lse, "max": peak,
        **strides(q=q, k=k, v=v, o=out),
        "B": b, "Hq": hq, "G": hq // hkv, "M": m, "N": n, "heads_at_once": heads_at_once,
        "scale": scale, "tables": tables_argument(blocks, (b, hq)),
        "order": torch.zeros(1, dtype=torch.int32) if order is None else order,
        "captures": captures, "fault_at": fault_at,
    }  # fmt: skip
    choices = {
        "D": d, "DV": dv, "BM": tile[0], "BN": tile[1], "TABLES": table_choice(blocks),
        "EVEN": blocks is None or blocks.kv_block % tile[1] == 0, "DESCRIPTORS": descriptors,
        "PRECISION": "ieee", "POSITIVE_SCALE": scale > 0, "ORDERED": order is not None,
    }  # fmt: skip
    programs = row_tiles(m, blocks, tile[0]) * b * hq
    launch("forward", programs, arguments, choices, mods)
    beyond = out.as_strided((*out.shape[:3], out.stride(2)), out.stride())[..., dv:]
    assert bool(beyond.isnan().all()), "stored beyond the columns"
    return out, lse, peak, int(fault_at)


def run_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    splits: int,
    *,
    tile: tuple[int, int] = (16, 16),
    mods: str | None = None,
    captures: tuple[Any, ...] = (),
    blocks: Blocks | None = None,
    scale: float | None = None,
    descriptors: bool = False,
    pack: bool = True,
    combine_rows: int = 4,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """out, lse, max and the least place of a fault, by decode and combine."""
    (b, hq, m, d), (_, hkv, n, dv) = q.shape, v.shape
    scale = d**-0.5 if scale is None else scale
    group = hq // hkv
    real = accumulator(q.dtype)
    part_out = poisoned(splits, b, hq, m, dv, dtype=real)
    part_max, part_sum = (poisoned(splits, b, hq, m, dtype=real) for _ in range(2))
    fault_at = torch.tensor([NO_FAULT])
    arguments = {
        "q": q, "k": k, "v": v, "part_out": part_out, "part_max": part_max, "part_sum": part_sum,
        **strides(q=q, k=k, v=v), "B": b, "Hq": hq, "G": group, "M": m, "N": n, "splits": splits,
        "scale": scale, "tables": tables_argument(blocks, (b, hq)), "captures": captures,
        "fault_at": fault_at,
    }  # fmt: skip
    choices = {
        "D": d, "DV": dv, "BM": tile[0], "BN": tile[1], "TABLES": table_choice(blocks),
        "EVEN": blocks is None or blocks.kv_block % tile[1] == 0, "DESCRIPTORS": descriptors,
        "PRECISION": "ieee", "POSITIVE_SCALE": scale > 0, "PACK": pack,
    }  # fmt: skip
    rows, heads = (group * m, hkv) if pack else (m, hq)
    launch("decode", b * heads * splits * -(-rows // tile[0]), arguments, choices, mods)
    assert not any(bool(x.isnan().any()) for x in (part_max, part_sum))

    out = in_poison(poisoned(b, hq, m, dv, dtype=q.dtype))
    lse, peak = (poisoned(b, hq, m, dtype=real) for _ in range(2))
    arguments = {
        "part_out": part_out, "part_max": part_max, "part_sum": part_sum,
        "out": out, "lse": lse, "max": peak, **strides(o=out),
        "B": b, "Hq": hq, "M": m, "splits": splits,
    }  # fmt: skip
    choices = {"DV": dv, "BM": combine_rows, "SPLITS": 1 << (splits - 1).bit_length()}
    launch("combine", -(-b * hq * m // combine_rows), arguments, choices)
    return out, lse, peak, int(fault_at)


def run_classes(
    shape: tuple[int, int, int, int],
    block: tuple[int, int],
    mods: str,
    *,
    tile: tuple[int, int] = (16, 16),
    captures: tuple[Any, ...] = (),
    listed: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Classes, [B, H, rows, cols] or of the listed blocks, and the least place of a fault."""
    (b, h, m, n), (rows, cols) = shape, (-(-x // y) for x, y in zip(shape[2:], block))
    count = b * h * rows * cols if listed is None else len(listed)
    found = torch.full((count,), 77, dtype=torch.uint8)
    fault_at = torch.tensor([NO_FAULT])
    arguments = {
        "classes": found, "listed": torch.zeros(1).int() if listed is None else listed,
        "B": b, "H": h, "M": m, "N": n, "rows": rows, "cols": cols,
        "q_block": block[0], "kv_block": block[1], "count": count,
        "captures": captures, "fault_at": fault_at,
    }  # fmt: skip
    choices = {"BM": tile[0], "BN": tile[1], "LISTED": listed is not None}
    launch("classes", count, arguments, choices, mods)
    return found if listed is not None else found.view(b, h, rows, cols), int(fault_at)
