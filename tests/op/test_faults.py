"""Indices outside captures, zero divisors and shift counts: the rule, and the messages."""

from __future__ import annotations

import pytest
import torch

from flexattn import create_block_mask, errors, flex_attention

pytestmark = pytest.mark.parametrize("backend", ["eager", "cpp"])


def _qkv(length: int = 20) -> list[torch.Tensor]:
    return [torch.randn(1, 2, length, 4) for _ in range(3)]


def test_index_outside_names_capture_index_and_line(backend: str) -> None:
    table = torch.randn(2, 15)

    def score(s, b, h, q, k):
        return s + table[h, k]

    with pytest.raises(errors.IndexOutOfRangeError) as caught:
        flex_attention(*_qkv(), score, backend=backend)
    message = str(caught.value)
    assert "'score'" in message and "(2, 15)" in message and "index 15" in message
    assert "table[h, k]" in message and "test_faults.py" in message
    assert isinstance(caught.value, IndexError)


def test_position_is_the_first_in_order(backend: str) -> None:
    table = torch.randn(20)
    with pytest.raises(errors.IndexOutOfRangeError, match="b=0, h=0, q_idx=7, kv_idx=13"):
        flex_attention(*_qkv(), lambda s, b, h, q, k: s + table[q + k * (q == 7)], backend=backend)


def test_masked_positions_may_index_anywhere(backend: str) -> None:
    table, q, k, v = torch.randn(15), *_qkv()
    mask = create_block_mask(lambda b, h, q, k: k < 15, None, None, 20, 20, BLOCK_SIZE=4)
    found = flex_attention(q, k, v, lambda s, b, h, q, k: s + table[k], mask, backend=backend)
    want = torch.nn.functional.scaled_dot_product_attention(
        q, k[:, :, :15], v[:, :, :15], attn_mask=table.expand(20, 15)
    )
    torch.testing.assert_close(found, want)


def test_where_guards_count(backend: str) -> None:
    table, q, k, v = torch.randn(5), *_qkv()

    def score(s, b, h, q, k):
        d = q - k
        return s + torch.where((d >= 0) & (d < 5), table[d], 0.0)

    found = flex_attention(q, k, v, score, backend=backend)
    d = torch.arange(20).view(-1, 1) - torch.arange(20)
    bias = torch.where((d >= 0) & (d < 5), table[d.clamp(0, 4)], 0.0)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(found, want)


def test_negative_indices_wrap(backend: str) -> None:
    table, q, k, v = torch.randn(20), *_qkv()
    found = flex_attention(q, k, v, lambda s, b, h, q, k: s + table[-1 - k], backend=backend)
    want = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=table.flip(0).expand(20, 20)
    )
    torch.testing.assert_close(found, want)
    with pytest.raises(errors.IndexOutOfRangeError, match="index -21"):
        flex_attention(q, k, v, lambda s, b, h, q, k: s + table[-2 - k], backend=backend)


def test_captured_indices(backend: str) -> None:
    order, table, q, k, v = torch.randperm(20), torch.randn(20), *_qkv()
    score = lambda s, b, h, q, k: s + table[order[k]]  # noqa: E731
    want = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=table[order].expand(20, 20)
    )
    torch.testing.assert_close(flex_attention(q, k, v, score, backend=backend), want)
    order[3] = 20
    with pytest.raises(errors.IndexOutOfRangeError, match="kv_idx=3"):
        flex_attention(q, k, v, score, backend=backend)


def test_zero_divisor(backend: str) -> None:
    sizes = torch.tensor([3, 0])
    with pytest.raises(errors.DivisionByZeroError) as caught:
        flex_attention(*_qkv(), lambda s, b, h, q, k: s + k // sizes[h], backend=backend)
    assert "h=1" in str(caught.value) and "sizes[h]" in str(caught.value)
    with pytest.raises(errors.DivisionByZeroError):
        flex_attention(*_qkv(), lambda s, b, h, q, k: s + q % k, backend=backend)


def test_negative_divisors_floor(backend: str) -> None:
    by, q, k, v = torch.tensor([-3, 4]), *_qkv()

    def score(s, b, h, q, k):
        return s + (q - k) // by[h] + (q - k) % by[h]

    d = torch.arange(20).view(-1, 1) - torch.arange(20)
    bias = torch.stack([d // n + d % n for n in (-3, 4)]).float()
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    torch.testing.assert_close(flex_attention(q, k, v, score, backend=backend), want)


def test_lowest_integer_divided_by_minus_one(backend: str) -> None:
    low, by, q, k, v = torch.tensor([-(2**63)]), torch.tensor([-1]), *_qkv()
    score = lambda s, b, h, q, k: s + (low[q * 0] // by[k * 0]) * 0  # noqa: E731
    assert flex_attention(q, k, v, score, backend=backend).isfinite().all()


def test_shift_count(backend: str) -> None:
    with pytest.raises(errors.ShiftRangeError):
        flex_attention(*_qkv(), lambda s, b, h, q, k: s + (q >> (k - 1)), backend=backend)
    with pytest.raises(errors.ShiftRangeError):
        flex_attention(*_qkv(80), lambda s, b, h, q, k: s + (q >> k), backend=backend)


def test_fault_in_a_mask_mod(backend: str) -> None:
    doc = torch.zeros(15, dtype=torch.long)
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 20, 20)
    mask.mask_mod = lambda b, h, q, k: doc[q] == doc[k]
    with pytest.raises(errors.IndexOutOfRangeError, match="mask_mod"):
        flex_attention(*_qkv(), block_mask=mask, backend=backend)


def test_after_a_fault_calls_work(backend: str) -> None:
    table, q, k, v = torch.randn(15), *_qkv()
    for _ in range(3):
        with pytest.raises(errors.IndexOutOfRangeError):
            flex_attention(q, k, v, lambda s, b, h, q, k: s + table[k], backend=backend)
    longer = torch.zeros(20)
    found = flex_attention(q, k, v, lambda s, b, h, q, k: s + longer[k], backend=backend)
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(q, k, v))
