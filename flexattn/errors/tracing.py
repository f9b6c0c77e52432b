"""Errors of a mod that does what no kernel can; raised while it is traced."""

from __future__ import annotations

from flexattn.errors.base import FlexAttentionError


class TracedBranchError(FlexAttentionError, TypeError):
    """A mod used ``if``, ``and``, ``or``, ``not``, ``in`` or a chained comparison on a symbol.

    A mod runs once, on symbols that stand for all positions at the same time; there is no one
    truth value to branch on. Write the choice as a value: ``torch.where``, ``&``, ``|``, ``~``.

    >>> from flexattn import create_mask
    >>> def wrong(b, h, q_idx, kv_idx):
    ...     return q_idx >= kv_idx and q_idx - kv_idx < 2
    >>> create_mask(wrong, 1, 1, 3, 3)
    Traceback (most recent call last):
    flexattn.errors.TracedBranchError: mask_mod 'wrong' branches on a traced value with `and`.
      at   ...: return q_idx >= kv_idx and q_idx - kv_idx < 2
      why  the value is computed from q_idx and kv_idx, ... so it has no single truth value.
      fix  use & in place of `and`, with parentheses round each comparison.
    >>> def right(b, h, q_idx, kv_idx):
    ...     return (q_idx >= kv_idx) & (q_idx - kv_idx < 2)
    >>> create_mask(right, 1, 1, 3, 3).int()[0, 0].tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """


class TracedValueError(FlexAttentionError, TypeError):
    """A mod asked for a symbol's Python value: ``.item()``, ``int()``, ``len()``, iteration.

    The same holds for lookups in lists, dicts and sets, and for functions of ``math`` and numpy.
    Compute with torch on the symbol itself, and look values up in a captured tensor.

    >>> import torch
    >>> from flexattn import create_mask
    >>> def wrong(b, h, q_idx, kv_idx):
    ...     return kv_idx < [2, 1][h]
    >>> create_mask(wrong, 1, 2, 1, 3)
    Traceback (most recent call last):
    flexattn.errors.TracedValueError: mask_mod 'wrong' asks for the Python value of ...
    >>> limits = torch.tensor([2, 1])
    >>> create_mask(lambda b, h, q_idx, kv_idx: kv_idx < limits[h], 1, 2, 1, 3).int().tolist()
    [[[[1, 1, 0]], [[1, 0, 0]]]]
    """


class CrossPositionError(FlexAttentionError, TypeError):
    """A mod used an operation that reads other positions: ``cumsum``, ``sort``, a matmul.

    A mod sees one pair of query and key. What combines positions is computed before the call,
    captured as a tensor, and indexed.

    >>> import torch
    >>> from flexattn import create_mask
    >>> starts = torch.tensor([1, 0, 1, 0])
    >>> def wrong(b, h, q_idx, kv_idx):
    ...     return torch.cumsum(starts[q_idx], 0) == torch.cumsum(starts[kv_idx], 0)
    >>> create_mask(wrong, 1, 1, 4, 4)
    Traceback (most recent call last):
    flexattn.errors.CrossPositionError: mask_mod 'wrong' calls torch.cumsum, which reads ...
    >>> document = starts.cumsum(0)
    >>> right = lambda b, h, q_idx, kv_idx: document[q_idx] == document[kv_idx]
    >>> create_mask(right, 1, 1, 4, 4).int()[0, 0].tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """


class InPlaceError(FlexAttentionError, TypeError):
    """A mod changed the score, an index or a captured tensor in place.

    A mod is a formula: ``score += 1``, ``score.add_(1)``, ``table[h] = 0`` and ``out=`` have no
    meaning in it. Give the result a name of its own.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> def wrong(score, b, h, q_idx, kv_idx):
    ...     score += 0.5 * h
    ...     return score
    >>> flex_attention(q, k, v, wrong)
    Traceback (most recent call last):
    flexattn.errors.InPlaceError: score_mod 'wrong' changes score in place with +=.
    ...
    >>> right = lambda score, b, h, q_idx, kv_idx: score + 0.5 * h
    >>> flex_attention(q, k, v, right, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class UnsupportedOpError(FlexAttentionError, NotImplementedError):
    """A mod called a torch function that has no row in the operation table.

    ``flexattn/ir/ops.py`` lists the operations there are. What depends on captured tensors alone
    can be computed before the call; random numbers have to be.

    >>> import torch
    >>> from flexattn import create_mask
    >>> def wrong(b, h, q_idx, kv_idx):
    ...     return torch.lgamma(q_idx + 1.0) > kv_idx
    >>> create_mask(wrong, 1, 1, 4, 4)
    Traceback (most recent call last):
    flexattn.errors.UnsupportedOpError: mask_mod 'wrong' calls torch.lgamma, which cannot be ...
    >>> table = torch.lgamma(torch.arange(4) + 1.0)
    >>> create_mask(lambda b, h, q_idx, kv_idx: table[q_idx] > kv_idx, 1, 1, 4, 4).sum().item()
    3
    """


class ModReturnError(FlexAttentionError, TypeError):
    """A mask_mod did not return one bool, or a score_mod did not return one number.

    A function that decides what is seen is a mask_mod; one that changes scores is a score_mod.

    >>> from flexattn import create_mask
    >>> create_mask(lambda b, h, q_idx, kv_idx: q_idx - kv_idx, 1, 1, 2, 2)
    Traceback (most recent call last):
    flexattn.errors.ModReturnError: mask_mod '<lambda>' returns an integer, not one bool.
    ...
    >>> create_mask(lambda b, h, q_idx, kv_idx: q_idx - kv_idx >= 0, 1, 1, 2, 2).int().tolist()
    [[[[1, 0], [1, 1]]]]
    """


class ModSignatureError(FlexAttentionError, TypeError):
    """A mod is not callable, or does not take the arguments of its kind.

    They are ``(score, b, h, q_idx, kv_idx)`` for a score_mod and ``(b, h, q_idx, kv_idx)`` for a
    mask_mod, by position. What else a mod needs comes from a closure or ``functools.partial``.

    >>> from functools import partial
    >>> from flexattn import create_mask
    >>> def window(b, h, q_idx, kv_idx, size):
    ...     return q_idx - kv_idx < size
    >>> create_mask(lambda q_idx, kv_idx: q_idx >= kv_idx, 1, 1, 2, 2)
    Traceback (most recent call last):
    flexattn.errors.ModSignatureError: mask_mod '<lambda>' cannot be called with (b, h, ...
    >>> create_mask(partial(window, size=1), 1, 1, 2, 2).int().tolist()
    [[[[1, 1], [0, 1]]]]
    """


class CaptureDeviceError(FlexAttentionError, ValueError):
    """A captured tensor lies on another device than query, key and value.

    One kernel reads all of them. Move the tensor once, before the call.

    >>> import torch
    >>> from flexattn import create_block_mask
    >>> limits = torch.ones(8, device="meta")
    >>> seen = lambda b, h, q_idx, kv_idx: limits[q_idx] > kv_idx
    >>> create_block_mask(seen, 1, 1, 8, 8, device="cpu")
    Traceback (most recent call last):
    flexattn.errors.CaptureDeviceError: mask_mod captures a tensor on meta, ...
    >>> limits = torch.ones(8)
    >>> create_block_mask(seen, 1, 1, 8, 8, device="cpu").shape
    (1, 1, 8, 8)
    """


class CaptureIndexError(FlexAttentionError, IndexError):
    """A captured tensor was indexed with too few, too many, or non-integer indices.

    Each dimension takes one integer; a row that is left can be reduced, as in
    ``(table[h] == q_idx).any(-1)``. Floats are made integers with ``.long()``.

    >>> import torch
    >>> from flexattn import create_mask
    >>> keep = torch.tensor([[True, False], [True, True]])
    >>> create_mask(lambda b, h, q_idx, kv_idx: keep[h, q_idx, kv_idx], 1, 1, 2, 2)
    Traceback (most recent call last):
    flexattn.errors.CaptureIndexError: mask_mod '<lambda>' indexes a captured tensor of shape ...
    >>> create_mask(lambda b, h, q_idx, kv_idx: keep[q_idx, kv_idx], 1, 1, 2, 2).int().tolist()
    [[[[1, 0], [1, 1]]]]
    """


class CaptureDtypeError(FlexAttentionError, TypeError):
    """A captured tensor has a dtype that mods cannot read.

    Mods read bool, signed integers and uint8, bfloat16, float16, float32 and float64. Complex
    tensors are captured as two, quantised and 8-bit float ones converted.

    >>> import torch
    >>> from flexattn import create_mask
    >>> phase = torch.tensor([1 + 2j, 3 - 1j])
    >>> create_mask(lambda b, h, q_idx, kv_idx: phase[q_idx] != 0, 1, 1, 2, 1)
    Traceback (most recent call last):
    flexattn.errors.CaptureDtypeError: mask_mod '<lambda>' reads a captured tensor of ...
    >>> real, imag = phase.real, phase.imag
    >>> create_mask(lambda b, h, q_idx, kv_idx: real[q_idx] > imag[q_idx], 1, 1, 2, 1).tolist()
    [[[[False], [True]]]]
    """


class LayoutError(FlexAttentionError, ValueError):
    """A tensor does not lie in plain memory: it is sparse, nested, or its storage was freed.

    Kernels read strided memory. Sequences of different lengths are packed into one tensor and
    kept apart by a document mask.

    >>> import torch
    >>> from flexattn import create_mask
    >>> keep = torch.eye(2).to_sparse()
    >>> create_mask(lambda b, h, q_idx, kv_idx: keep[q_idx, kv_idx] > 0, 1, 1, 2, 2)
    Traceback (most recent call last):
    flexattn.errors.LayoutError: mask_mod '<lambda>' reads a captured tensor that is sparse_coo.
    ...
    >>> keep = keep.to_dense()
    >>> create_mask(lambda b, h, q_idx, kv_idx: keep[q_idx, kv_idx] > 0, 1, 1, 2, 2).sum().item()
    2
    """
