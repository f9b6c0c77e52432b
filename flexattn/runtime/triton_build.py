"""Compiles Triton kernels into cache entries, and brings them back without compiling.

Triton is imported here and in `triton_launch.py`, when the first kernel is wanted.
"""

from __future__ import annotations

import contextlib
import importlib
import linecache
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from flexattn.errors import BackendError, CompilerFailedError, TritonNotFoundError
from flexattn.kernel.triton_source import TritonSource, triton_version
from flexattn.runtime import cache, counters

_BINARY = {"cuda": "cubin", "hip": "hsaco"}
_TEXTS = ("ttgir", "ptx", "amdgcn")  # kept beside the binary, for readers


def import_triton(source: TritonSource) -> ModuleType:
    """Triton, able to serve the target of ``source``.

    Raises:
        TritonNotFoundError: It cannot be imported.
        BackendError: It was imported to interpret, and is to compile; or the other way round.
    """
    try:
        module = importlib.import_module("triton")
    except ImportError as error:
        raise TritonNotFoundError(
            f"Triton is needed for a kernel for {source.target.name}, and cannot be imported.",
            why=f"{error}.",
            fix='pip install "triton>=3.6", or pass backend="eager".',
        ) from error
    interprets = bool(module.knobs.runtime.interpret)
    if interprets != (source.target.backend == "interpreter"):
        raise BackendError(
            f"Triton cannot serve {source.target.name} in this process.",
            why="TRITON_INTERPRET decides, when Triton is imported, whether it interprets kernels "
            f"or compiles them; here it {'interprets' if interprets else 'compiles'} them.",
            fix="set TRITON_INTERPRET=1 before Python starts for tensors on the CPU, and leave it "
            "out for GPUs.",
        )
    return module


def build(source: TritonSource, folder: Path) -> dict[str, Any]:
    """Generate ``source`` into ``folder`` and compile it; the facts for ``meta.json``.

    Raises:
        CompilerFailedError: Triton or its assembler refused the kernel.
    """
    import_triton(source)
    (folder / cache.MODULE).write_text(source.text)
    (folder / cache.PROGRAM).write_text(source.program_text)
    facts = {**source.meta, "key": source.key, "triton": triton_version()}
    if source.target.backend == "interpreter":
        return {**facts, "files": [cache.MODULE]}
    begin = time.perf_counter()
    counters.add("compiler_runs")
    work = folder / "triton"
    try:
        compiled = _compile(source, work)
    except Exception as error:
        kept = _keep(source, folder / cache.MODULE)
        raise CompilerFailedError(
            f"Triton could not compile a generated {source.spec.name} kernel for "
            f"{source.target.name}.",
            at=str(kept),
            why=f"{type(error).__name__}: {error}",
            fix="please report the kept source file and the mod that it came from.",
        ) from error
    binary = _BINARY[source.target.backend]
    wanted = {binary, "json", *_TEXTS}
    for name, path in compiled.metadata_group.items():
        ending = name.rpartition(".")[2]
        if ending in wanted:
            shutil.copyfile(path, folder / f"kernel.{ending}")
    shutil.rmtree(work)
    return {
        **facts,
        "files": [f"kernel.{binary}", "kernel.json"],
        "signature": list(source.signature.values()),
        "compile_seconds": round(time.perf_counter() - begin, 3),
    }


def restore(source: TritonSource, entry: cache.Entry) -> Any:
    """Triton's compiled kernel of an entry, with handles of its own.

    Raises:
        OSError: The entry cannot be read by this Triton.
    """
    compiler = importlib.import_module("triton.compiler.compiler")
    names = list(source.arguments) + list(source.spec.choices)
    types = [tuple(each) if isinstance(each, list) else each for each in entry.meta["signature"]]
    made_from = SimpleNamespace(  # what the launcher asks of a source; parsing the real one is slow
        signature=dict(zip(names, types)),
        constants=source.constexprs,
        fn=SimpleNamespace(arg_names=names, launch_metadata=None),
    )
    group = {name: str(entry.folder / name) for name in entry.meta["files"]}
    try:
        return compiler.CompiledKernel(made_from, group, source.key)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def entry_point(source: TritonSource, path: Path) -> Any:
    """The jit function of ``source``, from its text, as if it had been imported from ``path``."""
    # Triton reads a function's source through its file name: it finds the text here, though the
    # folder that is to hold the file appears only when all of it is written.
    text = source.text
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    module = ModuleType(f"flexattn_{source.spec.name}_{source.key}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return getattr(module, source.spec.name)


def _compile(source: TritonSource, work: Path) -> Any:
    compiler = importlib.import_module("triton.compiler")
    backends = importlib.import_module("triton.backends.compiler")
    target = source.target
    made_from = compiler.ASTSource(
        entry_point(source, cache.directory() / source.key / cache.MODULE),
        signature=source.signature,
        constexprs=source.constexprs,
        attrs=source.attrs,
    )
    with redirected(work):
        return compiler.compile(
            made_from,
            target=backends.GPUTarget(target.backend, target.arch, target.warp),
            options=source.options,
        )


class _Redirect:
    """Stands in for the class of Triton's cache manager while kernels are compiled.

    Attributes:
        folders: Thread → where its files go.
    """

    def __init__(self) -> None:
        self.folders: dict[int, Path] = {}
        self._lock = threading.Lock()
        self._former: Any = None

    def __call__(self, key: str, override: bool = False, dump: bool = False) -> Any:
        plain = importlib.import_module("triton.runtime.cache").FileCacheManager
        folder = self.folders.get(threading.get_ident())
        if folder is None or override or dump:
            return (self._former or plain)(key, override, dump)
        manager = object.__new__(plain)
        manager.key, manager.cache_dir = key, str(folder / key)
        manager.lock_path = str(folder / key / "lock")
        os.makedirs(manager.cache_dir, exist_ok=True)
        return manager

    @contextlib.contextmanager
    def to(self, folder: Path) -> Iterator[None]:
        knobs = importlib.import_module("triton.knobs").cache
        thread = threading.get_ident()
        with self._lock:
            if not self.folders:
                self._former = knobs.__dict__.get("manager_class")
                knobs.manager_class = self
            self.folders[thread] = folder
        try:
            yield
        finally:
            with self._lock:
                del self.folders[thread]
                if not self.folders and self._former is None:
                    del knobs.manager_class
                elif not self.folders:
                    knobs.manager_class = self._former


_redirect = _Redirect()


@contextlib.contextmanager
def redirected(folder: Path) -> Iterator[None]:
    """Have what Triton caches in this thread written into ``folder``, if that can be.

    Other threads' kernels go where they always went.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    if not os.access(folder, os.W_OK):
        yield
        return
    with _redirect.to(folder):
        yield


def _keep(source: TritonSource, path: Path) -> Path:
    kept = cache.failed_source(source.key, ".py")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
    except OSError:
        return path
    return kept
