"""Finds the system's C++ compiler and turns one source file into a shared library."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flexattn import knobs
from flexattn.errors import CacheDirectoryError, CompilerFailedError, CompilerNotFoundError

_CANDIDATES = ("g++", "clang++", "c++")
_SHOWN_LINES = 30
_PATIENCE_S = 600.0  # no kernel takes a hundredth of it: after this the compiler hangs


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the resolved program and the options that came with its name."""

    path: str
    options: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """First line of ``--version``; run once per program and modification time."""
        try:
            return _version(self.path, os.stat(self.path).st_mtime_ns)
        except OSError as error:
            return f"unknown ({error})"


def find() -> Compiler:
    """The compiler of ``FLEXATTN_CXX``, else of ``CXX``, else the first of g++, clang++, c++.

    Raises:
        CompilerNotFoundError: There is none.
    """
    named = knobs.get("FLEXATTN_CXX") or os.environ.get("CXX")
    tries = [_words(named)] if named else [[name] for name in _CANDIDATES]
    for command in tries:
        path = shutil.which(command[0]) if command else None
        if path:
            return Compiler(path, tuple(command[1:]))
    if named:
        raise CompilerNotFoundError(
            f"The C++ compiler {named!r} was not found.",
            why="FLEXATTN_CXX or CXX names it, and no such program is on PATH.",
            fix="correct that variable, or unset it to use g++.",
        )
    raise CompilerNotFoundError(
        "No C++ compiler was found.",
        why=f"flexattn compiles its kernels; none of {', '.join(_CANDIDATES)} is on PATH.",
        fix='install g++ (Debian: apt install g++), set CXX, or pass backend="eager".',
    )


def _words(named: str) -> list[str]:
    try:
        return shlex.split(named)
    except ValueError as error:
        raise CompilerNotFoundError(
            f"The C++ compiler {named!r} is no command.",
            why=f"FLEXATTN_CXX or CXX names it, and it cannot be split into words: {error}.",
            fix="write it as a shell would take it, with each quote closed.",
        ) from error


def compile_library(
    compiler: Compiler,
    source: Path,
    library: Path,
    flags: Sequence[str],
    *,
    keep: Path,
    parts: int = 1,
) -> None:
    """Compile ``source`` into the shared library ``library``.

    Args:
        compiler: What to run.
        source: A self-contained C++ file; its folder takes the compiler's temporary files.
        library: Where the result goes.
        flags: Compiler options.
        keep: Where the source is left for the user to look at if the compiler refuses it.
        parts: Into how many parts ``source`` falls by the macro FLEX_PART (1, 2, …), which are
            compiled at the same time and then linked; 1 when it is compiled as a whole.

    Raises:
        CompilerFailedError: The compiler refused the file or died.
        CacheDirectoryError: The disk is full.
    """
    run = functools.partial(_run, compiler, source, keep)
    if parts == 1:
        run([*flags, "-o", str(library), str(source)])
    else:
        objects = [library.with_suffix(f".{part}.o") for part in range(1, parts + 1)]
        commands = [
            [*flags, f"-DFLEX_PART={part}", "-c", "-o", str(made), str(source)]
            for part, made in enumerate(objects, 1)
        ]
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(run, commands))
        run([*flags, "-o", str(library), *map(str, objects)])
        for made in objects:
            made.unlink()


def _run(compiler: Compiler, source: Path, keep: Path, arguments: Sequence[str]) -> None:
    """Run the compiler on ``source`` or what was made of it."""
    command = [compiler.path, *compiler.options, *arguments]
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(source.parent)}
    made = Path(command[command.index("-o", 1 + len(compiler.options)) + 1])
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerFailedError(
            f"The C++ compiler {compiler.path} did not end within {_PATIENCE_S:g} seconds.",
            at=str(_keep(source, keep)),
            why=f"it hangs; it was stopped. command: {shlex.join(command)}",
            fix="run the command by hand to see what it waits for, or try another compiler.",
        ) from error
    except OSError as error:
        raise CompilerFailedError(
            f"The C++ compiler {compiler.path} cannot be run.",
            why=f"{error.strerror or error}.",
            fix="point CXX or FLEXATTN_CXX to a working compiler.",
        ) from error
    if done.returncode == 0 and made.is_file():
        return
    message = done.stderr.strip() or done.stdout.strip() or "it printed nothing"
    if "No space left on device" in message:
        raise CacheDirectoryError(
            f"The kernel cache {source.parent} is full.",
            why="the compiler found no space left on the device.",
            fix="free some space, or set FLEXATTN_CACHE_DIR to a folder on another disk.",
        )
    raise _refused(compiler, done.returncode, message, shlex.join(command), _keep(source, keep))


def _refused(
    compiler: Compiler, code: int, message: str, command: str, kept: Path
) -> CompilerFailedError:
    lines = message.splitlines()
    if len(lines) > _SHOWN_LINES:
        lines = [*lines[:_SHOWN_LINES], f"… and {len(lines) - _SHOWN_LINES} lines more"]
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return CompilerFailedError(
        f"The C++ compiler {compiler.path} {how} on a generated kernel.",
        at=str(kept),
        why="\n       ".join([*lines, f"command: {command}"]),
        fix="try another compiler (CXX=g++), and report the kept source file if it is g++ >= 9.",
    )


def _keep(source: Path, keep: Path) -> Path:
    try:
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, keep)
    except OSError:
        return source
    return keep


@functools.lru_cache(maxsize=16)
def _version(path: str, modified: int) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace")
    lines = done.stdout.splitlines()
    return lines[0] if lines else "unknown"
