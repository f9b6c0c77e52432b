"""Times the C++ templates alone against scaled_dot_product_attention, on one thread.

Both run in one process, alternating; figures are CPU time of the thread, so a busy machine
changes them little. GF counts useful operations: 4 H S^2 D forward, 2.5 times that backward, half
of either when causal (a mask in blocks of 128).

    python docs/benchmarks/kernel_templates.py [--backward] [--isa LEVEL] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "templates"))

from mods_text import CAUSAL
from template_kernels import BEST, backward, build, forward, tables

SHAPES = (
    (8, 1024, 64),
    (8, 2048, 64),
    (4, 4096, 64),
    (8, 1024, 128),
    (8, 2048, 128),
    (4, 4096, 128),
)
BLOCK = 128


def causal_tables(length: int) -> dict:
    rows = length // BLOCK
    number = torch.ones(1, 1, rows, dtype=torch.int32)
    every = torch.arange(rows, dtype=torch.int32)
    diagonal = (number, every.view(1, 1, rows, 1).contiguous())
    below = (every.view(1, 1, rows).contiguous(), every.expand(1, 1, rows, rows).contiguous())
    return tables(diagonal, below, BLOCK, BLOCK)


def seconds(*contestants: Callable[[], object], rounds: int) -> list[float]:
    """Median CPU time of each."""
    taken: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds + 1):  # the first round warms up
        for run, times in zip(contestants, taken, strict=True):
            start = time.thread_time()
            run()
            times.append(time.thread_time() - start)
    return [sorted(times[1:])[rounds // 2] for times in taken]


def contestants(
    shape: tuple[int, int, int], dtype: torch.dtype, causal: bool, args: argparse.Namespace
) -> tuple[Callable[[], object], Callable[[], object]]:
    h, s, d = shape
    mods = CAUSAL if causal else ""
    fields = causal_tables(s) if causal else {}
    q, k, v, dout = (torch.randn(1, h, s, d).to(dtype) for _ in range(4))
    attend = build("forward", mods, dtype=dtype, isa=args.isa)
    out = torch.empty_like(q)
    if not args.backward:
        return (
            lambda: forward(attend, q, k, v, out=out, **fields),
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        )
    _, lse, _, _ = forward(attend, q, k, v, out=out, **fields)
    library = build("backward", mods, dtype=dtype, isa=args.isa)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*leaves, is_causal=causal)
    return (
        lambda: backward(library, q, k, v, out, lse, dout, **fields),
        lambda: torch.autograd.grad(theirs, leaves, dout, retain_graph=True),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--isa", type=int, default=BEST)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'dtype':<9}{'D':>4}{'S':>6}{'H':>3} {'mask':<7}{'GF':>6}{'SDPA':>6}{'ratio':>7}")
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            for causal in (False, True):
                h, s, d = shape
                ours, theirs = seconds(*contestants(shape, dtype, causal, args), rounds=args.rounds)
                flops = h * s * s * d * (10 if args.backward else 4) / (2 if causal else 1)
                print(
                    f"{str(dtype).removeprefix('torch.'):<9}{d:>4}{s:>6}{h:>3} "
                    f"{'causal' if causal else 'full':<7}{flops / ours / 1e9:>6.0f}"
                    f"{flops / theirs / 1e9:>6.0f}{theirs / ours:>7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
