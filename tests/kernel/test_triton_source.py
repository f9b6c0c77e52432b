"""What a Triton kernel's source says: self-contained text, signature, and what is in its key."""

from __future__ import annotations

import ast
import importlib
from dataclasses import replace
from typing import Any

import pytest

from flexattn import template
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Input, Load
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel.targets import target
from flexattn.kernel.triton_source import Choices, TritonSource, triton_source
from flexattn.kernel.triton_spec import PADDING, TABLES, TRITON_SPECS
from flexattn.kernel.triton_tiles import Tile

H, Q, KV = (Input(name, I64) for name in ("h", "q_idx", "kv_idx"))
PROGRAM = Program(
    Apply("add", (Input("score", F32), Load(0, (H, KV), F32)), F32),
    Apply("ge", (Q, KV), BOOL),
    (CaptureType("f32", 2), CaptureType("bool", 0)),
    (I64, F32),
)
CHOICES = Choices(tile=Tile(64, 32, 4, 2))


def source(kernel: str = "forward", program: Program = PROGRAM, **given: Any) -> TritonSource:
    settings = {"dtype": "bf16", "D": 64, "DV": 32, "target": target("sm_90"), "choices": CHOICES}
    return triton_source(program, kernel, **settings | given)


@pytest.mark.parametrize("kernel", TRITON_SPECS)
def test_the_text_stands_alone(kernel: str) -> None:
    tree = ast.parse(source(kernel).text)
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert {str(name).partition(".")[0] for name in imported} == {"triton"}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions]
    assert len(names) == len(set(names))
    (entry,) = (node for node in functions if node.name == kernel)
    spec = TRITON_SPECS[kernel]
    wanted = [name for name, _ in spec.arguments] + list(spec.choices)
    assert [argument.arg for argument in entry.args.args] == wanted


def test_identities_are_kept_without_mods() -> None:
    text = template.render_triton("forward", head=["where it", "comes from"])
    assert text.startswith("# where it\n# comes from\nimport triton\n")
    assert "HAS_SCORE_MOD: tl.constexpr = tl.constexpr(False)" in text
    assert "\nfrom codegen_templates" not in text


def test_signature() -> None:
    made = source(choices=replace(CHOICES, dense_captures=(True, True)), wide=True)
    types = made.signature
    assert list(types) == [name for name, _ in made.spec.arguments] + list(made.spec.choices)
    assert (types["q"], types["lse"], types["scale"], types["fault_at"]) == (
        "*bf16", "*fp32", "fp32", "*i64"
    )  # fmt: skip
    assert types["captures"] == ("*fp32", "i32", "i32", "i32", "constexpr", "*u8", "i64", "fp32")
    assert len(types["tables"]) == len(TABLES) and types["q_d"] == "i64"
    place = made.arguments.index("captures")
    assert made.constexprs[place, 4] == 1 and made.attrs == {}
    assert made.constants["BM"] == 64 and made.constants["DV"] == 32
    far = source(choices=replace(CHOICES, far=True)).signature["captures"]
    assert far == ("*fp32", "i64", "i64", "i64", "i64", "*u8", "i32", "fp32")


def test_alignment() -> None:
    made = source("delta", dtype="f32", choices=replace(CHOICES, aligned=True))
    known = {made.arguments[place]: attr for (place,), attr in made.attrs.items()}
    assert known["out"] == [["tt.divisibility", 16]] and known["o_m"] == [["tt.divisibility", 4]]
    assert "grad_lse" not in known and "do_d" not in known and "M" not in known
    assert made.signature["do_d"] == "constexpr"
    assert made.constexprs[(made.arguments.index("do_d"),)] == 1


def test_precision() -> None:
    def precision(dtype: str, name: str) -> str:
        return source(dtype=dtype, target=target(name)).constants["PRECISION"]

    assert precision("f32", "sm_80") == "tf32x3"
    for dtype, name in (("f32", "gfx942"), ("f64", "sm_90"), ("bf16", "sm_90")):
        assert precision(dtype, name) == "ieee"


def test_the_key_tells_kernels_apart() -> None:
    keys = [
        each.key
        for each in (
            source(),
            source(dtype="f16"),
            source(D=65),
            source(DV=33),
            source("decode"),
            source(target=target("sm_100")),
            source(program=replace(PROGRAM, mask=None)),
            source(choices=replace(CHOICES, tables=4)),
            source(choices=replace(CHOICES, tile=Tile(64, 32, 4, 3))),
            source(wide=True),
            source(proved=[(0, "inside")]),
            source("dq"),
            source("dq", grads=[0]),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert source().key == keys[0]


def test_kernels_without_mods_serve_all_programs() -> None:
    assert source("delta").key == source("delta", Program(None, None), wide=True).key


def test_padding_of_row_values_is_the_templates() -> None:
    tiles = importlib.import_module("codegen_templates.triton.tiles")
    assert tiles.PADDING.value == PADDING
