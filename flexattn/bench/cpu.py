"""The suites cpu-forward, cpu-backward, cpu-decode, threads: beside torch, under what CPUs can."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from flexattn.bench import ceilings
from flexattn.bench.shapes import (
    SHAPES,
    Call,
    Row,
    compiled_flex,
    inputs,
    naive,
    name_of,
    ours,
    rates,
    ratio,
    sdpa,
    torch_flex,
    train_step,
)
from flexattn.bench.timing import Timing, alternate
from flexattn.op.attention import flex_attention

DECODES = tuple(
    (dtype, D, M)
    for dtype in (torch.float32, torch.bfloat16)
    for D in (64, 128)
    for M in (1, 4, 16)
)
KEYS, HEADS, KV_HEADS = 16384, 32, 8


def cpu_forward(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Forward beside scaled_dot_product_attention, naive attention and torch's compiled flex."""
    with torch.no_grad():
        for shape in SHAPES:
            tensors = inputs(shape)
            calls: dict[str, Call] = {"ours": ours(shape, *tensors), "sdpa": sdpa(shape, *tensors)}
            if peers:
                calls["naive"] = naive(shape, *tensors)
                calls["torch_flex"] = torch_flex(shape, *tensors)
            yield shape.label | _under_peak(shape.flops, calls, shape.dtype, rounds)
            tick()


def cpu_backward(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Forward and backward together; torch's flex_attention has no backward on CPUs."""
    for shape in SHAPES:
        tensors = inputs(shape, requires_grad=True)
        gradient = torch.randn_like(tensors[0])
        contestants = {"ours": ours, "sdpa": sdpa} | ({"naive": naive} if peers else {})
        calls = {
            name: train_step(make(shape, *tensors), tensors, gradient)
            for name, make in contestants.items()
        }
        yield shape.label | _under_peak(3.5 * shape.flops, calls, shape.dtype, rounds)
        tick()


def _under_peak(flops: float, calls: dict[str, Call], dtype: torch.dtype, rounds: int) -> Row:
    """Rates, and the part of the peak of multiply-adds and of torch's matrix product reached."""
    peak, peak_flops = ceilings.multiply_adds(dtype)
    gemm, gemm_flops = ceilings.gemm(dtype)
    times = alternate({**calls, "gemm": gemm, "peak": peak}, rounds=rounds)
    row = rates(flops, {name: times[name] for name in calls})
    own = times["ours"]
    for name, work in (("gemm", gemm_flops), ("peak", peak_flops)):
        noisy = own.noisy or times[name].noisy
        row[f"of_{name}"] = None if noisy else flops / own.median / (work / times[name].median)
    return row


def cpu_decode(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """Few queries of 32 heads against 16,384 keys of 8: gigabytes of keys and values a second.

    Every contestant runs once a round, after the read of more memory than caches hold.
    """
    with torch.no_grad():
        for dtype, D, M in DECODES:
            q = torch.randn(1, HEADS, M, D).to(dtype)
            k, v = (torch.randn(1, KV_HEADS, KEYS, D).to(dtype) for _ in range(2))
            read, read_bytes = ceilings.read()
            calls: dict[str, Call] = {
                "ours": lambda: flex_attention(q, k, v, enable_gqa=True),  # noqa: B023
                "sdpa": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),  # noqa: B023
            }
            if peers:
                calls["torch_flex"] = compiled_flex(q, k, v, enable_gqa=True)
            times = _after_reading(read, calls, 4 * rounds)
            data = float(k.nbytes + v.nbytes)
            row = rates(data, {name: times[name] for name in calls}, "gbytes")
            noisy = times["ours"].noisy or times["read"].noisy
            reached = data / times["ours"].median / (read_bytes / times["read"].median)
            label = {"dtype": name_of(dtype), "D": D, "queries": M}
            yield label | row | {"of_read": None if noisy else reached}
            tick()


def _after_reading(read: Call, calls: dict[str, Call], rounds: int) -> dict[str, Timing]:
    order = {}
    for name, call in calls.items():
        order |= {f"before {name}": read, name: call}
    times = alternate(order, rounds=rounds, at_least=0.0)
    return {name: times[name] for name in calls} | {"read": times["before ours"]}


def threads(rounds: int, peers: bool, tick: Callable[[], None]) -> Iterator[Row]:
    """One thread beside all of them: how many times faster the same call is."""
    every = torch.get_num_threads()

    def on(count: int, call: Call) -> Call:
        def run() -> None:
            torch.set_num_threads(count)
            call()

        return run

    try:
        for shape in (each for each in SHAPES if each.causal):
            for train in (False, True):
                tensors = inputs(shape, requires_grad=train)
                call = ours(shape, *tensors)
                if train:
                    call = train_step(call, tensors, torch.randn_like(tensors[0]))
                times = alternate({"one": on(1, call), "all": on(every, call)}, rounds=rounds)
                yield shape.label | {
                    "direction": "with backward" if train else "forward",
                    "threads": every,
                    "one_thread_ms": 1e3 * times["one"].median,
                    "over_one_thread": ratio(times["one"], times["all"]),
                }
            tick()
    finally:
        torch.set_num_threads(every)
