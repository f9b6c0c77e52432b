"""Random mods on random shapes, forward and every gradient, against dense float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from dense_attention import assert_close_enough, dense_attention, gradients
from hypothesis import given
from hypothesis import strategies as st
from random_mods import RandomMods, random_mods
from torch import Tensor

from flexattn import create_block_mask, flex_attention


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What torch makes of an integer tensor times a Python float."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _leaves(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(dtype).clone().requires_grad_() for t in tensors]


def _inputs(mods: RandomMods, seed: int) -> list[Tensor]:
    batch, heads, kv_heads, rows, keys, dim, value_dim = mods.shape
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, heads, rows, dim),
        (batch, kv_heads, keys, dim),
        (batch, kv_heads, keys, value_dim),
        (batch, heads, rows, value_dim),
    )
    return [torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes]


def _floats(captures: dict[str, Tensor]) -> list[Tensor]:
    return [t.requires_grad_() for t in captures.values() if t.is_floating_point()]


def _dense(mods: RandomMods, seed: int, dtype: torch.dtype) -> list[Tensor]:
    with _default_dtype(dtype):
        *inputs, grad = _inputs_as(mods, seed, dtype)
        captures = mods.captures(torch.float32, seed)
        captures = {k: t.to(dtype) if t.is_floating_point() else t for k, t in captures.items()}
        wanted = inputs + _floats(captures)
        out, lse, _ = dense_attention(*inputs, *mods.make(captures))
        return [out, lse, *gradients(out, wanted, grad, lse)]


def _inputs_as(mods: RandomMods, seed: int, dtype: torch.dtype) -> list[Tensor]:
    *inputs, grad = _inputs(mods, seed)
    return [*_leaves(inputs, dtype), grad.to(dtype)]


def _ours(mods: RandomMods, seed: int, dtype: torch.dtype, backend: str) -> list[Tensor]:
    *inputs, grad = _inputs_as(mods, seed, dtype)
    captures = mods.captures(torch.float32, seed)
    wanted = inputs + _floats(captures)
    score_mod, mask_mod = mods.make(captures)
    batch, heads, _, rows, keys = mods.shape[:5]
    mask = None
    if mask_mod is not None:
        mask = create_block_mask(
            mask_mod, batch, heads, rows, keys, BLOCK_SIZE=mods.block, backend="eager"
        )
    out, lse = flex_attention(
        *inputs, score_mod, mask, enable_gqa=True, return_lse=True, backend=backend
    )
    return [out, lse, *gradients(out, wanted, grad, lse)]


@pytest.mark.parametrize("backend", ["eager", "cpp"])
@given(mods=random_mods(), seed=st.integers(0, 1000))
def test_float32(backend: str, mods: RandomMods, seed: int) -> None:
    exact = _dense(mods, seed, torch.float64)
    plain = _dense(mods, seed, torch.float32)
    for at, found in enumerate(_ours(mods, seed, torch.float32, backend)):
        assert_close_enough(found, exact[at], plain[at], 2e-6 if at < 2 else 1e-5)


@given(mods=random_mods(max_length=80), seed=st.integers(0, 1000))
def test_float64(mods: RandomMods, seed: int) -> None:
    exact = _dense(mods, seed, torch.float64)
    for at, found in enumerate(_ours(mods, seed, torch.float64, "cpp")):
        # Gradients of float32 tables are rounded once, at the end.
        tolerance = 1e-10 if found.dtype == torch.float64 else 1e-6
        scale = torch.where(exact[at].isfinite(), exact[at], 0.0).abs().sum().clamp(1e-6).item()
        torch.testing.assert_close(
            found.double(), exact[at], rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@given(mods=random_mods(max_length=100), seed=st.integers(0, 1000))
def test_low_precision_follows_the_float32_kernel(
    dtype: torch.dtype, mods: RandomMods, seed: int
) -> None:
    """On inputs exact in the low precision, the results differ by its rounding alone."""
    found = _ours(mods, seed, dtype, "cpp")
    rounded = [t.detach().to(dtype).float() for t in _inputs(mods, seed)]
    captures = mods.captures(torch.float32, seed)
    leaves = _leaves(rounded[:3], torch.float32)
    wanted = leaves + _floats(captures)
    out, lse, _ = dense_attention(*leaves, *mods.make(captures))
    exact = [out, lse, *gradients(out, wanted, rounded[3], lse)]
    step = torch.finfo(dtype).eps
    for got, want in zip(found, exact, strict=True):
        finite = want.isfinite()
        assert torch.equal(got.isfinite(), finite)
        if finite.any():
            error = (got.float() - want)[finite]
            # Weights, their gradients and the results are rounded to the dtype.
            assert error.norm() <= 4 * step * want[finite].norm() + 1e-5 * finite.sum().sqrt()
