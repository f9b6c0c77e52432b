"""Brings a kernel into the process: from memory, else from disk, else from its compiler."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from flexattn.errors import CompilerFailedError
from flexattn.runtime import build, cache, counters


class Source(Protocol):
    """What is asked of a kernel's source here; `build.dump` asks for more."""

    @property
    def key(self) -> str: ...


S = TypeVar("S", bound=Source)
K = TypeVar("K")


class Loader(Generic[S, K]):
    """The kernels of one backend.

    Threads that want different kernels compile at the same time; those that want the same one
    wait for the first, as other processes do.

    Attributes:
        kernels: Those in this process, by key.
    """

    def __init__(
        self,
        make: Callable[[S, cache.Entry], K],
        build_entry: Callable[[S, Path], dict[str, Any]],
        refused: Callable[[cache.Entry, OSError], CompilerFailedError],
        text_name: str,
    ) -> None:
        """Args:
        make: A kernel of an entry; raises OSError where the entry is whole, but of no use here:
            built against another C library, say, or by another Triton.
        build_entry: Writes an entry's files into a folder, and returns its facts.
        refused: The error for an entry just built that ``make`` refuses.
        text_name: Name of the file with the kernel's text.
        """
        self.kernels: dict[str, K] = {}
        self._make, self._build, self._refused = make, build_entry, refused
        self._text_name = text_name
        self._building: dict[str, threading.Lock] = {}
        counters.on_clear(self.kernels.clear)
        # A forked child must not wait for locks that the parent's other threads held.
        os.register_at_fork(after_in_child=self._building.clear)

    def load(self, source: S) -> K:
        """The kernel of ``source``.

        Raises:
            CompilerFailedError: The compiler refused it, or made what cannot be loaded.
            CacheDirectoryError: It must be compiled, and the cache cannot be written.
        """
        kernel = self.kernels.get(source.key)
        if kernel is None:
            with self._building.setdefault(source.key, threading.Lock()):
                kernel = self.kernels.get(source.key)
                if kernel is None:
                    kernel = self._from_disk(source) or self._compile(source)
                    self.kernels[source.key] = kernel
                    return kernel
        counters.add("memory_hits")
        return kernel

    def _from_disk(self, source: S) -> K | None:
        entry = cache.lookup(source.key)
        if entry is None:
            return None
        try:
            kernel = self._make(source, entry)
        except OSError:
            return None
        counters.add("disk_hits")
        build.dump(source, entry, self._text_name)
        return kernel

    def _compile(self, source: S) -> K:
        with cache.locked(source.key):
            kernel = self._from_disk(source)  # another process may have built it while we waited
            if kernel is None:
                cache.discard(source.key)  # what may lie there is of no use
                entry = cache.store(source.key, functools.partial(self._build, source))
                kernel = self._checked(source, entry)
                counters.add("kernels_built")
                build.dump(source, entry, self._text_name)
        return kernel

    def _checked(self, source: S, entry: cache.Entry) -> K:
        """The kernel just built; what the compiler called a success may be of no use at all."""
        try:
            return self._make(source, entry)
        except OSError as error:
            cache.discard(source.key)
            raise self._refused(entry, error) from error
