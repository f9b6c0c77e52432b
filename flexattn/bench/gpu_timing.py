"""Times calls on a device: events, graph replays for short ones, rotated inputs, a time limit."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

GRAPH_BELOW = 2e-4  # seconds a call; below, launches from Python would be what is measured
SAMPLE = 0.02  # seconds one sample should last


@dataclass(frozen=True)
class Measured:
    """Seconds per call of one contestant.

    Attributes:
        median: Median of the samples.
        spread: Interquartile range over the median.
        rounds: Number of samples.
        how: ``graph`` (replays of a CUDA graph), ``events``, or ``host`` (wall clock, rehearsals).
    """

    median: float
    spread: float
    rounds: int
    how: str


class Sampler(Protocol):
    """Runs the call of one contestant some times over."""

    how: str

    def sample(self) -> float:
        """Seconds per call."""
        ...


class HostSampler:
    """Wall clock: for rehearsals without a GPU, and for what the host does."""

    how = "host"

    def __init__(self, calls: Sequence[Call], repeats: int) -> None:
        self.calls, self.repeats = calls, repeats

    def sample(self) -> float:
        start = time.perf_counter()
        for i in range(self.repeats):
            self.calls[i % len(self.calls)]()
        return (time.perf_counter() - start) / self.repeats


class EventSampler:
    """CUDA events around calls that Python launches one after the other."""

    how = "events"

    def __init__(self, calls: Sequence[Call], repeats: int) -> None:
        self.calls, self.repeats = calls, repeats

    def sample(self) -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for i in range(self.repeats):
            self.calls[i % len(self.calls)]()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / self.repeats


class GraphSampler:
    """CUDA events around replays of a graph that holds each of ``calls`` equally often."""

    how = "graph"

    def __init__(self, calls: Sequence[Call], repeats: int) -> None:
        held = min(max(1, repeats // len(calls)), max(1, 64 // len(calls))) * len(calls)
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            for i in range(held):
                calls[i % len(calls)]()
        self.held, self.replays = held, max(1, repeats // held)

    def sample(self) -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.graph.replay()  # so that the first timed one waits for no launch
        first.record()
        for _ in range(self.replays):
            self.graph.replay()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / (self.replays * self.held)


class Clock:
    """Chooses how to time on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def host_seconds(self, call: Call) -> float:
        """Wall-clock seconds until ``call`` and all it launched are done."""
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - start

    def sampler(self, calls: Sequence[Call], graphs: bool, sample: float = SAMPLE) -> Sampler:
        """Calls each of ``calls`` once or more, then picks a sampler by how long they took."""
        for call in calls:
            call()
        if self.device.type != "cuda":
            return HostSampler(calls, 1)
        once = EventSampler(calls, 2 * len(calls)).sample()
        repeats = max(len(calls), round(sample / max(once, 1e-7)))
        if graphs and once < GRAPH_BELOW:
            try:
                return GraphSampler(calls, repeats)
            except RuntimeError:  # it waits for the device, or launches where a graph cannot see
                torch.cuda.synchronize()
        return EventSampler(calls, repeats)

    def alternate(
        self, samplers: Mapping[str, Sampler], rounds: int, seconds: float
    ) -> dict[str, Measured]:
        """All samplers in turn, ``rounds`` times or until ``seconds`` are over, at least once."""
        samples: dict[str, list[float]] = {name: [] for name in samplers}
        end = time.perf_counter() + seconds
        for number in range(rounds):
            if number and time.perf_counter() > end:
                break
            for name, sampler in samplers.items():
                samples[name].append(sampler.sample())
        return {name: summary(found, samplers[name].how) for name, found in samples.items()}


def summary(samples: Sequence[float], how: str) -> Measured:
    """Median and spread of samples in seconds."""
    median = statistics.median(samples)
    low, _, high = (
        statistics.quantiles(samples, n=4) if len(samples) > 1 else (median, median, median)
    )
    return Measured(median, (high - low) / median if median else 0.0, len(samples), how)


def rotations(bytes_of_one: int, device: torch.device, most: int = 32) -> int:
    """How many sets of inputs it takes that none is found in the L2 cache when its turn comes."""
    if device.type != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(most, -(-3 * cache // max(1, bytes_of_one))))


class OverdueError(Exception):
    """A call took longer than it was given."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise ``OverdueError`` inside the block after ``seconds``.

    It interrupts Python code, and waiting for a child process; a call into C that does not return
    is not interrupted. Outside the main thread there are no signals, and no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OverdueError(f"took longer than the {seconds:.0f} s it was given")

    handler = signal.signal(signal.SIGALRM, ring)
    outer, start = signal.getitimer(signal.ITIMER_REAL)[0], time.monotonic()
    allowed = min(seconds, outer) if outer else seconds
    signal.setitimer(signal.ITIMER_REAL, max(allowed, 1e-3))
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        rest = outer - (time.monotonic() - start)
        signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-3) if outer else 0)
