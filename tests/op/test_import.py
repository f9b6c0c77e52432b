"""``import flexattn``: what it does not load, and what it offers."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys, flexattn
heavy = "sympy", "matplotlib", "rich", "filelock", "torch._dynamo", "triton"
print(*(name for name in heavy if name in sys.modules))
"""


def test_import_leaves_heavy_packages_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_flops_are_counted_by_a_counter_imported_later() -> None:
    code = """
import torch, flexattn
from torch.utils.flop_counter import FlopCounterMode
q = torch.ones(1, 2, 16, 8)
with FlopCounterMode(display=False) as counter:
    flexattn.flex_attention(q, q, q)
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 2 * 16 * 16 * (8 + 8)


def test_every_public_name_is_there() -> None:
    import flexattn

    for name in flexattn.__all__:
        assert getattr(flexattn, name) is not None
    assert not hasattr(flexattn, "no_such_name")
