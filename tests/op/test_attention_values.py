"""flex_attention against the dense float64 oracle: outputs and gradients, every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from dense_attention import assert_close_enough, dense_attention, gradients
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from flexattn import AuxRequest, create_block_mask, flex_attention

BACKENDS = ("eager", "cpp")


@dataclass
class Case:
    """Mods made from named captured tensors, and the shape to run them on.

    Attributes:
        make: ``make(captures) -> (score_mod, mask_mod)``.
        shape: (B, Hq, Hkv, M, N, D, Dv).
    """

    name: str
    make: Callable[[dict[str, Tensor]], tuple[Any, Any]]
    captures: dict[str, Tensor] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 2, 2, 37, 45, 16, 16)
    block: tuple[int, int] = (16, 16)
    kv_batch: int | None = None


def _softcap(_: dict[str, Tensor]):
    return lambda s, b, h, q, k: 5.0 * torch.tanh(s / 5.0), None


def _causal(_: dict[str, Tensor]):
    return None, lambda b, h, q, k: q >= k


def _alibi(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s + c["slope"][h] * (k - q), lambda b, h, q, k: q >= k


def _relative(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s + c["bias"][h, (k - q).clamp(-8, 8) + 8], None


def _full_bias(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s + c["bias"][b, h, q, k], lambda b, h, q, k: q + 9 >= k


def _shared_bias(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s + c["bias"][q, k] + c["bias"][k, q], None


def _documents(c: dict[str, Tensor]):
    doc = c["doc"]
    return None, lambda b, h, q, k: (doc[b, q] == doc[b, k]) & (q >= k)


def _empty_rows(_: dict[str, Tensor]):
    return None, lambda b, h, q, k: (q % 3 != 0) & (k < q)


def _gate(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s * c["gate"] + c["row"][b, h, q] - c["col"][b, h, k].exp(), None


def _no_score(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: c["bias"][q, k], None


def _detached(c: dict[str, Tensor]):
    return lambda s, b, h, q, k: s * torch.sigmoid(s.detach()) + c["t"][h].detach() * s, None


GENERATOR = torch.Generator().manual_seed(1)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


CASES = (
    Case("plain", lambda c: (None, None)),
    Case("plain_long", lambda c: (None, None), shape=(1, 2, 1, 150, 210, 24, 40)),
    Case("plain_even", lambda c: (None, None), shape=(1, 2, 2, 150, 210, 24, 24)),
    Case("softcap", _softcap),
    Case("causal", _causal, shape=(1, 3, 3, 130, 130, 32, 32), block=(64, 32)),
    Case("alibi", _alibi, {"slope": _randn(4)}, (2, 4, 2, 70, 70, 8, 8)),
    Case("relative", _relative, {"bias": _randn(2, 17)}),
    Case("full_bias", _full_bias, {"bias": _randn(2, 2, 37, 45)}),
    Case("shared_bias", _shared_bias, {"bias": _randn(70, 70)}, (2, 3, 1, 70, 70, 8, 8)),
    Case("documents", _documents, {"doc": torch.arange(90).view(2, 45) // 7}),
    Case("empty_rows", _empty_rows),
    Case(
        "gate",
        _gate,
        {"gate": torch.tensor(0.7), "row": _randn(2, 2, 37), "col": _randn(2, 2, 45)},
    ),
    Case("no_score", _no_score, {"bias": _randn(37, 45)}),
    Case("detached", _detached, {"t": _randn(2)}),
    Case("odd_sizes", _causal, shape=(1, 6, 2, 1, 3, 1, 5), block=(1, 2)),
    Case("long_query", _softcap, shape=(1, 1, 1, 300, 2, 3, 1)),
    Case("kv_batch", _alibi, {"slope": _randn(4)}, (3, 4, 2, 33, 65, 8, 12), kv_batch=1),
)


def _inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    batch, heads, kv_heads, rows, keys, dim, value_dim = case.shape
    kv_batch = batch if case.kv_batch is None else case.kv_batch
    shapes = (
        (batch, heads, rows, dim),
        (kv_batch, kv_heads, keys, dim),
        (kv_batch, kv_heads, keys, value_dim),
    )
    return [torch.randn(shape).to(dtype) for shape in shapes]


def _leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().clone()
    return tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor


def _run_dense(case: Case, inputs: list[Tensor], grad: Tensor, dtype: torch.dtype) -> list[Tensor]:
    leaves = [_leaf(tensor, dtype) for tensor in inputs]
    captures = {name: _leaf(tensor, dtype) for name, tensor in case.captures.items()}
    out, lse, top = dense_attention(*leaves, *case.make(captures))
    wanted = leaves + [t for t in captures.values() if t.requires_grad]
    if not out.requires_grad:
        return [out, lse, top]
    return [out, lse, top, *gradients(out, wanted, grad, lse)]


def _run(case: Case, inputs: list[Tensor], grad: Tensor, backend: str) -> list[Tensor]:
    leaves = [_leaf(tensor, tensor.dtype) for tensor in inputs]
    captures = {name: _leaf(tensor, tensor.dtype) for name, tensor in case.captures.items()}
    score_mod, mask_mod = case.make(captures)
    batch, heads, _, rows, keys = case.shape[:5]
    mask = None
    if mask_mod is not None:
        mask = create_block_mask(mask_mod, batch, heads, rows, keys, BLOCK_SIZE=case.block)
    out, aux = flex_attention(
        *leaves,
        score_mod,
        mask,
        enable_gqa=True,
        return_aux=AuxRequest(lse=True, max_scores=True),
        backend=backend,
    )
    wanted = leaves + [t for t in captures.values() if t.requires_grad]
    found = gradients(out, wanted, grad, aux.lse)
    assert all(grad.dtype == tensor.dtype for grad, tensor in zip(found, wanted, strict=True))
    return [out, aux.lse, aux.max_scores, *found]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_is_as_exact_as_torch(case: Case, backend: str) -> None:
    inputs = _inputs(case, torch.float32)
    grad = torch.randn(*inputs[0].shape[:3], inputs[2].shape[3])
    exact = _run_dense(case, inputs, grad, torch.float64)
    plain = _run_dense(case, inputs, grad, torch.float32)
    for at, (found, want, near) in enumerate(zip(_run(case, inputs, grad, backend), exact, plain)):
        assert_close_enough(found, want, near, 2e-6 if at < 3 else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float64_is_exact(case: Case, backend: str) -> None:
    case = Case(
        case.name,
        case.make,
        {k: t.double() if t.is_floating_point() else t for k, t in case.captures.items()},
        case.shape,
        case.block,
        case.kv_batch,
    )
    inputs = _inputs(case, torch.float64)
    grad = torch.randn(*inputs[0].shape[:3], inputs[2].shape[3])
    exact = _run_dense(case, inputs, grad, torch.float64)
    for found, want in zip(_run(case, inputs, grad, backend), exact):
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["plain_even", "causal", "documents"])
def test_low_precision_is_as_good_as_sdpa(name: str, dtype: torch.dtype, backend: str) -> None:
    case = next(case for case in CASES if case.name == name)
    inputs = _inputs(case, dtype)
    grad = torch.randn(*inputs[0].shape[:3], inputs[2].shape[3]).to(dtype)
    exact = _run_dense(case, inputs, grad, torch.float64)
    found = _run(case, inputs, grad, backend)
    for got, want, peer in zip(
        found[:1] + found[3:], exact[:1] + exact[3:], _sdpa(case, inputs, grad)
    ):
        error, allowed = (got.double() - want), (peer.double() - want)
        assert error.norm() <= 1.2 * allowed.norm()
        assert error.abs().max() <= 2 * allowed.abs().max()


def _sdpa(case: Case, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    batch, heads, kv_heads, rows, keys = case.shape[:5]
    leaves = [_leaf(tensor, tensor.dtype) for tensor in inputs]
    mask_mod = case.make(case.captures)[1]
    grid = (
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(heads).view(1, -1, 1, 1),
        torch.arange(rows).view(1, 1, -1, 1),
        torch.arange(keys).view(1, 1, 1, -1),
    )
    mask = None if mask_mod is None else mask_mod(*grid).expand(batch, heads, rows, keys)
    out = torch.nn.functional.scaled_dot_product_attention(
        *leaves, attn_mask=mask, enable_gqa=heads != kv_heads
    )
    return [out, *gradients(out, leaves, grad)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows,keys", [(0, 5), (5, 0), (0, 0)])
def test_length_zero(rows: int, keys: int, backend: str) -> None:
    q = torch.randn(2, 3, rows, 4, requires_grad=True)
    k, v = (torch.randn(2, 3, keys, 4, requires_grad=True) for _ in range(2))
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, rows, keys)
    for block_mask in (None, mask):
        out, aux = flex_attention(
            q, k, v, block_mask=block_mask, return_aux=AuxRequest(lse=True), backend=backend
        )
        assert out.shape == (2, 3, rows, 4) and torch.equal(out, torch.zeros_like(out))
        assert torch.equal(aux.lse, torch.full((2, 3, rows), -math.inf))
        for grad, tensor in zip(torch.autograd.grad(out.sum(), (q, k, v)), (q, k, v), strict=True):
            assert torch.equal(grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend: str) -> None:
    q = torch.randn(0, 2, 3, 4)
    assert flex_attention(q, q, q, backend=backend).shape == (0, 2, 3, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_block_list_and_mask_mod_decide_together(backend: str) -> None:
    from flexattn import BlockMask

    counts = torch.tensor([[[1, 2, 1]]], dtype=torch.int32)
    columns = torch.tensor([[[[1, 0], [0, 2], [2, 0]]]], dtype=torch.int32)
    full_counts = torch.tensor([[[1, 0, 1]]], dtype=torch.int32)
    full_columns = torch.tensor([[[[2], [0], [1]]]], dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(
        counts,
        columns,
        full_counts,
        full_columns,
        BLOCK_SIZE=(16, 8),
        mask_mod=lambda b, h, q, k: (q + k) % 2 == 0,
        seq_lengths=(40, 24),
    )
    q, k, v = torch.randn(2, 2, 40, 8), torch.randn(2, 2, 24, 8), torch.randn(2, 2, 24, 8)
    keep = torch.zeros(48, 24, dtype=torch.bool)
    rows, cols = torch.arange(48).view(-1, 1), torch.arange(24)
    for row, col in ((0, 1), (1, 0), (1, 2), (2, 2)):
        keep |= (rows // 16 == row) & (cols // 8 == col) & ((rows + cols) % 2 == 0)
    for row, col in ((0, 2), (2, 1)):
        keep |= (rows // 16 == row) & (cols // 8 == col)
    want = dense_attention(q.double(), k.double(), v.double(), keep=keep[:40])[0]
    torch.testing.assert_close(
        flex_attention(q, k, v, block_mask=mask, backend=backend).double(), want, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs_and_their_gradients(backend: str) -> None:
    packed = torch.randn(2, 33, 3, 2, 8, requires_grad=True)  # [B, S, qkv, H, D]
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    out = flex_attention(q, k, v, backend=backend)
    assert out.transpose(1, 2).is_contiguous()
    (found,) = torch.autograd.grad(out.sum(), packed)
    leaf = packed.detach().double().requires_grad_()
    want = dense_attention(*(leaf[:, :, i].transpose(1, 2) for i in range(3)))[0]
    torch.testing.assert_close(out.double(), want, atol=1e-5, rtol=0)
    (expected,) = torch.autograd.grad(want.sum(), leaf)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend: str) -> None:
    q = torch.randn(8, 2, 21, 2).permute(3, 1, 2, 0)  # head dim outermost
    k = torch.randn(1, 1, 30, 8).expand(2, 2, 30, 8)
    v = torch.randn(2, 2, 60, 16)[:, :, ::2, ::2]
    want = dense_attention(q.double(), k.double(), v.double())[0]
    found = flex_attention(q, k, v, backend=backend)
    torch.testing.assert_close(found.double(), want, atol=1e-5, rtol=0)
    assert found.stride(-1) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2)], ids=str)
def test_output_has_the_querys_stride_order(
    order: tuple[int, ...], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (2, 3, 5)
    memory = torch.randn(*(shape[dim] for dim in order), 4)
    q = memory.permute(*(order.index(dim) for dim in range(3)), 3)
    k, v = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 7)
    out = flex_attention(q, k, v, backend=backend)
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    assert out.stride() == torch_flex.flex_attention(q, k, v).stride()


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_block_mask(backend: str) -> None:
    q, k, v = (torch.randn(1, 2, 200, 8) for _ in range(3))
    mask = torch_flex.create_block_mask(
        lambda b, h, q, k: q >= k, None, None, 200, 200, device="cpu"
    )
    found = flex_attention(q, k, v, block_mask=mask, backend=backend)
    want = dense_attention(q, k, v, None, lambda b, h, q, k: q >= k)[0]
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_and_nan_scores(backend: str) -> None:
    q = torch.randn(1, 1, 4, 4)
    k, v = torch.randn(1, 1, 70, 4), torch.randn(1, 1, 70, 4)
    q[0, 0, 1] = math.nan

    def score(s, b, h, q, k):
        return torch.where((q == 2) & (k == 3), math.inf, torch.where(q == 3, -math.inf, s))

    out = flex_attention(q, k, v, score, backend=backend)
    assert out[0, 0, 0].isfinite().all()
    assert out[0, 0, 1].isnan().all()
    assert out[0, 0, 2].isnan().all()
    assert torch.equal(out[0, 0, 3], torch.zeros(4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_returned(grad: bool, backend: str) -> None:
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=grad) for _ in range(3))

    def run(**options):
        return flex_attention(q, k, v, backend=backend, **options)

    assert isinstance(run(), Tensor)
    out, lse = run(return_lse=True)
    assert lse.shape == (1, 2, 5) and lse.dtype == torch.float32 and lse.requires_grad == grad
    assert torch.equal(run(return_aux=AuxRequest())[0], out)
    assert run(return_aux=AuxRequest())[1] == (None, None)
    aux = run(return_aux=AuxRequest(lse=True))[1]
    assert torch.equal(aux.lse, lse) and aux.max_scores is None
    aux = run(return_aux=AuxRequest(max_scores=True))[1]
    assert aux.lse is None and torch.allclose(aux.max_scores, (q @ k.mT / 2).amax(-1))
    request = torch_flex.AuxRequest(lse=True, max_scores=True)
    aux = run(return_aux=request)[1]
    assert aux.lse is not None and aux.max_scores is not None


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_beyond_32_bits(backend: str) -> None:
    q, k, v = (torch.randn(1, 2, 40, 4, requires_grad=True) for _ in range(3))
    table = torch.randn(40, requires_grad=True)
    for big in (1 << 20, 1 << 30, (1 << 40) + 3, -(1 << 55) + 1):

        def score(s, b, h, q_idx, kv_idx, big=big):
            far = (q_idx + big) * 5 - big * 5  # wraps unless computed in 64 bits
            return s + torch.where(kv_idx * big >= far, table[(kv_idx + big) % 40], 0.1)

        out = flex_attention(q, k, v, score, backend=backend)
        want = dense_attention(q, k, v, score)[0]
        torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)
        found = torch.autograd.grad(out.square().sum(), (q, k, v, table))
        expected = torch.autograd.grad(want.square().sum(), (q, k, v, table))
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)
