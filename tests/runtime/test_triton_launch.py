"""Triton kernels are compiled once, found on disk, and started on the right device."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.runtime import _allocation

from flexattn.errors import BackendError, CompilerFailedError, TritonNotFoundError
from flexattn.ir.program import Program
from flexattn.kernel.targets import INTERPRETER, target
from flexattn.kernel.triton_source import Choices, TritonSource, triton_source
from flexattn.kernel.triton_tiles import Tile
from flexattn.runtime import cache, counters, triton_build, triton_launch
from flexattn.runtime.triton_launch import TritonKernel, load_triton

SM_90 = target("sm_90")


def delta(**choices: Any) -> TritonSource:
    """The smallest kernel."""
    chosen = Choices(tile=Tile(16, 16, 4, 1), **choices)
    empty = Program(None, None)
    return triton_source(empty, "delta", dtype="bf16", D=16, DV=16, target=SM_90, choices=chosen)


def counts() -> tuple[int, int, int, int]:
    found = counters.cache_info()
    return found.compiler_runs, found.kernels_built, found.disk_hits, found.memory_hits


def test_memory_then_disk_then_compiler(cache_dir: Path) -> None:
    source = delta()
    first = load_triton(source)
    assert counts() == (1, 1, 0, 0)
    assert load_triton(source) is first
    assert counts() == (1, 1, 0, 1)
    counters.clear_cache()
    again = load_triton(delta())
    assert counts() == (0, 0, 1, 0)
    assert again.compiled.kernel == first.compiled.kernel
    assert again.compiled.packed_metadata == first.compiled.packed_metadata
    counters.clear_cache()
    assert load_triton(delta(has_grad_lse=True)).source.key != source.key
    assert counts() == (1, 1, 0, 0)


def test_an_entry_holds_all_files(cache_dir: Path) -> None:
    kernel = load_triton(delta())
    found = triton_launch.files(kernel)
    assert {"py", "json", "cubin", "ptx", "ttgir"} == found.keys()
    assert found["py"].read_text() == kernel.source.text
    assert sorted(path.name for path in cache_dir.iterdir()) == sorted(
        [kernel.source.key, "building", "locks"]
    )
    assert not list((cache_dir / "building").iterdir())
    assert [entry.meta["key"] for entry in cache.entries()] == [kernel.source.key]
    assert cache.empty() == 1


@pytest.mark.parametrize("name", ["kernel.cubin", "kernel.json", "meta.json"])
def test_a_damaged_entry_is_built_again(cache_dir: Path, name: str) -> None:
    kernel = load_triton(delta())
    path = cache_dir / kernel.source.key / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    counters.clear_cache()
    load_triton(delta())
    assert counts() == (1, 1, 0, 0)


def test_a_read_only_cache_serves_what_it_has(cache_dir: Path) -> None:
    kernel = load_triton(delta())
    counters.clear_cache()
    shutil.rmtree(cache_dir / "building")
    (cache_dir / "building").write_text("no folder can be made here")
    assert load_triton(delta()).source.key == kernel.source.key
    assert counts() == (0, 0, 1, 0)


def test_threads_that_want_one_kernel_compile_it_once(cache_dir: Path) -> None:
    found: list[TritonKernel] = []
    threads = [threading.Thread(target=lambda: found.append(load_triton(delta()))) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(kernel is found[0] for kernel in found)
    assert counts()[:2] == (1, 1)


def test_other_threads_files_go_where_they_went(tmp_path: Path) -> None:
    manager = importlib.import_module("triton.runtime.cache").get_cache_manager
    elsewhere: list[str] = []
    with triton_build.redirected(tmp_path / "ours"):
        thread = threading.Thread(target=lambda: elsewhere.append(manager("ab").cache_dir))
        thread.start()
        thread.join()
        assert Path(manager("ab").cache_dir).parent == tmp_path / "ours"
    assert Path(elsewhere[0]).parent == Path(triton.knobs.cache.dir)
    assert manager("ab").cache_dir == elsewhere[0]
    assert "manager_class" not in vars(triton.knobs.cache)


def test_dump(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_DUMP", str(tmp_path / "dump"))
    source = delta()
    load_triton(source)
    folder = tmp_path / "dump" / f"delta-{source.key[:16]}"
    names = {"kernel.py", "ir.txt", "analysis.txt", "meta.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "kernel.py").read_text() == source.text


def test_what_triton_refuses_is_kept(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dataclasses.replace(delta())
    monkeypatch.setitem(source.__dict__, "text", source.text.replace("tl.sum", "tl.no_such_sum"))
    with pytest.raises(CompilerFailedError, match="could not compile a generated delta") as caught:
        load_triton(source)
    kept = Path(str(caught.value.at))
    assert kept == cache_dir / "failed" / f"{source.key}.py" and "no_such_sum" in kept.read_text()
    assert cache.lookup(source.key) is None


def test_triton_is_missing(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(TritonNotFoundError, match="for sm_90, and cannot be imported"):
        load_triton(delta())


def test_triton_is_kept_out(cache_dir: Path) -> None:
    """Something may stand in the way of its import; that is no other error."""
    code = """
import sys

class Kept:
    def find_spec(self, name, path=None, target=None):
        if name == "triton":
            raise ModuleNotFoundError("No module named 'triton'")

sys.meta_path.insert(0, Kept())
from flexattn.__main__ import main
sys.exit(main(["compile", "flexattn:noop_mask", "--target", "sm_90"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("TritonNotFoundError"), done.stderr


def test_compiled_and_interpreted_do_not_mix(cache_dir: Path) -> None:
    source = dataclasses.replace(delta(), target=INTERPRETER)
    with pytest.raises(BackendError, match="cannot serve interpreter in this process"):
        load_triton(source)


@dataclasses.dataclass
class Machine:
    """Stands in for torch's idea of GPUs."""

    current: int = 0
    visited: list[int] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[None]:
        former, self.current = self.current, index
        self.visited.append(index)
        yield
        self.current = former


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(triton_launch, "_current_device", lambda: found.current)
    monkeypatch.setattr(triton_launch, "_current_stream", lambda index: 1000 + index)
    monkeypatch.setattr(torch.cuda, "device", found.device)
    return found


@pytest.fixture
def launched(
    cache_dir: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> tuple[TritonKernel, list[tuple]]:
    """A kernel whose launches are written down: (device, everything the launcher is given)."""
    kernel, calls = load_triton(delta()), []

    def fake(compiled: Any) -> Any:
        compiled.module, compiled.function = object(), 40 + machine.current
        compiled._run = lambda *args: calls.append((machine.current, *args))
        return compiled

    restore = triton_build.restore
    monkeypatch.setattr(triton_build, "restore", lambda *args: fake(restore(*args)))
    fake(kernel.compiled)
    return kernel, calls


def test_a_launch(launched: Any, machine: Machine) -> None:
    kernel, calls = launched
    arguments = list(range(len(kernel.source.arguments)))
    kernel.launch((5, 4), arguments, torch.device("cuda", 0))
    kernel.launch((6,), arguments, None)
    packed = kernel.compiled.packed_metadata
    constants = [16, 16, False]
    tail = [40, packed, None, None, None, *arguments, *constants]
    assert calls == [(0, 5, 4, 1, 1000, *tail), (0, 6, 1, 1, 1000, *tail)]
    assert machine.visited == []  # the device was current


def test_nothing_to_do_is_not_launched(launched: Any) -> None:
    kernel, calls = launched
    kernel.launch((0,), [], 0)
    kernel.launch((4, 0), [], 0)
    assert calls == []


def test_each_device_has_its_own_handle(launched: Any, machine: Machine) -> None:
    kernel, calls = launched
    for index in (0, 2, 0, 2):
        kernel.launch((1,), [], index)
    assert [(call[0], call[4], call[5]) for call in calls] == [
        (0, 1000, 40), (2, 1002, 42), (0, 1000, 40), (2, 1002, 42)
    ]  # fmt: skip
    assert machine.visited == [2, 2] and machine.current == 0


def test_what_a_graph_may_hold_is_never_unloaded(cache_dir: Path, machine: Machine) -> None:
    kernel = load_triton(delta())
    compiled = weakref.ref(kernel.compiled)
    kernel.compiled._run, kernel.compiled.module = lambda *args: None, object()
    kernel.launch((1,), [], 0)
    del kernel
    counters.clear_cache()
    gc.collect()
    assert compiled() is not None


def test_profilers_are_told(launched: Any) -> None:
    kernel, calls = launched
    hooks = triton.knobs.runtime
    enter = hooks.launch_enter_hook
    enter.add(print)
    try:
        kernel.launch((1,), [], 0)
    finally:
        enter.remove(print)
    kernel.launch((1,), [], 0)
    assert calls[0][7].get()["name"] == "delta" and calls[0][8] is enter
    assert calls[1][7:10] == (None, None, None)


def test_the_users_allocator_is_left_alone(
    cache_dir: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_launch, "_device", lambda index: torch.device("cpu"))
    seen: list[Any] = []

    def run(*args: Any) -> None:
        seen.append(_allocation._allocator.get()(384, 128, 7))
        if "fail" in args:
            raise RuntimeError("no such luck")

    kernel = load_triton(delta())
    compiled = kernel.compiled
    compiled.module, compiled._run, compiled.function = object(), run, 1
    compiled.metadata = compiled.metadata._replace(global_scratch_size=384)

    def own(size: int, alignment: int, stream: int | None) -> None:
        return None

    token = _allocation._allocator.set(own)
    try:
        kernel.launch((1,), [], 0)
        assert seen[0].numel() == 384 and _allocation._allocator.get() is own
        with pytest.raises(RuntimeError, match="luck"):
            kernel.launch((1,), ["fail"], 0)
        assert len(seen) == 2 and _allocation._allocator.get() is own
    finally:
        _allocation._allocator.reset(token)


def test_no_module_of_ours_imports_triton() -> None:
    # torch itself may bring it along; what must not is `import flexattn` where there is none.
    stated = re.compile(r"^\s*(import|from) triton\b", re.M)
    folder = Path(triton_launch.__file__).parent.parent
    assert [path for path in folder.rglob("*.py") if stated.search(path.read_text())] == []
