"""Few queries against many keys: the decode kernel beside float64, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from dense_attention import dense_attention

from flexattn import clear_cache, create_block_mask, errors, flex_attention
from flexattn.kernel.isa import ISAS, host
from flexattn.op import cpp, decoding
from flexattn.op.decoding import FEW_BESIDE_TILES

HERE = [name for name, isa in ISAS.items() if isa.level <= host().level]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float64: 1e-11}
SHAPES = [  # M, N, Hq, Hkv, D, Dv
    (1, 300, 8, 2, 64, 64),
    (1, 4001, 3, 3, 128, 64),
    (3, 2777, 6, 2, 40, 72),
    (16, 1024, 8, 1, 80, 80),
    (5, 3000, 6, 2, 96, 33),
    (1, 260, 4, 4, 7, 5),
]
BIAS = torch.randn(8, 4096, generator=torch.Generator().manual_seed(1))
IDS = (torch.rand(4096, generator=torch.Generator().manual_seed(2)) < 0.01).cumsum(0)
LENGTHS = torch.tensor([300, 177])

Mods = dict[str, tuple[Callable[..., Any] | None, Callable[..., Any] | None]]


def mods(M: int, N: int) -> Mods:
    """Mods of queries that are the last M of N tokens."""
    at = N - M
    return {
        "plain": (None, None),
        "bias": (lambda s, b, h, q, k: s + BIAS[h, k], lambda b, h, q, k: q + at >= k),
        "distance": (lambda s, b, h, q, k: s - 0.01 * (h + 1) * (q + at - k).abs(), None),
        "capped": (
            lambda s, b, h, q, k: 3 * torch.tanh(s / 3),
            lambda b, h, q, k: (q + at >= k) & (q + at - k < 200),
        ),
        "lengths": (None, lambda b, h, q, k: k < LENGTHS[b]),
        "by head": (None, lambda b, h, q, k: (k % (h + 2) != 0) & (k > 40 * (7 - h))),
        "document": (None, lambda b, h, q, k: IDS[q + at] == IDS[k]),
        "nothing": (None, lambda b, h, q, k: (k > 10**6) | ((q == 0) & (k == 5))),
    }


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Directions of the kernels that calls ask for; launches prepared before are forgotten."""
    asked: list[str] = []
    kernel_for = cpp.kernel_for

    def spy(variant: Any, direction: str, *rest: Any, **options: Any) -> Any:
        asked.append(direction)
        return kernel_for(variant, direction, *rest, **options)

    monkeypatch.setattr(cpp, "kernel_for", spy)
    monkeypatch.setattr(cpp, "PLAN_LIMIT", 0)
    yield asked


def inputs(
    shape: tuple[int, int, int, int, int, int], dtype: torch.dtype, batch: int = 2
) -> list[torch.Tensor]:
    M, N, Hq, Hkv, D, Dv = shape
    sizes = ((batch, Hq, M, D), (batch, Hkv, N, D), (batch, Hkv, N, Dv))
    return [torch.randn(size).to(dtype) for size in sizes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("isa", HERE)
def test_dense_float64(
    isa: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, kernels: list[str]
) -> None:
    monkeypatch.setenv("FLEXATTN_ISA", isa)
    clear_cache()
    for shape in SHAPES:
        if isa == "amx" and dtype == torch.bfloat16 and shape[0] > FEW_BESIDE_TILES:
            continue  # the next test's
        tensors = inputs(shape, dtype)
        chosen = mods(*shape[:2])
        if isa != HERE[-1]:
            chosen = {name: chosen[name] for name in ("bias", "capped")}
        for name, (score_mod, mask_mod) in chosen.items():
            mask = mask_mod and create_block_mask(mask_mod, 2, shape[2], *shape[:2])
            out, aux = flex_attention(*tensors, score_mod, mask, enable_gqa=True, return_lse=True)
            # float64 and a distance: the mod's own arithmetic is float32 there
            slack = 1e5 if dtype == torch.float64 and name == "distance" else 1
            want, lse, *_ = dense_attention(
                *(t.double() for t in tensors), score_mod=score_mod, mask_mod=mask_mod
            )
            limit = slack * TOLERANCE[dtype]
            assert (out.double() - want).abs().max() < limit, (shape, name)
            kept = lse.isfinite()
            assert torch.equal(kept, aux.isfinite())
            if kept.any():
                assert (aux.double() - lse)[kept].abs().max() < 4 * limit, (shape, name)
    assert set(kernels) == {"decode"}


@pytest.mark.parametrize("level", ["amx", "avx512bf16"])
def test_tiles_take_what_fills_them(
    level: str, monkeypatch: pytest.MonkeyPatch, kernels: list[str]
) -> None:
    """What follows is only which kernel is asked for: this CPU may have neither level."""
    monkeypatch.setattr(decoding, "host", lambda: ISAS[level])
    monkeypatch.setattr(decoding, "CPUS", 4)
    clear_cache()
    for queries in (FEW_BESIDE_TILES, FEW_BESIDE_TILES + 1):
        for heads in (3, 4):
            flex_attention(*inputs((queries, 300, heads, heads, 8, 8), torch.bfloat16, batch=1))
    assert kernels == ["decode", "decode", "decode", "forward" if level == "amx" else "decode"]


def test_what_lies_behind_a_cache_is_not_read() -> None:
    """Keys and values beyond a length may hold anything."""
    q, k, v = inputs((2, 700, 4, 2, 32, 32), torch.float32)
    mask = create_block_mask(lambda b, h, q, kv: kv < 333, None, None, 2, 700)
    want = flex_attention(q, k[:, :, :333], v[:, :, :333], enable_gqa=True)
    k[:, :, 333:], v[:, :, 333:] = float("nan"), float("inf")
    got = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


def test_threads_do_not_change_a_bit() -> None:
    tensors = inputs((1, 9000, 8, 2, 64, 64), torch.bfloat16, batch=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(flex_attention(*tensors, enable_gqa=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_fault_names_its_query_and_key() -> None:
    table = torch.zeros(3, 500)
    tensors = inputs((3, 600, 4, 2, 16, 16), torch.float32)
    with pytest.raises(errors.IndexOutOfRangeError, match="q_idx=0, kv_idx=500"):
        flex_attention(*tensors, lambda s, b, h, q, k: s + table[q, k], enable_gqa=True)
    narrow = torch.zeros(2, 600)
    with pytest.raises(errors.IndexOutOfRangeError, match="q_idx=2, kv_idx=0"):
        flex_attention(*tensors, lambda s, b, h, q, k: s + narrow[q, k], enable_gqa=True)


def test_rows_of_blocks_that_part_the_queries_go_the_other_way(kernels: list[str]) -> None:
    tensors = inputs((8, 600, 4, 2, 16, 16), torch.float32)
    causal = lambda b, h, q, k: q + 592 >= k  # noqa: E731
    for block, direction in ((4, "forward"), (8, "decode"), (128, "decode")):
        mask = create_block_mask(causal, None, None, 8, 600, BLOCK_SIZE=(block, 64))
        out = flex_attention(*tensors, block_mask=mask, enable_gqa=True)
        want, *_ = dense_attention(*(t.double() for t in tensors), mask_mod=causal)
        torch.testing.assert_close(out.double(), want, atol=2e-6, rtol=0)
        assert kernels[-1] == direction


def test_strides_and_views(kernels: list[str]) -> None:
    q, k, v = inputs((2, 500, 6, 3, 48, 24), torch.bfloat16)
    want = flex_attention(q, k, v, enable_gqa=True)
    strange = [
        q.transpose(1, 2).contiguous().transpose(1, 2),
        k.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([v, v], -1)[..., 0],
    ]
    assert torch.equal(flex_attention(*strange, enable_gqa=True), want)
    shared = flex_attention(q, k[:1], v[:1], enable_gqa=True)
    assert torch.equal(shared[0], want[0])
    assert set(kernels) == {"decode"}


def test_gradients_follow_the_forward() -> None:
    tensors = [t.requires_grad_() for t in inputs((4, 600, 6, 2, 40, 40), torch.float32)]
    mask_mod = mods(4, 600)["capped"][1]
    mask = create_block_mask(mask_mod, None, None, 4, 600)
    out = flex_attention(*tensors, block_mask=mask, enable_gqa=True)
    pull = torch.randn_like(out)
    got = torch.autograd.grad(out, tensors, pull)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    want, *_ = dense_attention(*doubles, mask_mod=mask_mod)
    for one, other in zip(got, torch.autograd.grad(want, doubles, pull.double()), strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e10])
def test_weights_of_large_scores_add_up_to_one_again(scale: float, kernels: list[str]) -> None:
    """Scores found by other sums than lse was made of are off by eps * score, in exponents."""
    q, k, v = (t.requires_grad_() for t in inputs((3, 600, 2, 2, 64, 64), torch.float32))
    pull = torch.randn_like(q)
    for call in (flex_attention, torch.compile(flex_attention, backend="aot_eager")):
        out = call(q, k, v, scale=100 * scale)
        found = torch.autograd.grad(out, (q, k, v), pull)
        assert all(grad.isfinite().all() for grad in found)
        torch.testing.assert_close(found[2].sum(2), pull.sum(2), atol=1e-5, rtol=0)
    assert set(kernels) == {"forward", "backward"}
