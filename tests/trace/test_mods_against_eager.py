"""Mods as people write them: the traced graph gives what calling the mod on numbers gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mask_zoo import MASKS, B, H, M, N, draw
from score_zoo import SCORES, double_bias
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.verifier import verify
from flexattn.trace import trace_mod


def grid(kind: str, fn: Callable[..., Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """The oracle: ``fn`` itself, called once for every pair on tensors without dimensions."""
    scores = draw(B, H, M, N, seed=5).to(dtype) * 3
    out = torch.empty(B, H, M, N, dtype=torch.bool if kind == "mask" else dtype)
    for at in itertools.product(range(B), range(H), range(M), range(N)):
        indices = [torch.tensor(i) for i in at]
        out[at] = fn(*indices) if kind == "mask" else fn(scores[at].clone(), *indices)
    return out


def traced(kind: str, fn: Callable[..., Any], compute: str = "f32") -> Tensor:
    result = trace_mod(fn, kind, compute=compute)
    root = result.graph()
    names = {torch.bool: "bool", torch.bfloat16: "bf16", torch.float16: "f16"}
    names |= {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8", torch.int8: "i8"}
    names |= {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}
    types = tuple(CaptureType(names[t.dtype], t.ndim) for t in result.captures)
    verify(root, Program(root, None, types, (), compute))
    dtype = torch.float64 if compute == "f64" else torch.float32
    env = {
        "score": draw(B, H, M, N, seed=5).to(dtype) * 3,
        "b": torch.arange(B).view(B, 1, 1, 1),
        "h": torch.arange(H).view(H, 1, 1),
        "q_idx": torch.arange(M).view(M, 1),
        "kv_idx": torch.arange(N),
    }
    value = evaluate(root, env, result.captures, compute, on_fault="safe")
    return value.expand(B, H, M, N)


@pytest.mark.parametrize("name", MASKS)
def test_traced_mask_keeps_what_the_mask_keeps(name: str) -> None:
    assert torch.equal(traced("mask", MASKS[name]), grid("mask", MASKS[name]))


@pytest.mark.parametrize("name", SCORES)
def test_traced_score_is_what_the_score_mod_gives(name: str) -> None:
    expected = grid("score", SCORES[name])
    torch.testing.assert_close(traced("score", SCORES[name]), expected, rtol=2e-5, atol=1e-6)


def test_double_precision_is_computed_in_double() -> None:
    def mod(score, b, h, q_idx, kv_idx):
        return torch.tanh(score / 3.0) * 0.1 + double_bias[h]

    expected = grid("score", mod, torch.float64)
    torch.testing.assert_close(traced("score", mod, "f64"), expected, rtol=1e-14, atol=1e-14)


def test_a_mod_traced_wrongly_would_be_noticed() -> None:
    assert not torch.equal(traced("mask", lambda b, h, q, k: q > k), grid("mask", MASKS["causal"]))
