"""Where mods went wrong on a GPU: reported by kernels into a cell, looked at by a later call.

A kernel lowers the cell to the smallest place ``((b * Hq + h) * M + q_idx) * N + kv_idx`` of a
fault. On a GPU nobody waits for it: the cell is copied to the host behind the kernel, and the next
call that finds a copy there raises the error of the call that made it. A cell stays lowered until
it was looked at, so calls on one stream share one, and the first copy to show a fault is that of
the call at fault. What a CUDA graph computes when it is replayed is not looked at.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from flexattn.errors import FlexAttentionError, IndexOutOfRangeError
from flexattn.op.faults import fault_error
from flexattn.op.programs import Bound
from flexattn.op.request import Call, Position
from flexattn.op.triton_streams import is_capturing
from flexattn.runtime import counters

NONE = (1 << 63) - 1
"""What a cell holds when nothing went wrong."""

LIMIT = 64
"""Calls not yet looked at; with more under way the next waits for the oldest."""

KEPT_BYTES = 16 << 20
"""Captured values that are kept until a call was looked at, so that the error can name them."""

Report: TypeAlias = Callable[[int], FlexAttentionError]


class Copy(Protocol):
    """The value of a cell on its way to the host."""

    def arrived(self) -> bool: ...
    def wait(self) -> None: ...
    def value(self) -> int: ...


@dataclass(slots=True)
class _Posted:
    name: Hashable
    copy: Copy
    report: Report


class Faults:
    """Cells, and the calls whose copies of them have not been looked at.

    Args:
        copy: Starts the copy of a cell to the host.
        limit: Most calls under way.
    """

    def __init__(self, copy: Callable[[Tensor], Copy], limit: int = LIMIT) -> None:
        self._copy, self._limit = copy, limit
        self._cells: dict[Hashable, Tensor] = {}
        self._posted: deque[_Posted] = deque()
        self._lock = threading.Lock()

    def cell(self, name: Hashable, device: torch.device) -> Tensor:
        """The cell of ``name`` (a device and stream): int64 [1], ``NONE`` unless lowered."""
        cell = self._cells.get(name)
        if cell is None:
            cell = self._cells[name] = new_cell(device)
        return cell

    def post(self, name: Hashable, report: Report) -> None:
        """Have the cell of ``name`` looked at once the kernel launched last has run.

        Another thread may have met a fault in that cell meanwhile: then this call is not told.
        """
        cell = self._cells.get(name)
        if cell is None:
            return
        posted = _Posted(name, self._copy(cell), report)
        with self._lock:
            self._posted.append(posted)
            oldest = self._posted[0] if len(self._posted) > self._limit else None
        if oldest is not None:
            oldest.copy.wait()
            self.check()

    def check(self) -> None:
        """Raise the error of the first call that went wrong, of those whose copies are there."""
        while self._posted:
            with self._lock:
                if not self._posted or not self._posted[0].copy.arrived():
                    return
                posted = self._posted.popleft()
            place = posted.copy.value()
            if place != NONE:
                self._renew(posted.name)
                raise posted.report(place)

    def _renew(self, name: Hashable) -> None:
        """A clean cell; what later calls did to the old one cannot be told from the first fault."""
        with self._lock:
            self._cells.pop(name, None)
            kept = [posted for posted in self._posted if posted.name != name]
            self._posted.clear()
            self._posted.extend(kept)


class _PinnedCopy:
    """A copy into pinned memory, behind what the current stream does now."""

    __slots__ = ("_event", "_host")

    def __init__(self, cell: Tensor) -> None:
        self._host = torch.empty(1, dtype=torch.int64, pin_memory=True)
        self._host.copy_(cell, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(cell.device))

    def arrived(self) -> bool:
        return self._event.query()

    def wait(self) -> None:
        self._event.synchronize()

    def value(self) -> int:
        return int(self._host)


FAULTS = Faults(_PinnedCopy)


@counters.on_clear
def _forget() -> None:
    FAULTS._posted.clear()
    FAULTS._cells.clear()


def new_cell(device: torch.device) -> Tensor:
    """A clean cell."""
    return torch.full((1,), NONE, dtype=torch.int64, device=device)


def check_earlier(device: torch.device) -> None:
    """Raise the error of an earlier call on a GPU, if one is known by now."""
    if FAULTS._posted and not (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        FAULTS.check()


def cell_for(query: Tensor) -> tuple[Tensor, Hashable]:
    """A clean cell for a launch on the device of ``query``, and its name; None for its own use."""
    if not query.is_cuda or is_capturing(query):
        return new_cell(query.device), None
    name = (query.device, torch.cuda.current_stream(query.device).cuda_stream)
    return FAULTS.cell(name, query.device), name


def position_in(place: int, heads: int, rows: int, keys: int) -> Position:
    """``place`` as (b, h, q_idx, kv_idx)."""
    place, kv = divmod(place, keys)
    place, q = divmod(place, rows)
    b, h = divmod(place, heads)
    return b, h, q, kv


def report_of(call: Call) -> Report:
    """What turns a place into the error of ``call``, without keeping its tensors alive."""
    batch, heads, rows, _ = call.query.shape
    keys, kv_shape = call.key.shape[2], call.key.shape[:3]
    size = sum(t.numel() * t.itemsize for t in call.bound.captures)
    bound = call.bound
    own = bound if size <= KEPT_BYTES else Bound(bound.variant, [], bound.ints, bound.floats)

    def report(place: int) -> FlexAttentionError:
        position = position_in(place, heads, rows, keys)
        error = _unknown(position)
        if len(own.captures) == len(bound_types):
            query, key = torch.empty((batch, heads, rows, 0)), torch.empty((*kv_shape, 0))
            error = fault_error(_bare(query, key, on_host(own)), position)
        return _of_earlier(error, (batch, heads, rows, keys))

    bound_types = bound.variant.program.captures
    return report


def on_host(bound: Bound) -> Bound:
    """``bound`` with its captures on the CPU, where errors are looked into."""
    captures = [tensor.detach().cpu() for tensor in bound.captures]
    return Bound(bound.variant, captures, bound.ints, bound.floats, bound.score, bound.mask)


def _bare(query: Tensor, key: Tensor, bound: Bound) -> Call:
    return Call(query, key, key, bound, [], (1, 1), 1.0, "triton", False, False)


def _unknown(position: Position) -> FlexAttentionError:
    b, h, q, kv = position
    return IndexOutOfRangeError(
        f"a mod reads outside a captured tensor, divides by zero or shifts too far at b={b}, "
        f"h={h}, q_idx={q}, kv_idx={kv}.",
        why="the mask keeps this position, and the value decides its score.",
        fix="mask the position, clamp the index, or guard it with torch.where.",
    )


def _of_earlier(error: FlexAttentionError, lengths: tuple[int, ...]) -> FlexAttentionError:
    """``error`` with a word on when it happened."""
    batch, heads, rows, keys = lengths
    told: Any = type(error)(
        error.summary,
        at=error.at,
        why=f"{error.why} It was an earlier call, with B={batch}, Hq={heads}, {rows} queries and "
        f"{keys} keys: nobody waits for a GPU, so the next call tells.",
        fix=error.fix,
    )
    return told
