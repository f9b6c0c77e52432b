"""``import flexattn``: what it does not load, and what it offers."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys, flexattn
heavy = "sympy", "matplotlib", "rich", "filelock", "torch._dynamo"
print(*(name for name in heavy if name in sys.modules))
"""


def test_import_leaves_heavy_packages_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_every_public_name_is_there() -> None:
    import flexattn

    for name in flexattn.__all__:
        assert getattr(flexattn, name) is not None
    assert not hasattr(flexattn, "no_such_name")
