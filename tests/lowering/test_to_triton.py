"""Generated Triton as text, and compiled for GPUs that need not be there.

What it computes is tested in tests/interpreted/test_hooks.py.
"""

from __future__ import annotations

import ast
import re

import pytest
import torch
from operands import operands, roots_of
from recipe_parts import chosen
from triton_compile import captures_type, compile_for, module_of

from attention_gym.gallery import load, names
from flexattn import template
from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import BOOL, F32, F64, FLOATS, I64, Apply, Const, Input, Load, Node
from flexattn.ir.ops import OPS
from flexattn.ir.program import CaptureType, Program
from flexattn.lowering.to_triton import function, lower_hoists, lower_triton_hooks
from flexattn.lowering.triton_emit import CaptureLayout, TritonEmitter, typed
from flexattn.lowering.triton_spellings import SPELLINGS
from flexattn.op.programs import STORAGE
from flexattn.passes.pipeline import build_hooks
from flexattn.passes.split import split
from flexattn.reports.problem import make_problem, trace

S = Input("score", F32)
B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))
PARTS = ("functions", "functions_rare")
GPUS = pytest.mark.parametrize("target", ["sm_90", "gfx942"])


def op(name: str, *args: Node, dtype: str = F32) -> Apply:
    return Apply(name, args, dtype)


def emitted(root: Node, *captures: CaptureType, numbers: tuple[str, ...] = ()) -> list[str]:
    hooks = Hooks((), (), (), None, None, None, None, (), captures, numbers, F32)
    emitter = TritonEmitter(CaptureLayout(hooks))
    emitter.value(root)
    return emitter.lines


def arguments(text: str) -> dict[str, list[str]]:
    """Argument names of each function of a module."""
    found = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name: [arg.arg for arg in node.args.args] for node in found}


def test_every_operation_has_a_spelling_and_every_function_is_there() -> None:
    assert SPELLINGS.keys() == OPS.keys()
    defined: dict[str, list[str]] = {}
    for name in PARTS:
        defined |= arguments(template.triton_part(name))
    for name, row in SPELLINGS.items():
        for text in row.values():
            for called, given in re.findall(r"\b(m_\w+)\(([^)]*)\)", text):
                assert len(defined[called]) == given.count("{"), (name, text)


def test_hooks_have_the_interface_of_the_template() -> None:
    region = template.triton_part("mods")
    hooks = build_hooks(Program(op("neg", S), None), direction="forward", base2=True)
    text = lower_triton_hooks(hooks)
    assert arguments(text) == arguments(region)
    flags = r"^(\w+): tl\.constexpr"
    assert re.findall(flags, text, re.M) == re.findall(flags, region, re.M)


def test_nothing_asked_gives_the_identities() -> None:
    for direction in ("forward", "backward", "tiles"):
        text = lower_triton_hooks(build_hooks(Program(None, None), direction=direction, base2=True))
        assert re.findall(r"tl\.constexpr\((.*)\)", text) == [
            "False", "False", "False", '"none"', "False", "False", "0", "0",
        ]  # fmt: skip
        assert not re.search(r"tl\.(load|store|atomic_add)", text)
        assert "return score_log2\n" in text and "    return grad\n" in text


def test_the_tuple_of_captures_is_laid_out_in_order() -> None:
    captures = (CaptureType("bool", 2), CaptureType("bf16", 0), CaptureType("i32", 1))
    gate = Load(0, (Input("b", "i32"), Input("q_idx", "i32")), BOOL)
    value = op("mul", Load(1, (), F32), Input("n1", F32))
    count = op("to_float", Load(2, (Input("size0_1", "i32"),), I64))
    text = emitted(op("where", gate, value, count), *captures, numbers=(I64, F32))
    assert text == [
        "t1 = captures[0] + (b * captures[3])",
        "t2 = t1 + (q_idx * captures[4])",
        "t3 = tl.load(t2) != 0",
        "t4 = tl.load(captures[5]).to(tl.float32)",
        "t5 = tl.cast(captures[10], tl.float32)",
        "t6 = t4 * t5",
        "t7 = tl.cast(captures[2], tl.int32)",
        "t8 = captures[6] + (t7 * captures[8])",
        "t9 = tl.load(t8).to(tl.int64)",
        "t10 = t9.to(tl.float32)",
        "t11 = tl.where(t3, t6, t10)",
    ]


def test_wide_indices_are_multiplied_in_the_type_of_the_stride() -> None:
    text = emitted(Load(0, (Q, Const(3, I64)), F32), CaptureType("f32", 2))
    assert "t2 = captures[0] + (captures[4] * 3)" in text
    assert "t3 = t2 + (m_step(t1, captures[3]))" in text


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, F32, "tl.cast(0.1, tl.float32)"),
        (0.1, F64, "tl.full((), 0.1, tl.float64)"),
        (-0.0, F32, "-1.0 * tl.cast(0.0, tl.float32)"),
        (float("-inf"), F32, 'tl.cast(float("-inf"), tl.float32)'),
        (1e39, F32, 'tl.cast(float("inf"), tl.float32)'),
        (2**40, I64, "tl.cast(1099511627776, tl.int64)"),
        (True, BOOL, "tl.cast(True, tl.int1)"),
    ],
)
def test_constants_are_of_their_own_type(value: float, dtype: str, text: str) -> None:
    assert typed(Const(value, dtype)) == text


def test_literals_take_the_type_of_what_they_meet() -> None:
    assert emitted(op("mul", S, Const(0.1, F32))) == ["t1 = score * 0.1"]
    assert emitted(op("where", op("lt", S, Const(0.0, F32), dtype=BOOL), S, Const(1.0, F32))) == [
        "t1 = score < 0.0", "t2 = tl.where(t1, score, 1.0)",
    ]  # fmt: skip
    assert emitted(op("floordiv", Q, Const(3, I64), dtype=I64))[1].startswith("t2 = m_int_floordiv")
    assert emitted(op("truncdiv", Q, Const(3, I64), dtype=I64))[1] == "t2 = t1 // 3"


@pytest.mark.parametrize("compute", [F32, F64])
def test_fast_tanh_is_for_float32(compute: str) -> None:
    score = op("tanh", Input("score", compute), dtype=compute)
    hooks = build_hooks(Program(score, None, compute=compute), direction="forward", base2=True)
    fast = "m_tanh_approx(" in lower_triton_hooks(hooks, fast_tanh=True)
    assert fast == (compute == F32)
    assert "m_tanh_approx(" not in lower_triton_hooks(hooks)


def test_rare_functions_come_where_they_are_called() -> None:
    for name, rare in (("tanh", False), ("asin", True)):
        hooks = build_hooks(Program(op(name, S), None), direction="forward", base2=True)
        text = template.render_triton("mods", mods=lower_triton_hooks(hooks))
        assert ("def m_atan2(" in text) == rare and "def m_div(" in text
        ast.parse(text)


# Compiled ----------------------------------------------------------------------------------------

OPERATIONS = """
@triton.jit
def driver(captures, scores, out, N, BM: tl.constexpr, BN: tl.constexpr):
    q_idx, kv_idx = tl.arange(0, BM)[:, None], tl.arange(0, BN)[None, :]
    b, h = tl.program_id(0), tl.program_id(1)
    score = tl.load(scores + q_idx * N + kv_idx)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    tl.store(out + q_idx * N + kv_idx, everything(captures, u, qv, kvv, score, b, h, q_idx, kv_idx))
"""


@GPUS
def test_every_operation_compiles(target: str, tmp_path) -> None:
    captures = tuple(CaptureType(STORAGE[t.dtype], t.dim()) for t in operands(torch.float32))
    roots = [root for name in OPS for root in roots_of(name, F32)[::4]]
    hoisted = split(roots)
    hooks = Hooks(hoisted.uniform, hoisted.q, hoisted.kv, *[None] * 4, (), captures, (), F32)
    layout = CaptureLayout(hooks)
    emitter = TritonEmitter(layout)
    emitter.lines.append("sum0 = score")
    for number, root in enumerate(hoisted.roots):
        value = emitter.value(root)
        text = value if root.dtype in FLOATS else f"{value}.to(tl.float32)"
        emitter.lines.append(
            f"sum{number + 1} = sum{number} + {text}" if number else f"sum1 = {text}"
        )
    head = "everything(captures, u, qv, kvv, score, b, h, q_idx, kv_idx)"
    body = function(head, [*emitter.lines, f"return sum{len(roots)}"])
    mods = "\n\n\n".join([*lower_hoists(layout, {}), body])
    module = module_of(template.render_triton("mods", mods=mods) + OPERATIONS, tmp_path)
    types = {"captures": captures_type(hooks), "scores": "*fp32", "out": "*fp32", "N": "i32"}
    compile_for(module.driver, target, types, {"BM": 16, "BN": 16})


HOOKS = """
@triton.jit
def driver(captures, grads, data, out, B, Hq, M, N, BM: tl.constexpr, BN: tl.constexpr):
    b, h = tl.program_id(0), tl.program_id(1)
    bh = b * Hq + h
    o_q, o_kv = tl.arange(0, BM), tl.arange(0, BN)
    q_idx, kv_idx = tl.minimum(o_q, M - 1)[:, None], tl.minimum(o_kv, N - 1)[None, :]
    at = o_q[:, None] * N + o_kv[None, :]
    score, arriving = tl.load(data + at), tl.load(out + at)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    made = score_mod(captures, u, qv, kvv, score, score, b, h, q_idx, kv_idx)
    keep = mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx)
    bad = fault(captures, u, qv, kvv, score, b, h, q_idx, kv_idx)
    value = tl.where(keep & ~bad, made, 0.0)
    value += score_mod_grad(captures, u, qv, kvv, score, made, arriving, b, h, q_idx, kv_idx)
    tl.store(out + at, value)
    sums = begin_row_grads(BM)
    for kv0 in range(0, N, BN):
        sums = add_row_grads(
            sums, grads, captures, u, qv, kvv, score, made, arriving, b, h, q_idx, kv_idx,
            bh, 0, B, Hq, 0, kv0, M, N, M, N, BM, BN, False)
    end_row_grads(sums, grads, captures, u, qv, b, h, q_idx, bh, 0, B, Hq, 0, M, M, N, 0, 1, BM)
    key_sums = begin_key_grads(BM)
    for kv0 in range(0, N, BN):
        key_sums = add_key_grads(
            key_sums, grads, captures, u, qv, kvv, score, made, arriving, b, h, q_idx, kv_idx)
    end_key_grads(key_sums, grads, captures, u, kvv, b, h, kv_idx, bh, 0, N, N, BM)
"""


def compile_hooks(hooks: Hooks, target: str, folder) -> object:
    text = template.render_triton("mods", mods=lower_triton_hooks(hooks)) + HOOKS
    types = {
        "captures": captures_type(hooks), "grads": ("*fp32",) * len(hooks.capture_grads),
        "data": "*fp32", "out": "*fp32", "B": "i32", "Hq": "i32", "M": "i32", "N": "i32",
    }  # fmt: skip
    return compile_for(module_of(text, folder).driver, target, types, {"BM": 32, "BN": 32})


@pytest.mark.parametrize("name", chosen(names()))
def test_recipes_compile(name: str, tmp_path) -> None:
    recipe = load(name)
    given = recipe.make_captures(recipe.sizes, {})
    problem = make_problem(1, recipe.sizes.heads, 256, 256, 64, None, None, torch.float32)
    traced = trace(*recipe.mods(given), problem)
    grads = frozenset(range(len(traced.program.captures)))
    for direction in ("forward", "backward"):
        hooks = build_hooks(
            traced.program, direction=direction, base2=True, grads=grads,
            proved=frozenset(traced.facts.proved),
        )  # fmt: skip
        compile_hooks(hooks, "sm_90", tmp_path)


@GPUS
def test_every_way_of_captured_gradients_compiles(target: str, tmp_path) -> None:
    distance = op("sub", Q, KV, dtype=I64)
    spots = (
        (H,),
        (Q,),
        (KV,),
        (op("abs", distance, dtype=I64),),
        (B, H, Q, KV),
        (op("add", Q, KV, dtype=I64),),
    )
    score: Node = op("tanh", S)
    for number, indices in enumerate(spots):
        score = op("add", score, op("mul", Load(number, indices, F32), S))
    captures = tuple(CaptureType("bf16", len(indices)) for indices in spots)
    hooks = build_hooks(
        Program(score, None, captures), direction="backward", base2=True,
        grads=frozenset(range(6)), proved=frozenset((number, "inside") for number in range(20)),
    )  # fmt: skip
    assert [place.way for place in hooks.capture_grads] == [
        "head", "query", "key", "distance", "pair", "scatter",
    ]  # fmt: skip
    compile_hooks(hooks, target, tmp_path)


GLUON = """
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def driver(captures, scores, out):
    L: gl.constexpr = gl.BlockedLayout([1, 4], [4, 8], [4, 1], [1, 0])
    q_idx = gl.arange(0, 32, layout=gl.SliceLayout(1, L))[:, None]
    kv_idx = gl.arange(0, 32, layout=gl.SliceLayout(0, L))[None, :]
    score = gl.load(scores + q_idx * 32 + kv_idx)
    b, h = gl.program_id(0), gl.program_id(1)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    made = score_mod(captures, u, qv, kvv, score, score, b, h, q_idx, kv_idx)
    made += score_mod_grad(captures, u, qv, kvv, score, made, score, b, h, q_idx, kv_idx)
    keep = mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx)
    gl.store(out + q_idx * 32 + kv_idx, gl.where(keep, made, 0.0))
"""


@pytest.mark.parametrize("fast", [False, True])
def test_gluon_kernels_call_the_same_hooks(fast: bool, tmp_path) -> None:
    bias = Load(0, (H, op("abs", op("sub", Q, KV, dtype=I64), dtype=I64)), F32)
    score = op("add", op("tanh", S), op("pow", op("exp", S), op("fmod", bias, S)))
    mask = op("lt", Load(1, (B,), F32), Input("n0", F32), dtype=BOOL)
    mask = op("and", mask, op("ge", Q, KV, dtype=BOOL), dtype=BOOL)
    program = Program(score, mask, (CaptureType("bf16", 2), CaptureType("f32", 1)), (F32,))
    hooks = build_hooks(program, direction="backward", base2=True)
    mods = lower_triton_hooks(hooks, fast_tanh=fast)
    module = module_of(template.render_triton("mods", mods=mods) + GLUON, tmp_path)
    types = {"captures": captures_type(hooks), "scores": "*fp32", "out": "*fp32"}
    compiled = compile_for(module.driver, "sm_90", types, {}, gluon=True)
    assert ("tanh.approx.f32" in compiled.asm["ptx"]) == fast
