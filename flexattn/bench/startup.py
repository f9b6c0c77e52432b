"""Measures what only a fresh process shows: import, first calls, and memory at a long sequence."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

_IMPORT = """
import json, time, torch
start = time.perf_counter()
import flexattn
print(json.dumps({"import_ms": 1e3 * (time.perf_counter() - start)}))
"""

# The thread pool and torch's own first calls are not what is measured, so both are warm.
_FIRST_CALLS = """
import json, time, torch, flexattn
q = torch.randn(1, 2, 64, 32, requires_grad=True)
torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
(torch.randn(512, 512) @ torch.randn(512, 512)).sum()

def capped(score, b, h, q_idx, kv_idx):
    return 30.0 * torch.tanh(score / 30.0)

start = time.perf_counter()
with torch.no_grad():
    flexattn.flex_attention(q, q, q, capped)
forward = time.perf_counter()
flexattn.flex_attention(q, q, q, capped).sum().backward()
end = time.perf_counter()
print(json.dumps({"forward_ms": 1e3 * (forward - start), "both_ms": 1e3 * (end - start)}))
"""

_MEMORY = """
import json, resource, torch, flexattn
S = 32768
mask = flexattn.create_block_mask(lambda b, h, q, k: q >= k, None, None, S, S)
small = flexattn.create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256)
tiny = [torch.randn(1, 1, 256, 64, requires_grad=True) for _ in range(3)]
flexattn.flex_attention(*tiny, block_mask=small).backward(torch.randn(1, 1, 256, 64))
inputs = [torch.randn(1, 1, S, 64, requires_grad=True) for _ in range(3)]
gradient, held = torch.randn(1, 1, S, 64), []
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
# What the call gives back: out, three gradients; touched now so that only the rest counts below.
held = [torch.ones(1, 1, S, 64) for _ in range(4)]
before = peak()
del held
out = flexattn.flex_attention(*inputs, block_mask=mask)
out.backward(gradient)
print(json.dumps({"tokens": S, "beyond_inputs_and_outputs_mb": (peak() - before) / 1e6}))
"""


def startup(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Milliseconds beyond ``import torch``: import, first calls with an empty and a full cache."""
    _run(_IMPORT, None)  # writes the byte code
    imports = [_run(_IMPORT, None)["import_ms"] for _ in range(rounds)]
    yield {"what": "import flexattn", "ms": statistics.median(imports)}
    tick()
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_run(_FIRST_CALLS, cache))
            warm.append(_run(_FIRST_CALLS, cache))
    for what, runs in (("new mod", cold), ("mod on disk, new process", warm)):
        yield {
            "what": f"{what}: forward",
            "ms": statistics.median(run["forward_ms"] for run in runs),
        }
        yield {
            "what": f"{what}: forward, then with backward",
            "ms": statistics.median(run["both_ms"] for run in runs),
        }
    tick()


def memory(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Peak memory of forward and backward beyond inputs and outputs, one head, causal."""
    yield _run(_MEMORY, None)
    tick()


def _run(code: str, cache: str | None) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["FLEXATTN_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]
