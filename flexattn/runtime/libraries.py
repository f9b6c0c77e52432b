"""Brings a compiled library into the process, as the very bytes whose checksum was right.

Mapped from the cache, a library would change under the process with its file: whoever truncates
that file kills every process that has it loaded. So the bytes go to a file in memory, where the
system has such files, and the loader reads that.
"""

from __future__ import annotations

import ctypes
import itertools
import os

from flexattn.runtime import cache

_loads = itertools.count(1)


def load(entry: cache.Entry) -> ctypes.CDLL:
    """The library of ``entry``; it stays for the life of the process.

    Raises:
        OSError: It is no library of this system.
    """
    try:
        descriptor = os.memfd_create(f"flexattn-{entry.folder.name[:16]}")
    except (AttributeError, OSError):
        return ctypes.CDLL(str(entry.folder / cache.LIBRARY))
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(entry.library)
        # The loader takes a path it has seen for the library it has, and descriptors are reused:
        # a number of slashes that grows makes each path a new one.
        return ctypes.CDLL(f"/proc/self/fd{'/' * next(_loads)}{descriptor}")
    except OSError:
        return ctypes.CDLL(str(entry.folder / cache.LIBRARY))
    finally:
        os.close(descriptor)
