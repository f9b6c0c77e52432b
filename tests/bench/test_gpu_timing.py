"""Clocks of the GPU suite: on stand-ins for CUDA's events and graphs, and their time limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from flexattn.bench import gpu_timing
from flexattn.bench.gpu_timing import (
    Clock,
    EventSampler,
    GraphSampler,
    HostSampler,
    OverdueError,
    limit,
    rotations,
    summary,
)

pytestmark = pytest.mark.null
CUDA = torch.device("cuda")


class Device:
    """A device whose work is counted in microseconds; a capture records instead of working."""

    def __init__(self) -> None:
        self.now = 0.0
        self.recording: list[float] | None = None
        self.refuses = False

    def work(self, microseconds: float) -> None:
        if self.recording is not None:
            self.recording.append(microseconds)
        else:
            self.now += microseconds


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = found.now

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return (other.at - self.at) / 1e3  # milliseconds

    class Graph:
        def __init__(self) -> None:
            self.held: list[float] = []

        def replay(self) -> None:
            found.now += sum(self.held)

    @contextlib.contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        if found.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        found.recording = graph.held
        yield
        found.recording = None

    fake = SimpleNamespace(
        Event=Event, CUDAGraph=Graph, graph=capture, synchronize=lambda: None,
        get_device_properties=lambda device: SimpleNamespace(L2_cache_size=60 << 20),
    )  # fmt: skip
    monkeypatch.setattr(gpu_timing.torch, "cuda", fake)
    return found


def test_events_give_seconds_per_call(device: Device) -> None:
    calls = [lambda: device.work(100), lambda: device.work(300)]
    assert EventSampler(calls, 4).sample() == pytest.approx(200e-6)


def test_short_calls_are_replayed_and_long_ones_are_not(device: Device) -> None:
    clock = Clock(CUDA)
    short, long = (
        clock.sampler([lambda us=us: device.work(us)] * 3, graphs=True) for us in (10, 900)
    )
    assert (short.how, long.how) == ("graph", "events")
    assert short.sample() == pytest.approx(10e-6)
    assert long.sample() == pytest.approx(900e-6)


def test_what_cannot_be_captured_is_timed_by_events(device: Device) -> None:
    device.refuses = True
    sampler = Clock(CUDA).sampler([lambda: device.work(10)], graphs=True)
    assert sampler.how == "events"


def test_graphs_hold_every_input_equally_often(device: Device) -> None:
    order: list[int] = []

    def call(number: int) -> None:
        order.append(number)
        device.work(5)

    sampler = GraphSampler([lambda n=n: call(n) for n in range(7)], 1000)
    assert sampler.held % 7 == 0 and sampler.held <= 64
    assert [order.count(n) for n in range(7)] == [sampler.held // 7] * 7
    assert sampler.sample() == pytest.approx(5e-6)


def test_samples_take_turns(device: Device) -> None:
    order: list[str] = []
    samplers = {name: HostSampler([lambda name=name: order.append(name)], 2) for name in ("a", "b")}
    found = Clock(torch.device("cpu")).alternate(samplers, rounds=3, seconds=60)
    assert order == ["a", "a", "b", "b"] * 3
    assert found["a"].rounds == 3 and found["a"].how == "host"


def test_rounds_end_with_the_time_but_one_is_always_held() -> None:
    found = Clock(torch.device("cpu")).alternate(
        {"a": HostSampler([lambda: time.sleep(0.02)], 1)}, rounds=50, seconds=0.0
    )
    assert found["a"].rounds == 1


def test_summary() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 5.0], "events")
    assert found.median == 3.0 and found.spread == pytest.approx(1.0)
    assert summary([2.0], "graph").spread == 0.0


def test_inputs_rotate_through_more_than_the_cache(device: Device) -> None:
    assert rotations(1 << 20, CUDA) == 32  # no more than is sensible
    assert rotations(30 << 20, CUDA) == 6
    assert rotations(1 << 30, CUDA) == 1


def test_limit_interrupts() -> None:
    with pytest.raises(OverdueError, match="longer than"), limit(0.05):
        time.sleep(5)


def test_inner_limits_leave_the_outer_one_standing() -> None:
    with pytest.raises(OverdueError), limit(0.1):
        with limit(10):
            pass
        time.sleep(5)
    with pytest.raises(OverdueError), limit(0.05), limit(30):
        time.sleep(5)


def test_limit_of_a_quick_block_does_nothing() -> None:
    with limit(0.05):
        pass
    time.sleep(0.08)
