"""Keeps compiled kernels on disk: one folder per key, written whole or not at all.

Layout of the cache directory::

    <key>/kernel.so  kernel.cpp  ir.txt  meta.json    one kernel; the folder appears by one rename
    <key>/kernel.py  kernel.json  kernel.cubin  …     the same for a kernel of Triton's
    building/<key>-<random>/                          a build under way, or the rest of a killed one
    locks/<key>                                       held while a process builds that key
    launchers/                                        what Triton 3.6 to 3.8 launch kernels with
    failed/<key>.cpp  failed/<key>.py                 a source the compiler refused

``meta.json`` holds a checksum of ``kernel.so``, or of the files that it lists as ``files``, and of
its own facts. An entry whose files are missing, unreadable or do not match it is not an entry: it
is built again and replaced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexattn import knobs
from flexattn.errors import CacheDirectoryError

LIBRARY, SOURCE, PROGRAM, META = "kernel.so", "kernel.cpp", "ir.txt", "meta.json"
MODULE = "kernel.py"  # the source of a Triton kernel
_LOCK_WAIT_S = 120.0
_STALE_S = 3600.0


@dataclass(frozen=True)
class Entry:
    """A kernel on disk, found to be whole.

    Attributes:
        folder: Where it lies.
        meta: The facts about it; ``files`` names what its checksum covers, if not `LIBRARY` alone.
        library: Bytes of those files, one after another.
    """

    folder: Path
    meta: dict[str, Any]
    library: bytes = field(repr=False)


def directory() -> Path:
    """The cache directory, whether or not it exists.

    Raises:
        CacheDirectoryError: It lies in a home directory, and there is none.
    """
    chosen = knobs.get("FLEXATTN_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    if chosen is None:  # relative paths are to be ignored there, says its specification
        parent = base if base and os.path.isabs(base) else "~/.cache"
        chosen = os.path.join(parent, "flexattn")
    try:
        return Path(chosen).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise CacheDirectoryError(
            f"The kernel cache {chosen} cannot be found.",
            why=f"{error}",
            fix="set FLEXATTN_CACHE_DIR to the full path of a folder that can be written.",
        ) from error


def lookup(key: str) -> Entry | None:
    """The entry of ``key`` if it is there and whole; reads only."""
    folder = directory() / key
    try:
        meta = json.loads((folder / META).read_bytes())
        library = _library(folder, meta)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    if meta.get("checksum") != checksum(library, meta):
        return None
    return Entry(folder, meta, library)


def _library(folder: Path, meta: dict[str, Any]) -> bytes:
    return b"".join((folder / name).read_bytes() for name in meta.get("files", (LIBRARY,)))


def discard(key: str) -> None:
    """Remove whatever lies in the place of ``key``, so that it can be stored anew.

    Raises:
        CacheDirectoryError: The directory cannot be written.
    """
    root = directory()
    if os.path.lexists(root / key):
        with _writing(root):
            (root / "building").mkdir(parents=True, exist_ok=True)
            _move_away(root / key)


def store(key: str, build: Callable[[Path], dict[str, Any]]) -> Entry:
    """Make the entry of ``key``, unless another process does it first.

    Args:
        key: Name of the entry.
        build: Writes the entry's files into the folder it is given and returns the facts for
            ``meta.json``.

    Raises:
        CacheDirectoryError: The directory cannot be written, or is full.
    """
    root = directory()
    with _writing(root):
        building = root / "building"
        building.mkdir(parents=True, exist_ok=True)
        _sweep(building)
        work = Path(tempfile.mkdtemp(prefix=f"{key[:16]}-", dir=building))
    try:
        with _writing(root):
            meta = build(work)
            library = _library(work, meta)
            meta["checksum"] = checksum(library, meta)
            (work / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
            _publish(work, root / key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Entry(root / key, meta, library)


@contextlib.contextmanager
def locked(key: str) -> Iterator[None]:
    """Let one process at a time build ``key``.

    The lock saves work, never correctness (entries appear by one rename): where the file system
    has no locks, or a holder does not let go for two minutes, the caller goes on without it.
    """
    root = directory()
    path = root / "locks" / key
    with _writing(root):
        path.parent.mkdir(parents=True, exist_ok=True)
    import filelock  # asyncio comes with it; a cached kernel needs neither

    # Threads share no lock object, so each acquisition has its own file descriptor.
    lock = filelock.FileLock(path, timeout=_LOCK_WAIT_S)
    with contextlib.suppress(filelock.Timeout, NotImplementedError, OSError):
        lock.acquire(poll_interval=0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # whoever waits on it finds the entry published
        lock.release()


def failed_source(key: str, ending: str = ".cpp") -> Path:
    """Where a source that the compiler refused is kept."""
    return directory() / "failed" / f"{key}{ending}"


def checksum(library: bytes, meta: dict[str, Any]) -> str:
    """What ``meta.json`` says about the library's bytes and the other facts in it."""
    facts = {name: fact for name, fact in meta.items() if name != "checksum"}
    digest = hashlib.sha256(library)
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def entries() -> list[Entry]:
    """Every whole entry of the cache directory, sorted by key."""
    try:
        keys = sorted(path.name for path in directory().iterdir() if (path / META).is_file())
    except OSError:
        return []
    return [entry for entry in map(lookup, keys) if entry]


def empty() -> int:
    """Delete every entry from the cache directory; how many there were.

    Raises:
        CacheDirectoryError: They cannot be deleted.
    """
    root = directory()
    if not root.is_dir():
        return 0
    count = 0
    with _writing(root):
        for path in root.iterdir():
            if any((path / name).is_file() for name in (META, SOURCE, MODULE)):
                shutil.rmtree(path)
                count += 1
            elif path.name in ("building", "locks", "failed", "launchers"):
                shutil.rmtree(path, ignore_errors=True)
    return count


def _publish(work: Path, folder: Path) -> None:
    # A rename cannot replace a folder that holds files, so a damaged entry is moved away first.
    for _ in range(8):
        try:
            os.rename(work, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if lookup(folder.name):
            return  # another process was faster
        _move_away(folder)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(folder))


def _move_away(folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix="replaced-", dir=folder.parent / "building"))
    try:
        os.rename(folder, aside / "entry")
    except FileNotFoundError:
        pass
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(building: Path) -> None:
    # What a killed process left behind; a live build is never that old.
    oldest = time.time() - _STALE_S
    for path in building.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except CacheDirectoryError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CacheDirectoryError(
            f"The kernel cache {root} {'is full' if full else 'cannot be written'}.",
            why=f"{error.strerror or error}: {error.filename or root}",
            fix="set FLEXATTN_CACHE_DIR to a folder that can be written"
            + (" and has space." if full else "."),
        ) from error
