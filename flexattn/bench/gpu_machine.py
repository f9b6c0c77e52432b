"""Rows of the GPU suite beside attention: ceilings, mask building, launches, new mods."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from flexattn.bench.gpu_contest import Place, Row, short
from flexattn.bench.gpu_peers import Setting, torch_flex
from flexattn.bench.gpu_timing import limit
from flexattn.bench.gpu_variants import VARIANTS, Mods, Shape, causal_mask, softcap_score
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask

ROOT = Path(__file__).parent.parent.parent  # where a new process finds this package


def matmul(place: Place) -> Row:
    """Rate of a large bfloat16 matrix product on random data."""
    n = 64 if place.rehearsal else 8192
    a, b = (torch.randn(n, n, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    sampler = place.clock.sampler([lambda: a @ b], graphs=False)
    seconds = place.clock.alternate({"matmul": sampler}, 5, 1.0)["matmul"].median
    return {
        "group": "ceiling",
        "what": "bf16 matrix product",
        "tflops": 2.0 * n**3 / seconds / 1e12,
    }


def copy(place: Place) -> Row:
    """Bandwidth of a large copy on the device, counting bytes read and bytes written."""
    size = 1 << 16
    if not place.rehearsal:
        size = min(1 << 32, torch.cuda.mem_get_info()[0] // 4)
    source = torch.randint(0, 255, (size,), device=place.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    sampler = place.clock.sampler([lambda: target.copy_(source)], graphs=False)
    seconds = place.clock.alternate({"copy": sampler}, 5, 1.0)["copy"].median
    return {"group": "ceiling", "what": "copy", "tb_s": 2 * size / seconds / 1e12}


def _scattered(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    """Keeps about a seventh of the pairs, in no order that a proof finds."""
    return (q_idx * 31 + kv_idx * 17) * (q_idx + 3 * kv_idx + 1) % 7 == 0


def masks(place: Place, kind: str, length: int) -> Row:
    """Milliseconds to build a BlockMask on the device, first and later; torch's to 32k."""
    tokens = min(length, 256) if place.rehearsal else length
    mods = _mask_mod(kind, tokens, place.device)
    row: Row = {"group": "mask", "variant": kind, "tokens": length}
    build = lambda: create_block_mask(mods, None, None, tokens, tokens, device=place.device)  # noqa: E731
    row["first_ms"] = 1e3 * place.clock.host_seconds(build)
    row["ms"] = 1e3 * _median(place, build)
    row["memory_gb"] = _peak(place, build)
    if length <= 32768:
        peer = importlib.import_module("torch.nn.attention.flex_attention")
        options = {"device": str(place.device), "_compile": not place.rehearsal}
        theirs = lambda: peer.create_block_mask(mods, None, None, tokens, tokens, **options)  # noqa: E731
        try:
            with limit(30.0):
                row["torch_first_ms"] = 1e3 * place.clock.host_seconds(theirs)
            row["torch_ms"] = 1e3 * _median(place, theirs)
            row["over_torch"] = row["torch_ms"] / row["ms"]
        except Exception as error:
            row["failed"] = {"torch": short(error)}
    return row


def _mask_mod(kind: str, tokens: int, device: torch.device) -> Callable[..., Any]:
    if kind == "scattered":
        return _scattered
    mod = VARIANTS[kind].make(Shape(1, 1, 1, tokens, tokens, 64), device).mask_mod
    assert mod is not None
    return mod


def _peak(place: Place, call: Callable[[], object]) -> float:
    """Gigabytes that a call holds at most."""
    if place.device.type != "cuda":
        call()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def _median(place: Place, call: Callable[[], object]) -> float:
    times = [place.clock.host_seconds(call)]
    while len(times) < 5 and sum(times) < 1.0 and not place.rehearsal:
        times.append(place.clock.host_seconds(call))
    return statistics.median(times)


def launches(place: Place) -> Row:
    """Microseconds of host time per call where the device has next to nothing to do."""
    shape = Shape(1, 2, 2, 64, 64, 64).tiny() if place.rehearsal else Shape(1, 2, 2, 64, 64, 64)
    size = (shape.B, shape.Hq, shape.M, shape.D)
    q, k, v = (torch.randn(size, device=place.device, dtype=shape.dtype) for _ in range(3))
    mask = create_block_mask(causal_mask, None, None, shape.M, shape.N, device=place.device)
    ours = {"backend": place.backend}
    calls: dict[str, Callable[[], Any]] = {
        "plain": lambda: flex_attention(q, k, v, **ours),
        "block_mask": lambda: flex_attention(q, k, v, None, mask, **ours),
        "soft_cap": lambda: flex_attention(q, k, v, softcap_score, mask, **ours),
        "sdpa": lambda: F.scaled_dot_product_attention(q, k, v),
    }
    row: Row = {"group": "launch"}
    with torch.no_grad():
        try:
            setting = Setting(
                shape, Mods(softcap_score, causal_mask), place.device, place.backend,
                not place.rehearsal,
            )  # fmt: skip
            with limit(45.0):
                attend = torch_flex(setting)
                attend(q, k, v)
            calls["torch_flex_soft_cap"] = lambda: attend(q, k, v)
        except Exception as error:
            row["failed"] = {"torch_flex": short(error)}
        for name, call in calls.items():
            row[f"{name}_us"] = 1e6 * host_time(place, call)
        if place.backend == "triton":
            kernel = importlib.import_module("flexattn.runtime.triton_launch").TritonKernel
            module = importlib.import_module("flexattn.op.triton")
            for name, owner, function in (
                ("launch_us", kernel, "launch"),
                ("forward_us", module, "forward"),  # from the operator on, with torch's memory
                ("memory_us", module, "_outputs"),
            ):
                with counted(owner, function) as spent:
                    host_time(place, calls["soft_cap"])
                row[name] = 1e6 * statistics.median(spent)
    return row


def host_time(place: Place, call: Callable[[], object]) -> float:
    """Seconds until the call returns; the queue of the device never fills up."""
    samples = []
    for _ in range(2 if place.rehearsal else 40):
        place.clock.synchronize()
        count = 1 if place.rehearsal else 25
        start = time.perf_counter()
        for _ in range(count):
            call()
        samples.append((time.perf_counter() - start) / count)
    return statistics.median(samples)


@contextmanager
def counted(owner: Any, name: str) -> Iterator[list[float]]:
    """Collects the seconds that each call of the function ``name`` of ``owner`` takes."""
    spent: list[float] = []
    function = getattr(owner, name)

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **options)
        spent.append(time.perf_counter() - start)
        return result

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, function)


# A process of its own, since a first call is first once. What is not ours is warm before.
_NEW_MODS = """
import json, sys, time, torch
device, backend, dtype = sys.argv[1], sys.argv[2], torch.bfloat16
q = torch.randn(1, 2, 256, 64, device=device, dtype=dtype)
tiny = sys.argv[3] == "True"
q = q[:, :, :32, :16].contiguous() if tiny else q
torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().item()
(q.float() @ q.float().transpose(-1, -2)).sum().item()
start = time.perf_counter()
from flexattn import flex_attention
imported = time.perf_counter()

def first(score, b, h, q_idx, kv_idx):
    return 30.0 * torch.tanh(score / 30.0)

def second(score, b, h, q_idx, kv_idx):
    return score - 0.5 * (q_idx - kv_idx).abs() / (1 + h)

def third(score, b, h, q_idx, kv_idx):
    return torch.where(q_idx % 3 == 0, score * 0.5, score + 0.25 * kv_idx)

times = {"import_ms": 1e3 * (imported - start)}
for name, mod in (("first", first), ("next", second), ("third", third)):
    start = time.perf_counter()
    with torch.no_grad():
        flex_attention(q, q, q, mod, backend=backend).sum().item()
    times[name + "_ms"] = 1e3 * (time.perf_counter() - start)
x = q.clone().requires_grad_()
start = time.perf_counter()
flex_attention(x, x, x, first, backend=backend).sum().backward()
x.grad.sum().item()
times["backward_ms"] = 1e3 * (time.perf_counter() - start)
print(json.dumps(times))
"""


def new_mods(place: Place) -> Iterator[Row]:
    """Milliseconds from a new mod to its result: compiled, then from disk in another process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ)
        for name in ("FLEXATTN_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            environment[name] = os.path.join(cache, name)
        arguments = [str(place.device), place.backend, str(place.rehearsal)]
        for what in ("cold", "from disk"):
            done = subprocess.run(
                [sys.executable, "-c", _NEW_MODS, *arguments],
                env=environment, capture_output=True, text=True, timeout=90, cwd=ROOT,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stderr[-600:])
            yield {"group": "new mod", "what": what} | json.loads(done.stdout.splitlines()[-1])
