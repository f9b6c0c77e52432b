"""Mistakes on the device: indices outside, tensors elsewhere, and calls that go on afterwards."""

from __future__ import annotations

import pytest
import torch
from on_device import BACKEND, DEVICE, finish, normal
from torch import Tensor

from flexattn import create_block_mask, errors, flex_attention

needs_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a second device")


def _inputs(M: int = 70, D: int = 32) -> list[Tensor]:
    return [normal(2, 2, M, D, grad=False) for _ in range(3)]


def test_index_outside_is_found_and_named() -> None:
    table, inputs = torch.randn(2, 60, device=DEVICE), _inputs()

    def outside(s, b, h, q, k):  # type: ignore[no-untyped-def]
        return s + table[h, k]

    with pytest.raises(errors.IndexOutOfRangeError, match=r"q_idx=0, kv_idx=60"):
        finish(lambda: flex_attention(*inputs, outside, backend=BACKEND))
    # and the device goes on
    finish(lambda: flex_attention(*inputs, backend=BACKEND))


def test_a_backward_after_a_mistake_is_not_blamed() -> None:
    """The error of one call does not stick to those that follow."""
    table, inputs = torch.randn(60, device=DEVICE), [normal(1, 2, 70, 32) for _ in range(3)]
    with pytest.raises(errors.IndexOutOfRangeError):
        finish(lambda: flex_attention(*inputs, lambda s, b, h, q, k: s + table[q], backend=BACKEND))
    out = flex_attention(*inputs, lambda s, b, h, q, k: s + table[q % 60], backend=BACKEND)
    finish(lambda: torch.autograd.grad(out.sum(), inputs))


def test_index_outside_where_masked_is_none() -> None:
    table, inputs = torch.randn(2, 60, device=DEVICE), _inputs()
    mask = create_block_mask(lambda b, h, q, k: k < 60, None, None, 70, 70, device=DEVICE)
    found = flex_attention(*inputs, lambda s, b, h, q, k: s + table[h, k], mask, backend=BACKEND)
    q, k, v = (t.double() for t in inputs)
    score = q @ k[:, :, :60].mT / 32**0.5 + table[:, None].double()
    want = score.softmax(-1) @ v[:, :, :60]
    torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-4)


def test_data_decides_the_index() -> None:
    pages, table, inputs = (
        torch.randint(0, 9, (70,), device=DEVICE), torch.randn(9, device=DEVICE), _inputs(),
    )  # fmt: skip
    call = lambda: flex_attention(  # noqa: E731
        *inputs, lambda s, b, h, q, k: s + table[pages[k]], backend=BACKEND
    )
    assert call().isfinite().all()
    pages[33] = 9
    with pytest.raises(errors.IndexOutOfRangeError, match="kv_idx=33"):
        finish(call)


@needs_cuda
def test_captures_of_one_or_more_dimensions_must_be_there_too() -> None:
    slopes, inputs = torch.randn(2), _inputs()
    with pytest.raises(errors.CaptureDeviceError):
        flex_attention(*inputs, lambda s, b, h, q, k: s * slopes[h])


@needs_cuda
def test_a_number_in_a_tensor_of_the_cpu_is_welcome() -> None:
    warm, inputs = torch.tensor(0.5), _inputs()
    found = flex_attention(*inputs, lambda s, b, h, q, k: s * warm)
    want = flex_attention(*inputs, scale=0.5 / 32**0.5)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@needs_cuda
def test_inputs_on_two_devices() -> None:
    q, k, v = _inputs()
    with pytest.raises(errors.InputDeviceError):
        flex_attention(q, k.cpu(), v)


@needs_cuda
def test_backend_of_the_cpu() -> None:
    with pytest.raises(errors.FlexAttentionError):
        flex_attention(*_inputs(), backend="cpp")


@needs_cuda
def test_mask_on_the_cpu() -> None:
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 70, 70, device="cpu")
    with pytest.raises(errors.BlockMaskDeviceError):
        flex_attention(*_inputs(), block_mask=mask)


def test_the_interpreter_agrees() -> None:
    """backend="eager" works on every device."""
    inputs = _inputs()
    score = lambda s, b, h, q, k: torch.where(q % 2 == 0, s, s * 0.5)  # noqa: E731
    found = flex_attention(*inputs, score, backend=BACKEND)
    want = flex_attention(*inputs, score, backend="eager")
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
