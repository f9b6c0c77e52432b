"""The compiler is missing, refuses, or dies: each says so, and the next call works again."""

from __future__ import annotations

import shutil

import pytest

from flexattn.errors import CompilerFailedError, CompilerNotFoundError
from flexattn.runtime import compiler, counters, launch


def script(path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def no_choice(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("FLEXATTN_CXX", raising=False)


def test_no_compiler_is_its_own_error(cache_dir, source, no_choice, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(CompilerNotFoundError, match="install g"):
            launch.load(source())
    assert not list((cache_dir / "building").iterdir())
    launch.load(source())


def test_a_cached_kernel_needs_no_compiler(cache_dir, source, no_choice, monkeypatch, tmp_path):
    launch.load(source())
    counters.clear_cache()
    monkeypatch.setenv("PATH", str(tmp_path))
    launch.load(source())
    assert counters.cache_info().disk_hits == 1


def test_a_named_compiler_that_is_missing_is_named(no_choice, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O9")
    with pytest.raises(CompilerNotFoundError, match="no-such-compiler"):
        compiler.find()


def test_the_named_compiler_and_its_options_are_used(no_choice, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("FLEXATTN_CXX", "g++ -g0")
    assert compiler.find() == compiler.Compiler(shutil.which("g++"), ("-g0",))
    assert "g++" in compiler.find().version


def test_a_refused_source_is_kept_with_the_message(cache_dir, source):
    bad = source(text="int broken(;\n")
    with pytest.raises(CompilerFailedError) as caught:
        launch.load(bad)
    kept = cache_dir / "failed" / f"{bad.key}.cpp"
    assert kept.read_text() == bad.text
    message = str(caught.value)
    assert str(kept) in message and "expected" in message and "-O1" in message
    assert not (cache_dir / bad.key).exists() and not list((cache_dir / "building").iterdir())
    assert counters.cache_info().compiler_runs == 1 and counters.cache_info().kernels_built == 0
    launch.load(source())  # nothing is locked, and others can be built


def test_a_compiler_that_is_killed_says_so(cache_dir, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXATTN_CXX", script(tmp_path / "c++", "kill -9 $$"))
    with pytest.raises(CompilerFailedError, match="signal 9"):
        launch.load(source())


def test_a_compiler_that_writes_nothing_failed(cache_dir, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXATTN_CXX", script(tmp_path / "c++", "exit 0"))
    with pytest.raises(CompilerFailedError, match="printed nothing"):
        launch.load(source())


def test_a_program_that_cannot_be_run_failed(cache_dir, source, tmp_path, monkeypatch):
    path = tmp_path / "c++"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    monkeypatch.setenv("FLEXATTN_CXX", str(path))
    with pytest.raises(CompilerFailedError, match="cannot be run"):
        launch.load(source())


def test_a_name_with_an_open_quote_is_an_error(no_choice, monkeypatch):
    monkeypatch.setenv("CXX", 'g++ "')
    with pytest.raises(CompilerNotFoundError, match="cannot be split into words"):
        compiler.find()


def test_a_compiler_that_hangs_is_stopped(cache_dir, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXATTN_CXX", script(tmp_path / "c++", "exec sleep 600"))
    monkeypatch.setattr(compiler, "_PATIENCE_S", 0.1)
    with pytest.raises(CompilerFailedError, match=r"did not end within 0\.1 seconds") as caught:
        launch.load(source())
    assert str(cache_dir / "failed") in caught.value.at
    monkeypatch.undo()
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(cache_dir))
    launch.load(source())


@pytest.mark.parametrize(
    "body",
    [
        'while [ "$1" != -o ]; do shift; done; echo no library > "$2"',
        'while [ "$1" != -o ]; do shift; done; echo "int other;" | g++ -x c++ -shared -o "$2" -',
    ],
    ids=["text", "without the kernel"],
)
def test_what_cannot_be_loaded_was_not_compiled(cache_dir, source, tmp_path, monkeypatch, body):
    with monkeypatch.context() as patch:
        patch.setenv("FLEXATTN_CXX", script(tmp_path / "c++", body))
        with pytest.raises(CompilerFailedError, match="cannot be loaded"):
            launch.load(source())
    assert not (cache_dir / source().key).exists()
    launch.load(source())


def test_long_messages_are_cut(cache_dir, source, tmp_path, monkeypatch):
    body = 'for i in $(seq 100); do echo "error $i" >&2; done; exit 1'
    monkeypatch.setenv("FLEXATTN_CXX", script(tmp_path / "c++", body))
    with pytest.raises(CompilerFailedError, match="70 lines more"):
        launch.load(source())
