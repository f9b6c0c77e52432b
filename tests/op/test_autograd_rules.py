"""Derivatives: finite differences, what autograd expects of a node, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from dense_attention import dense_attention
from torch.autograd import forward_ad, gradcheck

from flexattn import AuxRequest, create_block_mask, errors, flex_attention

pytestmark = pytest.mark.parametrize("backend", ["eager", "cpp"])


def _leaves(*shape: int, count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def _with_aux(backend: str, score_mod=None, block_mask=None, **options):
    def call(q, k, v, *_):
        out, aux = flex_attention(
            q,
            k,
            v,
            score_mod,
            block_mask,
            return_aux=AuxRequest(lse=True),
            backend=backend,
            **options,
        )
        return out, torch.where(aux.lse.isinf(), 0.0, aux.lse)

    return call


def test_gradcheck_plain_and_lse(backend: str) -> None:
    assert gradcheck(_with_aux(backend), _leaves(1, 2, 5, 3))


def test_gradcheck_masked_gqa(backend: str) -> None:
    q = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 2, 7, n, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    mask = create_block_mask(lambda b, h, q, k: (q + b >= k) & (q != 2), 2, 4, 5, 7, BLOCK_SIZE=2)
    assert gradcheck(_with_aux(backend, None, mask, enable_gqa=True), (q, k, v))


def test_gradcheck_captured_tensors(backend: str) -> None:
    q, k, v = _leaves(2, 2, 4, 3)
    slope, bias, gate, row = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2,), (2, 7), (), (2, 4))
    )

    def call(q, k, v, slope, bias, gate, row):
        def score(s, b, h, q_idx, kv_idx):
            s = s * torch.sigmoid(gate) + slope[h] * (kv_idx - q_idx)
            return 2 * torch.tanh(s / 2) + bias[h, q_idx - kv_idx + 3] * row[b, q_idx]

        out, lse = flex_attention(q, k, v, score, return_lse=True, backend=backend)
        return out, lse

    assert gradcheck(call, (q, k, v, slope, bias, gate, row))


def test_captured_tensor_that_is_not_a_leaf(backend: str) -> None:
    table = torch.randn(2, 9, requires_grad=True)
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))

    def run(attention):
        doubled = table.to(q.dtype).exp() * 2

        def score(s, b, h, q_idx, kv_idx):
            return s + doubled[h, kv_idx]

        return attention(q, k, v, score)

    (found,) = torch.autograd.grad(
        run(lambda *a: flex_attention(*a, backend=backend)).square().sum(), table
    )
    (want,) = torch.autograd.grad(run(lambda *a: dense_attention(*a)[0]).square().sum(), table)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_torch_work_inside_a_mod_is_differentiated(backend: str) -> None:
    table = torch.randn(2, requires_grad=True)
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))

    def score(s, b, h, q_idx, kv_idx):
        return s + table.exp().mul(3)[h] * kv_idx

    out = flex_attention(q, k, v, score, backend=backend)
    (found,) = torch.autograd.grad(out.square().sum(), table)
    (want,) = torch.autograd.grad(dense_attention(q, k, v, score)[0].square().sum(), table)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gradient", ["sum", "mean", "transposed", "partial"])
def test_gradients_of_any_strides(gradient: str, backend: str) -> None:
    q, k, v = _leaves(2, 2, 6, 4)

    def loss(out):
        match gradient:
            case "sum":
                return out.sum()
            case "mean":
                return out.mean((0, 3)).sum()
            case "transposed":
                return (out.transpose(-1, -2).contiguous() * torch.arange(6.0)).sum()
        return out[:, :, ::2, 1:].square().sum()

    found = torch.autograd.grad(loss(flex_attention(q, k, v, backend=backend)), (q, k, v))
    want = torch.autograd.grad(loss(dense_attention(q, k, v)[0]), (q, k, v))
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_tensors_with_a_pending_negation(backend: str) -> None:
    """The imaginary part of a conjugate is a view of memory that holds its opposite."""
    parts = [torch.randn(1, 2, 6, 4, dtype=torch.complex128, requires_grad=True) for _ in range(4)]
    out_grad, lse_grad = torch.randn(2, 1, 2, 6, 4, dtype=torch.complex128).conj().imag
    results = []
    for ours in (True, False):
        q, k, v, t = (part.conj().imag for part in parts)
        assert q.is_neg() and out_grad.is_neg()

        def score(s, b, h, q_idx, kv_idx, t=t):
            return s + t[b, h, q_idx, kv_idx % 4]

        if ours:
            out, lse = flex_attention(q, k, v, score, return_lse=True, backend=backend)
        else:
            out, lse, _ = dense_attention(q, k, v, score)
        found = torch.autograd.grad((out, lse), parts, (out_grad, lse_grad[..., 0]))
        results.append((out, lse, *found))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_some_inputs_need_gradients(wanted: tuple[int, ...], backend: str) -> None:
    tensors = [torch.randn(1, 2, 6, 4, dtype=torch.float64) for _ in range(3)]
    leaves = [tensors[at].requires_grad_() for at in wanted]
    found = torch.autograd.grad(flex_attention(*tensors, backend=backend).square().sum(), leaves)
    want = torch.autograd.grad(dense_attention(*tensors)[0].square().sum(), leaves)
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_unused_captures_get_none_or_zero(backend: str) -> None:
    q, k, v = _leaves(1, 1, 5, 4)
    unused, in_mask = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def score(s, b, h, q_idx, kv_idx):
        unused[kv_idx]
        return s

    mask = create_block_mask(lambda b, h, q, k: in_mask[k] < 9, None, None, 5, 5)
    out = flex_attention(q, k, v, score, mask, backend=backend)
    for grad in torch.autograd.grad(out.sum(), (unused, in_mask), allow_unused=True):
        assert grad is None or not grad.any()


def test_same_tensor_as_all_three(backend: str) -> None:
    (x,) = _leaves(1, 2, 6, 4, count=1)
    assert gradcheck(lambda x: flex_attention(x, x, x, backend=backend), (x,))


def test_lse_alone(backend: str) -> None:
    q, k, v = _leaves(1, 2, 6, 4)
    lse = flex_attention(q, k, v, return_lse=True, backend=backend)[1]
    found = torch.autograd.grad(lse.sum(), (q, k), allow_unused=True)
    want = torch.autograd.grad(dense_attention(q, k, v)[1].sum(), (q, k))
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected)


def test_max_scores_are_not_differentiable(backend: str) -> None:
    q, k, v = _leaves(1, 2, 6, 4)
    aux = flex_attention(q, k, v, return_aux=AuxRequest(max_scores=True), backend=backend)[1]
    assert aux.lse is None and not aux.max_scores.requires_grad


def test_gradients_have_the_inputs_dtype_and_strides(backend: str) -> None:
    base = torch.randn(2, 7, 3, 8, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
    table = torch.randn(3, dtype=torch.float16, requires_grad=True)
    out = flex_attention(base, base, base, lambda s, b, h, q, k: s * table[h], backend=backend)
    grad, table_grad = torch.autograd.grad(out.float().square().sum(), (base, table))
    assert grad.dtype == torch.bfloat16 and grad.stride() == base.stride()
    assert table_grad.dtype == torch.float16


def test_backward_twice_with_retained_graph(backend: str) -> None:
    q, k, v = _leaves(1, 2, 6, 4)
    out = flex_attention(q, k, v, backend=backend).sum()
    first = torch.autograd.grad(out, q, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out, q)[0])


def test_changed_input_is_noticed(backend: str) -> None:
    q, k, v = (torch.randn(1, 1, 4, 4, requires_grad=True) * 1 for _ in range(3))
    out = flex_attention(q, k, v, backend=backend).sum()
    k.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        out.backward()


def test_double_backward_is_refused(backend: str) -> None:
    q, k, v = _leaves(1, 1, 4, 4)
    out = flex_attention(q, k, v, backend=backend).square().sum()
    (grad,) = torch.autograd.grad(out, q, create_graph=True)
    assert grad.requires_grad
    with pytest.raises(errors.DoubleBackwardError):
        torch.autograd.grad(grad.square().sum(), k)
    with pytest.raises(errors.DoubleBackwardError):
        grad_q = torch.autograd.grad(
            flex_attention(q, k, v, backend=backend).sum(), q, create_graph=True
        )[0]
        grad_q.sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # make_dual's own
def test_forward_mode_is_refused(backend: str) -> None:
    q, k, v = (torch.randn(1, 1, 4, 4) for _ in range(3))
    with forward_ad.dual_level(), pytest.raises(errors.ForwardADError):
        flex_attention(forward_ad.make_dual(q, torch.ones_like(q)), k, v, backend=backend)
    table = torch.randn(4)
    with forward_ad.dual_level(), pytest.raises(errors.ForwardADError):
        dual = forward_ad.make_dual(table, torch.ones_like(table))
        leaf = q.clone().requires_grad_()
        flex_attention(leaf, k, v, lambda s, b, h, q, k: s + dual[k], backend=backend)
    with forward_ad.dual_level():
        assert flex_attention(q, k, v, backend=backend).isfinite().all()


def test_results_repeat_bit_by_bit(backend: str) -> None:
    q, k, v = (torch.randn(2, 4, 150, 16, requires_grad=True) for _ in range(3))
    table = torch.randn(4, 64, requires_grad=True)

    def score(s, b, h, q_idx, kv_idx):
        return s + table[h, (q_idx * 7 + kv_idx) % 64] + table[0, h]

    runs = []
    threads = torch.get_num_threads()
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        out = flex_attention(q, k, v, score, backend=backend)
        runs.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v, table))))
    torch.set_num_threads(threads)
    if backend == "cpp":
        for other in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(runs[1], runs[2], strict=True))


def test_where_with_an_undefined_branch(backend: str) -> None:
    q, k, v = _leaves(1, 1, 6, 4)

    def score(s, b, h, q_idx, kv_idx):
        return torch.where(s > 0, torch.sqrt(torch.where(s > 0, s, 1.0)), s)

    def unguarded(s, b, h, q_idx, kv_idx):
        return torch.where(s > 0, torch.sqrt(s), s)

    want = torch.autograd.grad(dense_attention(q, k, v, score)[0].square().sum(), (q, k, v))
    out = flex_attention(q, k, v, unguarded, backend=backend)
    for got, expected in zip(torch.autograd.grad(out.square().sum(), (q, k, v)), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_empty_rows_have_zero_gradients(backend: str) -> None:
    q, k, v = _leaves(1, 1, 6, 4)
    mask = create_block_mask(lambda b, h, q, k: q > 10, None, None, 6, 6)
    out, lse = flex_attention(q, k, v, block_mask=mask, return_lse=True, backend=backend)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(lse, torch.full_like(lse, -math.inf))
    for grad in torch.autograd.grad((out.sum(), lse.sum()), (q, k, v)):
        assert torch.equal(grad, torch.zeros_like(grad))
