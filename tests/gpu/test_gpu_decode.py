"""Decoding: 1 to 16 queries against many keys, with groups of heads, masks and lse."""

from __future__ import annotations

import pytest
import torch
from on_device import (
    BACKEND,
    DEVICE,
    REHEARSAL,
    Mods,
    block_mask,
    causal_mods,
    check,
    length,
    normal,
    plain,
    problem,
)

from flexattn import create_block_mask, flex_attention

KEYS = length(4133, 517)
DIM = length(128, 16)


def _tail(*learned: torch.Tensor) -> Mods:
    return None, lambda b, h, q, k: q + KEYS - 16 >= k


def _window(*learned: torch.Tensor) -> Mods:
    return None, lambda b, h, q, k: (q + KEYS - 16 >= k) & (q + KEYS - 16 - k < 300)


def _softcap_alibi(*learned: torch.Tensor) -> Mods:
    return lambda s, b, h, q, k: 8 * torch.tanh(s / 8) - 0.01 * h * (KEYS - k), None


@pytest.mark.parametrize("tokens", [1, 3] if REHEARSAL else range(1, 17))
def test_tokens(tokens: int) -> None:
    check(problem(H=(8, 2), M=tokens, N=KEYS, D=(DIM, DIM), mods=_tail), backward=False)


@pytest.mark.parametrize("mods", [plain, _window, _softcap_alibi, causal_mods])
@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (32, 4), (6, 2)])
def test_heads_and_mods(heads: tuple[int, int], mods: object) -> None:
    heads = (min(heads[0], 4), 1) if REHEARSAL else heads
    check(problem(H=heads, M=2, N=KEYS, D=(DIM, DIM), mods=mods), backward=False)


@pytest.mark.parametrize("keys", [1, 5, 127, 128, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_few_keys(keys: int, dtype: torch.dtype) -> None:
    check(problem(dtype, H=(4, 1), M=1, N=keys, D=(64, 64)), backward=False)


@pytest.mark.parametrize("D", [(64, 64), (256, 256), (192, 128), (96, 96), (576, 512)])
def test_head_dims(D: tuple[int, int]) -> None:
    D = (D[0] // 4, D[1] // 4) if REHEARSAL else D
    check(problem(H=(16, 1), M=1, N=length(2050, 130), D=D), backward=False)


def test_backward_of_few_queries() -> None:
    check(problem(H=(8, 2), M=3, N=length(1025, 131), D=(64, 64), mods=causal_mods))


def test_most_keys_are_dropped() -> None:
    """A list of two blocks among many: splits that get none give nothing."""
    far = KEYS - 20

    def mods(*learned: torch.Tensor) -> Mods:
        return None, lambda b, h, q, k: (k < 5) | (k > far)

    check(problem(H=(4, 1), M=1, N=KEYS, D=(64, 64), mods=mods), backward=False)


def test_nothing_is_kept() -> None:
    q, k = normal(2, 4, 1, 64, grad=False), normal(2, 1, KEYS, 64, grad=False)
    mask = create_block_mask(
        lambda b, h, i, j: (i < 0) & (j < 0), None, None, 1, KEYS, device=DEVICE
    )
    out, lse = flex_attention(
        q, k, k, block_mask=mask, enable_gqa=True, return_lse=True, backend=BACKEND
    )
    assert not out.any() and (lse == -torch.inf).all()


def test_lengths_in_a_tensor() -> None:
    """Each sequence has its own number of keys, as a cache that is filled step by step."""
    filled = torch.tensor([KEYS, 7], device=DEVICE)

    def mods(*learned: torch.Tensor) -> Mods:
        return None, lambda b, h, q, k: k < filled[b]

    p = problem(B=2, H=(8, 2), M=1, N=KEYS, D=(64, 64), mods=mods)
    check(p, backward=False)
    filled += -3
    assert block_mask(p, mods()[1]) is not None
    check(p, backward=False)
