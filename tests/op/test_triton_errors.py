"""Devices that the Triton backend runs on, and those it refuses: without a GPU, by stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flexattn import create_block_mask, flex_attention, noop_mask
from flexattn.errors import (
    BackendError,
    CaptureDeviceError,
    DeterminismError,
    DeviceTooOldError,
    InputDeviceError,
    TargetError,
)
from flexattn.op import triton_device
from flexattn.op.attention import choose_backend
from flexattn.op.triton_device import machine_of
from flexattn.op.triton_grads import order_of
from flexattn.trace import trace_mod

pytestmark = pytest.mark.null
GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """``gpu(major=…, minor=…)`` has torch believe in a GPU of these properties."""

    def believe(hip: str | None = None, **properties: Any) -> None:
        found = SimpleNamespace(name="GPU", multi_processor_count=132, **properties)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
        monkeypatch.setattr(torch.version, "hip", hip)
        triton_device._machine.cache_clear()

    yield believe
    triton_device._machine.cache_clear()


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "sm_80"), ((9, 0), "sm_90")])
def test_nvidia(gpu, capability: tuple[int, int], name: str) -> None:  # type: ignore[no-untyped-def]
    gpu(major=capability[0], minor=capability[1])
    assert machine_of(GPU).target.name == name and machine_of(GPU).processors == 132


def test_a_gpu_that_is_too_old(gpu) -> None:  # type: ignore[no-untyped-def]
    gpu(major=7, minor=5)
    with pytest.raises(DeviceTooOldError, match=r"7\.5") as caught:
        machine_of(GPU)
    assert caught.value.why and "eager" in (caught.value.fix or "")


def test_amd(gpu) -> None:  # type: ignore[no-untyped-def]
    gpu(hip="6.2", gcnArchName="gfx942:sramecc+:xnack-")
    assert machine_of(GPU).target.name == "gfx942"
    gpu(hip="6.2", gcnArchName="gfx803")
    with pytest.raises(TargetError, match="gfx803"):
        machine_of(GPU)


def test_the_device_chooses() -> None:
    on_gpu = SimpleNamespace(device=GPU)
    assert choose_backend(None, on_gpu) == "triton"  # type: ignore[arg-type]
    assert choose_backend(None, torch.empty(1)) == "cpp"
    with pytest.raises(BackendError, match="'cpp' cannot compute on cuda"):
        choose_backend("cpp", on_gpu)  # type: ignore[arg-type]
    with pytest.raises(InputDeviceError, match="mps"):
        choose_backend(None, SimpleNamespace(device=torch.device("mps")))  # type: ignore[arg-type]


def test_the_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(BackendError, match="cannot compute on cpu") as caught:
        flex_attention(q, q, q, backend="triton")
    assert "TRITON_INTERPRET=1" in (caught.value.why or "")
    with pytest.raises(BackendError, match="cannot compute on cpu"):
        create_block_mask(noop_mask, 1, 1, 8, 8, backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("triton", q) == "triton"


def test_captured_tensors_on_the_cpu() -> None:
    """One without dimensions may stay there, as in PyTorch; any other may not."""
    number, table = torch.tensor(2.0), torch.randn(4)
    assert trace_mod(lambda s, b, h, q, k: s * number, "score", device=GPU).captures == [number]
    with pytest.raises(CaptureDeviceError, match=r"shape \(4,\) on cpu") as caught:
        trace_mod(lambda s, b, h, q, k: s * table[h], "score", device=GPU)
    assert caught.value.fix == "move it with .to('cuda:0') before the call."


def entry(way: str, *plain: str) -> Any:
    return SimpleNamespace(way=way, plain=frozenset(plain), capture=0)


def order(*entries: Any, batch: int = 2, heads: int = 3, deterministic: bool = True) -> Any:
    return order_of(
        entries,
        (batch, heads, 100, 100),
        deterministic=deterministic,
        tiles=7,
        processors=2,
        width=4,
    )


def test_what_shares_elements_is_done_in_turn() -> None:
    assert order(entry("pair", "b", "h")) == order()  # an element per pair: any order will do
    assert order(entry("pair", "h"), batch=1) == order()
    shared = order(entry("pair", "h"))
    assert (shared.shared, shared.serial, shared.chunks) == (True, True, 4)
    assert order(entry("pair", "h"), deterministic=False).serial is False
    assert order(entry("distance")).serial
    assert order(entry("distance"), batch=1 << 20).chunks == 1  # copies take memory
    for way in ("head", "query", "key"):
        assert not order(entry(way)).serial
    with pytest.raises(DeterminismError):
        order(entry("head"), entry("scatter"))
