"""One contest of the GPU suite: inputs, contestants, agreement of their results, timings."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexattn.bench.gpu_peers import CONTESTANTS, Attend, NotApplicableError, Setting, ours
from flexattn.bench.gpu_timing import Call, Clock, Measured, OverdueError, limit, rotations
from flexattn.bench.gpu_variants import VARIANTS, Mods, Shape, flops

Row = dict[str, Any]

ROUNDS = 7
SECONDS = 2.5  # of timing, for one contest
FIRST_CALL = 20.0  # seconds for a contestant's first call; its kernels should be on disk by then
COMPILING = 90.0  # seconds for it where they are compiled
# Root mean square of the difference to another library, over that of its result: bfloat16 gives
# 2e-3 to 1e-2 in the outputs and some more in gradients that sum over everything.
AGREEMENT = 0.05


@dataclass(frozen=True)
class Contest:
    """A row that several contestants run.

    Attributes:
        group: ``forward``, ``backward`` or ``decode``.
        extra: More contestants of ours, by name: a change of the shape or variant whose time is
            to be compared.
        peers: Names in `gpu_peers.CONTESTANTS`.
    """

    group: str
    variant: str
    shape: Shape
    extra: Mapping[str, tuple[str, Shape]] = field(default_factory=dict)
    peers: tuple[str, ...] = ("torch_flex", "sdpa_flash", "sdpa_cudnn", "flash_attn")

    @property
    def name(self) -> str:
        s = self.shape
        heads = f"{s.Hq}" if s.Hq == s.Hkv else f"{s.Hq}/{s.Hkv}"
        length = f"{s.N}" if s.M == s.N else f"{s.M}x{s.N}"
        return f"{self.group} {self.variant} B{s.B} H{heads} D{s.D} {length}"

    def rehearsed(self) -> Contest:
        extra = {name: (variant, shape.tiny()) for name, (variant, shape) in self.extra.items()}
        return Contest(self.group, self.variant, self.shape.tiny(), extra, self.peers)


@dataclass(frozen=True)
class Place:
    """Where a contest is held: device, our backend, whether this is a rehearsal."""

    device: torch.device
    backend: str
    rehearsal: bool

    @functools.cached_property
    def clock(self) -> Clock:
        return Clock(self.device)


@dataclass
class Contestant:
    """Calls on each set of inputs, and what the first of them returns."""

    calls: list[Call]
    first: Callable[[], tuple[Tensor, ...]]


def inputs(shape: Shape, device: torch.device, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Normal random query, key and value."""

    def normal(heads: int, length: int) -> Tensor:
        size = (shape.B, heads, length, shape.D)
        return torch.randn(size, device=device, dtype=shape.dtype).requires_grad_(grad)

    keys = [normal(shape.Hkv, shape.N) for _ in range(2)]
    return normal(shape.Hq, shape.M), keys[0], keys[1]


class Ring:
    """The contestants of one contest on the same inputs."""

    def __init__(self, contest: Contest, place: Place) -> None:
        self.contest, self.place = contest, place
        self.backward = contest.group == "backward"
        self.mods = VARIANTS[contest.variant].make(contest.shape, place.device)
        self.sets = self._sets(contest.shape)
        shape = contest.shape
        size = (shape.B, shape.Hq, shape.M, shape.D)
        self.grad_out = torch.randn(size, device=place.device, dtype=shape.dtype)

    def _sets(self, shape: Shape) -> list[tuple[Tensor, Tensor, Tensor]]:
        one = shape.kv_bytes + shape.q_bytes
        # A backward is timed by events, one shape at a time, and is long.
        count = 1 if self.backward else rotations(one, self.place.device)
        return [inputs(shape, self.place.device, self.backward) for _ in range(count)]

    def enter(self, name: str, seconds: float = FIRST_CALL) -> Contestant:
        """Make the contestant and call it once, which compiles it."""
        with limit(seconds):
            if name in self.contest.extra:
                return self._extra(*self.contest.extra[name])
            setting = self._setting(self.contest.shape, self.mods)
            return self._contestant(CONTESTANTS[name](setting), self.mods, self.sets)

    def _setting(self, shape: Shape, mods: Mods) -> Setting:
        place = self.place
        return Setting(shape, mods, place.device, place.backend, not place.rehearsal)

    def _extra(self, variant: str, shape: Shape) -> Contestant:
        mods = VARIANTS[variant].make(shape, self.place.device)
        sets = self.sets if shape == self.contest.shape else self._sets(shape)
        return self._contestant(ours(self._setting(shape, mods)), mods, sets)

    def _contestant(
        self, attend: Attend, mods: Mods, sets: list[tuple[Tensor, Tensor, Tensor]]
    ) -> Contestant:
        if not self.backward:
            calls: list[Call] = [functools.partial(attend, *tensors) for tensors in sets]

            def first() -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (calls[0](),)

            first()
            return Contestant(calls, first)
        leaves = [*sets[0], *mods.learned]
        out = attend(*sets[0])
        back = functools.partial(torch.autograd.grad, out, leaves, self.grad_out, retain_graph=True)
        back()
        return Contestant([back], back)


def hold(contest: Contest, place: Place, barred: Mapping[str, str]) -> Row:
    """Measure one contest.

    Args:
        barred: Contestants that are not to enter, and why.
    """
    contest = contest.rehearsed() if place.rehearsal else contest
    ring = Ring(contest, place)
    entered: dict[str, Contestant] = {}
    row: Row = {"group": contest.group, "variant": contest.variant, **contest.shape.facts()}
    absent: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name in ("ours", *contest.extra, *contest.peers):
        if name in barred:
            absent[name] = barred[name]
            continue
        try:
            entered[name] = ring.enter(name)
        except NotApplicableError as reason:
            absent[name] = str(reason)
        except Exception as error:
            failed[name] = short(error)
    row |= _agreement(entered, contest.peers)
    with torch.set_grad_enabled(ring.backward):
        row |= figures(contest, _timed(entered, place, failed, graphs=not ring.backward))
    if absent:
        row["absent"] = absent
    if failed:
        row["failed"] = failed
    return row


def _timed(
    entered: Mapping[str, Contestant], place: Place, failed: dict[str, str], graphs: bool
) -> dict[str, Measured]:
    samplers = {}
    for name, contestant in entered.items():
        try:
            samplers[name] = place.clock.sampler(contestant.calls, graphs)
        except OverdueError:
            raise  # the whole row's time, not this contestant's
        except Exception as error:
            failed[name] = short(error)
    rounds = 1 if place.rehearsal else ROUNDS
    return place.clock.alternate(samplers, rounds, SECONDS)


def _agreement(entered: Mapping[str, Contestant], peers: tuple[str, ...]) -> Row:
    """How far our result is from the nearest peer's; a wrong kernel has no speed."""
    if "ours" not in entered:
        return {}
    mine = entered["ours"].first()
    if not all(torch.isfinite(t).all() for t in mine):
        return {"difference": float("inf"), "wrong": "the result is not finite"}
    found = {
        name: max(_difference(a, b) for a, b in zip(mine, entered[name].first()))
        for name in peers
        if name in entered
    }
    if not found:
        return {}
    least = min(found.values())
    row: Row = {"difference": least}
    if not least <= AGREEMENT:
        row["wrong"] = f"differs from every other library: {found}"
    return row


def _difference(mine: Tensor, other: Tensor) -> float:
    other = other.float()
    return float((mine.float() - other).norm() / other.norm().clamp(min=1e-30))


def figures(contest: Contest, times: Mapping[str, Measured]) -> Row:
    """Milliseconds, TFLOP/s on unmasked pairs, bandwidth when decoding, ratios over ours."""
    row: Row = {}
    work = flops(contest.shape, contest.variant) * (2.5 if contest.group == "backward" else 1.0)
    for name, measured in times.items():
        row[f"{name}_ms"] = 1e3 * measured.median
        row[f"{name}_spread"] = measured.spread
        row[f"{name}_how"] = measured.how
        if name in contest.extra:
            continue
        if contest.group == "decode":
            row[f"{name}_tb_s"] = contest.shape.kv_bytes / measured.median / 1e12
        else:
            row[f"{name}_tflops"] = work / measured.median / 1e12
    if "ours" in times:
        mine = times["ours"].median
        for name, measured in times.items():
            if name != "ours":
                row[f"over_{name}"] = measured.median / mine
    return row


def warm(contest: Contest, place: Place) -> Iterator[Row]:
    """First call of every contestant, so that disk caches hold its kernels afterwards."""
    ring = Ring(contest.rehearsed() if place.rehearsal else contest, place)
    for name in ("ours", *contest.extra, *contest.peers):
        start = time.perf_counter()
        row: Row = {"contest": contest.name, "contestant": name}
        try:
            ring.enter(name, COMPILING)
            place.clock.synchronize()
        except NotApplicableError:
            continue
        except Exception as error:
            row["failed"] = short(error)
        yield row | {"seconds": time.perf_counter() - start}


def short(error: BaseException) -> str:
    """The first lines of an error: enough to know it by, in a table."""
    text = str(error).strip() or "(no message)"
    return f"{type(error).__name__}: {text[:600]}"
