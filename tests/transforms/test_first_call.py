"""torch.compile as the very first thing a process does, per backend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("first_call.py")


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_fullgraph_first_call(backend):
    """Forward, backward and learned bias as without compiling; 20 pairs of numbers, few graphs."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), backend], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["graphs"] <= 3
    assert result["error"] < 1e-5
    assert not result["dynamo_at_import"]
