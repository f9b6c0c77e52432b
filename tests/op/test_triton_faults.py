"""Faults that a GPU reports are looked at by a later call: by hand, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from flexattn.errors import FlexAttentionError, IndexOutOfRangeError
from flexattn.op.programs import bind
from flexattn.op.request import Call
from flexattn.op.triton_faults import (
    KEPT_BYTES,
    NONE,
    Faults,
    position_in,
    report_of,
)
from flexattn.trace import trace_mod

pytestmark = pytest.mark.null
CPU = torch.device("cpu")


@dataclass
class Copy:
    """The value of a cell when it was copied, which arrives when the test says so."""

    seen: int
    here: bool = False
    waited: bool = False

    def arrived(self) -> bool:
        return self.here

    def wait(self) -> None:
        self.waited = self.here = True

    def value(self) -> int:
        assert self.here
        return self.seen


@dataclass
class Copies:
    made: list[Copy] = field(default_factory=list)

    def __call__(self, cell: Tensor) -> Copy:
        self.made.append(Copy(int(cell)))
        return self.made[-1]


class Told(FlexAttentionError):
    pass


def launch(faults: Faults, stream: int, place: int, told: list[int]) -> None:
    """A kernel that reports ``place``, and the post behind it."""
    cell = faults.cell(stream, CPU)
    cell.fill_(min(int(cell), place))

    def report(found: int) -> FlexAttentionError:
        told.append(found)
        return Told(f"at {found}")

    faults.post(stream, report)


def test_the_call_at_fault_is_named_once_its_copy_is_there() -> None:
    copies, told = Copies(), []
    faults = Faults(copies)
    launch(faults, 0, NONE, told)
    launch(faults, 0, 5, told)
    faults.check()  # nothing has arrived
    copies.made[0].here = True
    faults.check()
    assert not told
    copies.made[1].here = True
    with pytest.raises(Told, match="at 5"):
        faults.check()
    faults.check()
    assert told == [5]


def test_later_calls_on_the_stream_are_not_blamed() -> None:
    copies, told = Copies(), []
    faults = Faults(copies)
    launch(faults, 0, 3, told)
    launch(faults, 0, NONE, told)  # the cell still shows the first one's fault
    launch(faults, 1, 8, told)
    for copy in copies.made:
        copy.here = True
    with pytest.raises(Told, match="at 3"):
        faults.check()
    with pytest.raises(Told, match="at 8"):  # another stream has another cell
        faults.check()
    faults.check()
    launch(faults, 0, NONE, told)
    copies.made[-1].here = True
    faults.check()
    assert told == [3, 8] and int(faults.cell(0, CPU)) == NONE


def test_the_queue_is_bounded() -> None:
    copies, told = Copies(), []
    faults = Faults(copies, limit=2)
    for _ in range(2):
        launch(faults, 0, NONE, told)
    assert not any(copy.waited for copy in copies.made)
    launch(faults, 0, NONE, told)
    assert [copy.waited for copy in copies.made] == [True, False, False]
    with pytest.raises(Told, match="at 4"):
        launch(faults, 0, 4, told)
        for _ in range(3):
            launch(faults, 0, NONE, told)


def test_a_thread_may_find_the_fault_of_another() -> None:
    """It renews the cell between the other's launch and its post."""
    copies, told = Copies(), []
    faults = Faults(copies)
    launch(faults, 0, 3, told)
    faults.cell(0, CPU)
    copies.made[0].here = True
    with pytest.raises(Told, match="at 3"):
        faults.check()
    faults.post(0, lambda place: Told(f"at {place}"))
    faults.check()
    assert told == [3]


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 4, 6)])
def test_places(place: tuple[int, int, int, int]) -> None:
    b, h, q, kv = place
    assert position_in(((b * 3 + h) * 5 + q) * 7 + kv, 3, 5, 7) == place


def call_reading(table: Tensor) -> Call:
    def reads(score, b, h, q_idx, kv_idx):
        return score + table[q_idx]

    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    bound = bind(trace_mod(reads, "score"), None, "f32")
    return Call(q, k, k, bound, [], (1, 1), 1.0, "triton", False, False)


def test_the_error_is_that_of_the_earlier_call() -> None:
    error = report_of(call_reading(torch.randn(4)))(((1 * 3 + 2) * 5 + 4) * 7 + 1)
    assert isinstance(error, IndexOutOfRangeError)
    assert "captured tensor 0 of shape (4,) at index 4" in error.summary
    assert "b=1, h=2, q_idx=4, kv_idx=1" in error.why  # type: ignore[operator]
    assert "earlier call, with B=2, Hq=3, 5 queries and 7 keys" in error.why  # type: ignore[operator]
    assert error.at is not None and "table[q_idx]" in error.at


def test_large_captures_are_not_kept_for_a_message() -> None:
    table = torch.empty(1, dtype=torch.uint8).expand(KEPT_BYTES + 1)
    error = report_of(call_reading(table))(0)
    assert isinstance(error, IndexOutOfRangeError)
    assert "b=0, h=0, q_idx=0, kv_idx=0" in error.summary
