"""``import flexattn``: what it costs beyond torch, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

MEASURE = """
import sys, time, torch
start = time.thread_time()
import flexattn
print(time.thread_time() - start)
print(*(name for name in ("sympy", "matplotlib", "rich", "torch._dynamo") if name in sys.modules))
"""


def _import() -> tuple[float, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    seconds, _, loaded = done.stdout.partition("\n")
    return float(seconds), loaded.split()


def test_import_is_quick_and_leaves_heavy_packages_out() -> None:
    _import()  # writes the byte code
    runs = [_import() for _ in range(4)]
    assert all(not loaded for _, loaded in runs)
    assert min(seconds for seconds, _ in runs) <= 0.05


def test_every_public_name_is_there() -> None:
    import flexattn

    for name in flexattn.__all__:
        assert getattr(flexattn, name) is not None
    assert not hasattr(flexattn, "no_such_name")
