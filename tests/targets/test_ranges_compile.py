"""Kernels that read ranges compile for GPUs that are not here, and read no block lists."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import CaptureType, Program, Ranges
from flexattn.kernel.targets import target
from flexattn.kernel.triton_source import Choices, triton_source
from flexattn.kernel.triton_tiles import choose_tile, cost_of, takes_descriptors
from flexattn.reports.compile_triton import compile_sources

Q, KV, WIDTH = Input("q_idx", I64), Input("kv_idx", I64), Input("n0", I64)
FAR, ONE = Const(1 << 40, I64), Const(1, I64)
# Words: ends of ranges and gaps between them are scalars of a tile, used once a tile of the loop.
FEW = 16
MMA = {"sm_80": "mma.sync", "sm_90": "wgmma", "gfx942": "mfma"}


def op(name: str, *args: Node, dtype: str = I64) -> Node:
    return Apply(name, args, dtype)


AFTER = op("add", Q, ONE)
CAUSAL = Program(
    None,
    op("ge", Q, KV, dtype=BOOL),
    ranges=Ranges(((Const(0, I64), AFTER),), ((KV, FAR),)),
)
WINDOW = Program(
    None,
    op("and", CAUSAL.mask, op("lt", op("sub", Q, KV), WIDTH, dtype=BOOL), dtype=BOOL),
    numbers=(I64,),
    ranges=Ranges(((op("add", op("sub", Q, WIDTH), ONE), AFTER),), ((KV, op("add", KV, WIDTH)),)),
)
IDS = Load(0, (Q,), I64)
DOCUMENTS = Program(
    None,
    op("and", CAUSAL.mask, op("eq", IDS, Load(0, (KV,), I64), dtype=BOOL), dtype=BOOL),
    (CaptureType("i32", 1), CaptureType("i32", 1)),
    ranges=Ranges(
        ((Load(1, (IDS,), I64), AFTER), (Const(0, I64), op("minimum", AFTER, Const(4, I64)))),
        ((KV, Load(1, (op("add", Load(0, (KV,), I64), ONE),), I64)), (KV, FAR)),
    ),
)
PROGRAMS = {"causal": CAUSAL, "window": WINDOW, "documents": DOCUMENTS}


def compiled(program: Program, kernel: str, name: str, head_dim: int, **chosen: Any) -> Any:
    """What is told of one kernel in bf16, with blocks of 128."""
    gpu = target(name)
    cost = cost_of(program)
    tile = choose_tile(kernel, gpu, "bf16", head_dim, head_dim, block=(128, 128), cost=cost)
    choices = Choices(
        tile,
        tables=4,
        aligned=True,
        descriptors=takes_descriptors(gpu, "bf16", head_dim, head_dim),
        pack=kernel == "decode",
        dense_captures=(True,) * len(program.captures),
    )
    source = triton_source(
        program,
        kernel,
        dtype="bf16",
        D=head_dim,
        DV=head_dim,
        target=gpu,
        choices=replace(choices, **chosen),
    )
    found = compile_sources([source])
    assert found["shared_bytes"] <= gpu.shared_limit
    return found


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("mask", ["causal", "window"])
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "gfx942"])
def test_the_forward_does_not_spill(name: str, mask: str, head_dim: int) -> None:
    found = compiled(PROGRAMS[mask], "forward", name, head_dim)
    # At most a scalar of a whole tile, which is read outside the loops over keys.
    assert found["spilled_words"] <= 1
    assert MMA[name] in found["mma"]


@pytest.mark.parametrize("kernel", ["forward", "decode", "dq", "dkdv"])
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "gfx942"])
def test_every_kernel_compiles(name: str, kernel: str) -> None:
    """Two pieces, and ends that are read from captures; hardly more spills than with lists."""
    found = compiled(DOCUMENTS, kernel, name, 128)
    listed = compiled(replace(DOCUMENTS, ranges=None), kernel, name, 128)
    assert found["spilled_words"] <= listed["spilled_words"] + FEW


@pytest.mark.parametrize("kernel", ["forward", "dq", "dkdv"])
def test_no_list_is_read(kernel: str) -> None:
    """A causal mask has no captured integers either, so that any load of one is of a list."""
    reads = re.compile(r"tt\.load .*!tt\.ptr<i32>")
    for program, listed in ((CAUSAL, False), (replace(CAUSAL, ranges=None), True)):
        found = compiled(program, kernel, "sm_90", 64)
        source = Path(found["kernels"][kernel]["source"])
        assert bool(reads.search(source.with_name("kernel.ttgir").read_text())) == listed
