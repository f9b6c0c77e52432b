"""Errors of values that are known only when the kernel runs: indices, divisors, shift counts."""

from __future__ import annotations

from flexattn.errors.base import FlexAttentionError


class IndexOutOfRangeError(FlexAttentionError, IndexError):
    """A mod read outside a captured tensor at a position that the mask keeps.

    Where the mask drops the score, or ``torch.where`` the value, any index may be asked for: a
    safe element is read instead. Negative indices count from the end, as in PyTorch.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> bias = torch.randn(5)
    >>> def wrong(score, b, h, q_idx, kv_idx):
    ...     return score + bias[q_idx - kv_idx]
    >>> flex_attention(q, k, v, wrong, backend="eager")
    Traceback (most recent call last):
    flexattn.errors.IndexOutOfRangeError: score_mod 'wrong' reads captured tensor 0 of shape ...
    >>> def right(score, b, h, q_idx, kv_idx):
    ...     distance = q_idx - kv_idx
    ...     return score + torch.where(distance.abs() < 5, bias[distance.abs()], 0.0)
    >>> flex_attention(q, k, v, right, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class DivisionByZeroError(FlexAttentionError, ZeroDivisionError):
    """A mod divided an integer by zero at a position that the mask keeps.

    ``//``, ``%`` and their torch spellings, captured divisors included. Negative divisors floor,
    as in PyTorch; floats divide by zero as floats do.

    >>> import torch
    >>> from flexattn import create_mask
    >>> sizes = torch.tensor([2, 0])
    >>> def wrong(b, h, q_idx, kv_idx):
    ...     return q_idx // sizes[h] == kv_idx // sizes[h]
    >>> create_mask(wrong, 1, 2, 2, 2)
    Traceback (most recent call last):
    flexattn.errors.DivisionByZeroError: mask_mod 'wrong' divides an integer by zero.
    ...
    >>> sizes = sizes.clamp(min=1)
    >>> create_mask(wrong, 1, 2, 2, 2).int().tolist()
    [[[[1, 1], [1, 1]], [[1, 0], [0, 1]]]]
    """


class ShiftRangeError(FlexAttentionError, ValueError):
    """A mod shifted an integer by a negative count or by 64 bits and more.

    C++ leaves such a shift undefined, so no backend computes it.

    >>> from flexattn import create_mask
    >>> create_mask(lambda b, h, q_idx, kv_idx: q_idx >> (kv_idx - 1) == 0, 1, 1, 1, 2)
    Traceback (most recent call last):
    flexattn.errors.ShiftRangeError: mask_mod '<lambda>' shifts an integer by -1 bits.
    ...
    >>> right = lambda b, h, q_idx, kv_idx: q_idx >> (kv_idx - 1).clamp(min=0) == 0
    >>> create_mask(right, 1, 1, 1, 2).tolist()
    [[[[True, True]]]]
    """
