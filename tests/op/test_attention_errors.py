"""Every wrong argument of flex_attention raises its own error, in all its parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import flexattn
from flexattn import AuxRequest, create_block_mask, errors, flex_attention

CAUSAL = lambda b, h, q, k: q >= k  # noqa: E731


def _qkv(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(shape or (2, 2, 16, 8)).to(dtype) for _ in range(3)]


def _shapes(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape) for shape in (q, k, v)]


def _mask(**changes: Any) -> flexattn.BlockMask:
    arguments = {"B": None, "H": None, "Q_LEN": 16, "KV_LEN": 16} | changes
    return create_block_mask(CAUSAL, **arguments)


WRONG_TENSORS = {
    "list": (errors.ArgumentError, [[1.0], *_qkv()[:2]]),
    "sparse": (errors.LayoutError, [_qkv()[0].to_sparse(), *_qkv()[:2]]),
    "three dimensions": (errors.ShapeError, _qkv(2, 16, 8)),
    "five dimensions": (errors.ShapeError, _qkv(1, 2, 2, 16, 8)),
    "key length": (errors.ShapeError, _shapes((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 6, 8))),
    "value heads": (errors.ShapeError, _shapes((2, 2, 4, 8), (2, 2, 5, 8), (2, 1, 5, 8))),
    "head dim": (errors.ShapeError, _shapes((2, 2, 4, 8), (2, 2, 5, 4), (2, 2, 5, 4))),
    "head dim 0": (errors.ShapeError, _qkv(2, 2, 4, 0)),
    "batch": (errors.ShapeError, _shapes((4, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8))),
    "heads": (errors.HeadCountError, _shapes((2, 4, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8))),
    "integers": (errors.InputDtypeError, _qkv(dtype=torch.int32)),
    "complex": (errors.InputDtypeError, _qkv(dtype=torch.complex64)),
    "float8": (errors.InputDtypeError, _qkv(dtype=torch.float8_e4m3fn)),
    "mixed dtypes": (errors.MixedDtypeError, [_qkv()[0], *_qkv(dtype=torch.bfloat16)[:2]]),
    "devices": (errors.InputDeviceError, [_qkv()[0], *(t.to("meta") for t in _qkv()[:2])]),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors(name: str) -> None:
    error, tensors = WRONG_TENSORS[name]
    with pytest.raises(error) as caught:
        flex_attention(*tensors)
    assert type(caught.value) is error
    assert caught.value.why and caught.value.fix


WRONG_ARGUMENTS: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "scale tensor": (errors.ArgumentError, {"scale": torch.tensor(1.0)}),
    "scale nan": (errors.ArgumentError, {"scale": math.nan}),
    "scale text": (errors.ArgumentError, {"scale": "1"}),
    "scale bool": (errors.ArgumentError, {"scale": True}),
    "gqa": (errors.ArgumentError, {"enable_gqa": 2}),
    "deterministic": (errors.ArgumentError, {"deterministic": "yes"}),
    "lse and aux": (errors.ArgumentError, {"return_lse": True, "return_aux": AuxRequest(lse=True)}),
    "aux": (errors.ArgumentError, {"return_aux": True}),
    "both masks": (errors.ArgumentError, {"mask_mod": CAUSAL, "block_mask": True}),
    "backend": (errors.BackendError, {"backend": "fortran"}),
    "triton": (errors.BackendError, {"backend": "triton"}),
    "option": (errors.KernelOptionError, {"kernel_options": {"BLOCK": 3}}),
    "mask function": (errors.BlockMaskError, {"block_mask": CAUSAL}),
    "score_mod number": (errors.ModSignatureError, {"score_mod": 3}),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_arguments(name: str) -> None:
    error, arguments = WRONG_ARGUMENTS[name]
    with pytest.raises(error) as caught:
        flex_attention(*_qkv(), **arguments)
    assert type(caught.value) is error
    assert caught.value.why and caught.value.fix


def test_gqa_needs_a_multiple() -> None:
    with pytest.raises(errors.HeadCountError):
        flex_attention(*_shapes((1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), enable_gqa=True)
    with pytest.raises(errors.HeadCountError):
        flex_attention(*_shapes((1, 3, 4, 8), (1, 0, 4, 8), (1, 0, 4, 8)), enable_gqa=True)


@pytest.mark.parametrize(
    "changes", [{"B": 3}, {"H": 4}, {"Q_LEN": 15}, {"Q_LEN": 32}, {"KV_LEN": 17}, {"KV_LEN": 8}]
)
def test_mask_made_for_something_else(changes: dict[str, int]) -> None:
    with pytest.raises(errors.BlockMaskError) as caught:
        flex_attention(*_qkv(), block_mask=_mask(**changes))
    assert caught.value.fix


def test_mask_on_another_device() -> None:
    with pytest.raises(errors.BlockMaskDeviceError):
        flex_attention(*_qkv(), block_mask=_mask().to("meta"))


def test_backend_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_BACKEND", "nothing")
    with pytest.raises(errors.BackendError):
        flex_attention(*_qkv())
    monkeypatch.setenv("FLEXATTN_BACKEND", "eager")
    before = flexattn.cache_info()
    flex_attention(*_qkv())
    assert flexattn.cache_info().kernels_built == before.kernels_built


ODD = torch.arange(3)
BAD_MODS = {
    "branch": (errors.TracedBranchError, lambda s, b, h, q, k: s if q > k else -s),
    "item": (errors.TracedValueError, lambda s, b, h, q, k: s + q.item()),
    "cumsum": (errors.CrossPositionError, lambda s, b, h, q, k: torch.cumsum(s, 0)),
    "in place": (errors.InPlaceError, lambda s, b, h, q, k: s.add_(1)),
    "tuple": (errors.ModReturnError, lambda s, b, h, q, k: (s, s)),
    "bool": (errors.ModReturnError, lambda s, b, h, q, k: s > 0),
    "indices": (errors.CaptureIndexError, lambda s, b, h, q, k: s + ODD[q, k]),
    "float index": (errors.CaptureIndexError, lambda s, b, h, q, k: s + ODD[s]),
    "arguments": (errors.ModSignatureError, lambda s, b: s),
}


@pytest.mark.parametrize("name", BAD_MODS)
def test_bad_mods_leave_the_process_unharmed(name: str) -> None:
    error, mod = BAD_MODS[name]
    q, k, v = _qkv()
    with pytest.raises(error):
        flex_attention(q, k, v, mod)
    assert flex_attention(q, k, v).shape == q.shape


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_capture_on_another_device(backend: str) -> None:
    table = torch.randn(16, device="meta")
    with pytest.raises(errors.CaptureDeviceError):
        flex_attention(*_qkv(), lambda s, b, h, q, k: s + table[k], backend=backend)
