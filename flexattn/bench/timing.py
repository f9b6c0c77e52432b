"""Times contestants side by side: one process, alternating rounds, medians, and a word on noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

NOISY = 0.25  # interquartile range over median beyond which a ratio is not worth printing


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one contestant.

    Attributes:
        median: Median over the rounds.
        spread: Interquartile range over the median; above ``NOISY`` the machine was too busy.
        rounds: Number of rounds behind the figures.
    """

    median: float
    spread: float
    rounds: int

    @property
    def noisy(self) -> bool:
        return self.spread > NOISY


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    at_least: float = 0.02,
    tick: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Run every contestant once per round, in turn, so that a slow moment hits all alike.

    Args:
        contestants: Name to a call that does the work once.
        rounds: How often each is timed.
        at_least: Seconds a single timing should last; short calls are repeated within it.
        tick: Called after each round, for a progress bar.
    """
    repeats = {name: _repeats(call, at_least) for name, call in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            samples[name].append(_once(call, repeats[name]))
        if tick is not None:
            tick()
    return {name: summary(values) for name, values in samples.items()}


def _repeats(call: Callable[[], object], at_least: float) -> int:
    call()  # builds, caches and page faults are not what is measured
    return max(1, round(at_least / max(_once(call, 1), 1e-7)))


def _once(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def summary(values: list[float]) -> Timing:
    """Median and spread of seconds."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
    return Timing(median, (high - low) / median, len(values))
