"""python -m flexattn: each command, its JSON, and its exit codes."""

import json

import pytest

from flexattn.__main__ import main


def run(capsys, *arguments):
    code = main(arguments)
    return code, capsys.readouterr()


def test_info(capsys):
    code, said = run(capsys, "info", "--json")
    assert code == 0
    facts = json.loads(said.out)
    assert {"compiler", "instruction_set", "cache_directory", "torch"} <= facts.keys()
    assert {"triton", "gpus"} <= facts.keys()
    assert run(capsys, "info")[1].out.startswith("cpu")


def test_explain(capsys):
    code, said = run(capsys, "explain", "flexattn:noop_mask", "--q-len", "256")
    assert code == 0
    assert "== graph ==" in said.out
    sizes = ("--batch", "2", "--heads", "3", "--kv-len", "512")
    code, said = run(capsys, "explain", "flexattn:noop_mask", "--q-len", "256", *sizes, "--json")
    assert json.loads(said.out)["cost"]["pairs"] == 2 * 3 * 256 * 512
    code, said = run(capsys, "explain", "flexattn:noop_mask", "--kernel", "backward")
    assert "flexattn_backward" in said.out
    code, said = run(capsys, "explain", "flexattn:noop_mask", "--json")
    assert json.loads(said.out)["name"] == "noop_mask"


def test_compile_and_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(tmp_path / "cache"))
    code, said = run(capsys, "compile", "flexattn:noop_mask", "--json")
    assert code == 0
    key = json.loads(said.out)["key"]
    code, said = run(capsys, "cache", "--json")
    assert key in [row["key"] for row in json.loads(said.out)]
    assert run(capsys, "cache")[1].out.splitlines()[0].endswith(" kernels in " + _folder(capsys))
    code, said = run(capsys, "cache", "--clear", "--json")
    assert json.loads(said.out)["removed"] >= 1
    assert json.loads(run(capsys, "cache", "--json")[1].out) == []


def test_a_head_dim_that_is_none(capsys):
    line = "compile flexattn:noop_mask --target sm_90 --head-dim wide"
    with pytest.raises(SystemExit) as ended:
        run(capsys, *line.split())
    assert ended.value.code == 2
    assert "--head-dim: 'wide' is not a number, nor two such as 192,128" in capsys.readouterr().err


def test_compile_for_a_gpu(capsys):
    line = "compile flexattn:noop_mask --target sm_90 --direction fwd --head-dim 32,16 --dtype bf16"
    code, said = run(capsys, *line.split(), "--json")
    assert code == 0
    facts = json.loads(said.out)
    wanted = {"registers", "spilled_words", "stack", "shared_bytes", "mma", "seconds"}
    assert wanted <= facts.keys() and wanted <= facts["kernels"]["forward"].keys()
    assert facts["mma"]["wgmma"] > 0 and facts["head_dim"] == [32, 16]
    code, said = run(capsys, *line.split())
    assert code == 0 and "wgmma" in said.out and "shared_bytes" in said.out
    code, said = run(capsys, "compile", "flexattn:noop_mask", "--target", "sm_70")
    assert code == 1 and said.err.startswith("TargetError: there is no target 'sm_70'")


def _folder(capsys):
    return json.loads(run(capsys, "info", "--json")[1].out)["cache_directory"]


def test_bench_latency(capsys, tmp_path):
    output = tmp_path / "latency.json"
    code, said = run(
        capsys, "bench", "latency", "--rounds", "2", "--no-peers", "--json", "--output", str(output)
    )
    assert code == 0
    facts = json.loads(said.out)
    assert facts["suite"] == "latency"
    assert facts["machine"]["torch"]
    assert json.loads(output.read_text()) == facts


def test_errors_are_told_without_a_traceback(capsys):
    code, said = run(capsys, "explain", "nowhere:at_all")
    assert code == 1
    assert said.err.startswith("ArgumentError: there is no mod 'nowhere:at_all'")
    code, said = run(capsys, "explain", "math:pi")
    assert code == 1
    assert said.err.startswith("ArgumentError: 'math:pi' is not a mod.")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "no-such-suite"])
    assert stop.value.code == 2


def test_info_runs_where_there_is_no_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, said = run(capsys, "info", "--json")
    assert code == 0
    assert "no-such-compiler" in json.loads(said.out)["compiler"]
