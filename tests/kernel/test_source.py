"""What a kernel is keyed by, and that its text stands alone."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess

import pytest
import torch

from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Load
from flexattn.ir.program import CaptureType, Program
from flexattn.kernel import config, source
from flexattn.kernel.isa import ISAS
from flexattn.kernel.source import kernel_source
from flexattn.runtime import counters, launch

Q, K, S = Input("q_idx", I64), Input("kv_idx", I64), Input("score", F32)
CAUSAL = Apply("ge", (Q, K), BOOL)
BIASED = Program(Apply("add", (S, Load(0, (Q,), F32)), F32), CAUSAL, (CaptureType("f32", 1),))
PLAIN = Program(None, None)
AVX2 = ISAS["avx2"]


def key(program: Program = BIASED, direction: str = "forward", **options) -> str:
    return kernel_source(program, direction, **{"dtype": "f32", "isa": AVX2, **options}).key


@pytest.mark.null
def test_everything_that_decides_the_text_is_in_the_key():
    keys = [
        key(),
        key(direction="backward"),
        key(direction="backward", grads={0}),
        key(dtype="bf16"),
        key(isa=ISAS["portable"]),
        key(wide=True),
        key(proved={(0, "inside")}),
        key(dataclasses.replace(BIASED, mask=None)),
        key(dataclasses.replace(BIASED, captures=(CaptureType("bf16", 1),))),
        key(PLAIN),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


@pytest.mark.null
def test_the_key_follows_the_compiler_asked_for_and_the_machine(monkeypatch):
    before = key()
    monkeypatch.setenv("FLEXATTN_CXX", "clang++")
    assert key() != before
    monkeypatch.delenv("FLEXATTN_CXX")
    monkeypatch.setattr(source.platform, "machine", lambda: "aarch64")
    assert key() != before


@pytest.mark.null
def test_a_key_costs_no_passes(monkeypatch):
    monkeypatch.setattr(source, "build_hooks", None)
    monkeypatch.setattr(source, "lower_hooks", None)
    assert re.fullmatch("[0-9a-f]{40}", key())


@pytest.mark.null
def test_the_text_says_where_it_came_from_and_includes_nothing():
    text = kernel_source(BIASED, "forward", dtype="bf16", isa=AVX2).text
    assert text.startswith("// flexattn forward kernel, bf16 inputs, avx2\n")
    assert "codegen_templates/cpp/forward.cpp" in text
    assert not re.search(r"^\s*#\s*include", text, re.M)
    assert "#define FLEX_INPUT 1" in text and "#define FLEX_ISA 1" in text


@pytest.mark.null
def test_the_text_quotes_the_lines_it_came_from():
    lines = {BIASED.score: "train.py:7: return score + bias[q_idx]"}
    made = kernel_source(BIASED, "forward", dtype="f32", isa=AVX2, locations=lines)
    head = made.text[: made.text.index("#define")]
    assert re.search(r"^// .* # train.py:7: return score", head, re.M)
    assert made.key == key()


@pytest.mark.null
def test_the_analysis_tells_proofs_and_hoisted_parts():
    text = kernel_source(BIASED, "forward", dtype="f32", isa=AVX2).analysis_text
    assert "capture0, index 0: guarded at run time" in text
    assert "once per query: q:0" in text
    proved = kernel_source(BIASED, "forward", dtype="f32", isa=AVX2, proved={(0, "inside")})
    assert "capture0, index 0: proved inside" in proved.analysis_text


@pytest.mark.null
def test_only_the_math_that_is_used_is_in_the_text():
    tanh = Apply("tanh", (S,), F32)
    without = kernel_source(PLAIN, "forward", dtype="f32", isa=AVX2).text
    with_tanh = kernel_source(Program(tanh, None), "forward", dtype="f32", isa=AVX2).text
    assert "m_tanh" not in without and "m_erf" not in with_tanh
    assert re.search(r"VF m_tanh\(VF", with_tanh)


@pytest.mark.null
def test_facts_about_captured_gradients_reach_the_caller():
    meta = kernel_source(BIASED, "backward", dtype="f32", isa=AVX2, grads={0}).meta
    assert meta["capture_grads"] == [{"capture": 0, "depends": "q", "dense": False, "plain": []}]


@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda isa: isa.name)
@pytest.mark.parametrize("dtype", config.INPUTS)
def test_every_combination_compiles(isa, dtype, tmp_path):
    """Syntax only: that is quick, and needs no CPU that could run it."""
    if config.compute_dtype(dtype) == "f64":
        program = PLAIN
    else:
        program = BIASED
    for direction, grads in (
        ("forward", ()),
        ("backward", {0} & set(range(len(program.captures)))),
    ):
        made = kernel_source(program, direction, dtype=dtype, isa=isa, grads=grads)
        path = tmp_path / "kernel.cpp"
        path.write_text(made.text)
        flags = [flag for flag in made.flags if flag != "-O2"]
        compiler = shutil.which("g++")
        done = subprocess.run(
            [compiler, *flags, "-fsyntax-only", str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[:2000]


def test_a_cached_kernel_needs_no_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(tmp_path))
    counters.clear_cache()
    launch.load(kernel_source(BIASED, "tiles", dtype="f32"))
    counters.clear_cache()
    monkeypatch.setattr(source, "build_hooks", None)  # would fail if it were called
    launch.load(kernel_source(BIASED, "tiles", dtype="f32"))
    assert counters.cache_info().disk_hits == 1


def test_tiles_classify_by_the_mask():
    window = Apply(
        "and", (CAUSAL, Apply("lt", (Apply("sub", (Q, K), I64), Const(40, I64)), BOOL)), BOOL
    )
    kernel = launch.load(kernel_source(Program(None, window), "tiles", dtype="f32"))
    rows = cols = 7
    classes = torch.full((1, 1, rows, cols), 9, dtype=torch.uint8)
    kernel(
        classes=classes.data_ptr(),
        B=1,
        H=1,
        rows=rows,
        cols=cols,
        M=100,
        N=100,
        q_block=16,
        kv_block=16,
    )
    q, k = torch.arange(100).view(-1, 1), torch.arange(100)
    kept = (q >= k) & (q - k < 40)
    for row in range(rows):
        for col in range(cols):
            block = kept[row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
            assert classes[0, 0, row, col] == (0 if not block.any() else 2 if block.all() else 1)
