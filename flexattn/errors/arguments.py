"""Errors of the arguments of the public functions, found before anything is computed."""

from __future__ import annotations

from flexattn.errors.base import FlexAttentionError


class ShapeError(FlexAttentionError, ValueError):
    """query, key and value do not fit together, or are not four-dimensional.

    They are ``[B, Hq, M, D]``, ``[B, Hkv, N, D]`` and ``[B, Hkv, N, Dv]``; key and value may have
    a batch size of 1.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 2, 8, 4)
    >>> flex_attention(q, k, v)
    Traceback (most recent call last):
    flexattn.errors.ShapeError: query has 3 dimensions: (2, 8, 4).
    ...
    >>> flex_attention(q[None], k[None], v[None], backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class HeadCountError(FlexAttentionError, ValueError):
    """query has other heads than key and value, without ``enable_gqa`` or not a multiple.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, (k, v) = torch.randn(1, 4, 8, 4), torch.randn(2, 1, 2, 8, 4)
    >>> flex_attention(q, k, v)
    Traceback (most recent call last):
    flexattn.errors.HeadCountError: query has 4 heads, key and value have 2.
    ...
    >>> flex_attention(q, k, v, enable_gqa=True, backend="eager").shape
    torch.Size([1, 4, 8, 4])
    """


class InputDtypeError(FlexAttentionError, TypeError):
    """query, key or value has a dtype that attention is not built for.

    There are kernels for float32, bfloat16, float16 and float64.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.ones(3, 1, 2, 8, 4, dtype=torch.int64)
    >>> flex_attention(q, k, v)
    Traceback (most recent call last):
    flexattn.errors.InputDtypeError: query has dtype torch.int64.
    ...
    >>> flex_attention(q.float(), k.float(), v.float(), backend="eager").dtype
    torch.float32
    """


class MixedDtypeError(FlexAttentionError, ValueError):
    """query, key and value have different dtypes.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> flex_attention(q.bfloat16(), k, v)
    Traceback (most recent call last):
    flexattn.errors.MixedDtypeError: query, key and value have dtypes torch.bfloat16, ...
    >>> flex_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), backend="eager").dtype
    torch.bfloat16
    """


class InputDeviceError(FlexAttentionError, ValueError):
    """query, key and value lie on different devices, or on one without a backend.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> flex_attention(q, k.to("meta"), v)
    Traceback (most recent call last):
    flexattn.errors.InputDeviceError: query, key and value lie on cpu, meta and cpu.
    ...
    >>> flex_attention(q, k.to(q.device), v, backend="eager").device
    device(type='cpu')
    """


class BlockMaskError(FlexAttentionError, ValueError):
    """A BlockMask does not fit the call, or its parts do not fit together.

    A mask is made for its lengths, and for the query's batch and heads or for 1 of them, which
    all share.

    >>> import torch
    >>> from flexattn import create_block_mask, flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> causal = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx
    >>> mask = create_block_mask(causal, B=None, H=None, Q_LEN=16, KV_LEN=16)
    >>> flex_attention(q, k, v, block_mask=mask)
    Traceback (most recent call last):
    flexattn.errors.BlockMaskError: block_mask was made for lengths (16, 16), the call has (8, 8).
    ...
    >>> mask = create_block_mask(causal, B=None, H=None, Q_LEN=8, KV_LEN=8)
    >>> flex_attention(q, k, v, block_mask=mask, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class BlockMaskIndexError(BlockMaskError, IndexError):
    """A BlockMask was indexed outside its batches, heads and query blocks, or along its keys.

    ``mask[b, h, block]`` counts query blocks, not positions; key blocks stay together.

    >>> from flexattn import create_block_mask, noop_mask
    >>> mask = create_block_mask(noop_mask, 2, 1, 256, 256, BLOCK_SIZE=128)
    >>> mask[2]
    Traceback (most recent call last):
    flexattn.errors.BlockMaskIndexError: ...
    >>> mask[1, 0, 1].shape
    (1, 1, 128, 256)
    """


class BlockMaskSizeError(BlockMaskError):
    """Something that has an entry for each block was asked of a mask with too many blocks.

    A mask is kept as runs of blocks, and a causal one of a million tokens takes 300 kB. PyTorch's
    tables of it have 67 million entries, and so has ``to_dense``. Printing, ``sparsity``, ``&``,
    ``|``, ``~``, slices, ``extend_kv`` and attention itself do without.

    >>> from flexattn import create_block_mask
    >>> causal = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx
    >>> mask = create_block_mask(causal, None, None, 1 << 20, 1 << 20, device="cpu")
    >>> mask.kv_indices
    Traceback (most recent call last):
    flexattn.errors.BlockMaskSizeError: kv_indices would have 67108864 entries (268 MB).
    ...
    >>> mask[:, :, -1].kv_indices.shape
    torch.Size([1, 1, 1, 8192])
    """


class BlockMaskAttributeError(BlockMaskError, AttributeError):
    """An attribute of a BlockMask that cannot change was assigned or deleted.

    ``mask_mod`` and ``seq_lengths`` can; for other tables make another mask.

    >>> from flexattn import BlockMask, create_block_mask, noop_mask
    >>> mask = create_block_mask(noop_mask, 1, 1, 256, 256)
    >>> mask.kv_indices = mask.kv_indices.flip(-1)
    Traceback (most recent call last):
    flexattn.errors.BlockMaskAttributeError: ...
    >>> BlockMask.from_kv_blocks(mask.kv_num_blocks, mask.kv_indices.flip(-1)).shape
    (1, 1, 256, 256)
    """


class BlockMaskDeviceError(FlexAttentionError, ValueError):
    """A BlockMask lies on another device than query.

    >>> import torch
    >>> from flexattn import create_block_mask, flex_attention, noop_mask
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> mask = create_block_mask(noop_mask, 1, 1, 8, 8, device="meta")
    >>> flex_attention(q, k, v, block_mask=mask)
    Traceback (most recent call last):
    flexattn.errors.BlockMaskDeviceError: block_mask lies on meta, the query on cpu.
    ...
    >>> mask = create_block_mask(noop_mask, 1, 1, 8, 8, device=q.device)
    >>> flex_attention(q, k, v, block_mask=mask, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class ArgumentError(FlexAttentionError, ValueError):
    """Two arguments contradict each other, or a value is outside its range.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> flex_attention(q, k, v, scale=float("nan"))
    Traceback (most recent call last):
    flexattn.errors.ArgumentError: scale is nan.
    ...
    >>> flex_attention(q, k, v, scale=0.5, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class KernelOptionError(FlexAttentionError, ValueError):
    """``kernel_options`` holds an unknown key or a bad value.

    The keys are PyTorch's and ``fast_tanh`` (docs/kernel_options.md). On the CPU they are checked,
    and have no effect; on a GPU a tile that does not fit it is an error too.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> flex_attention(q, k, v, kernel_options={"BLOCK_M": 48})
    Traceback (most recent call last):
    flexattn.errors.KernelOptionError: kernel_options['BLOCK_M'] is 48.
    ...
    >>> flex_attention(q, k, v, kernel_options={"BLOCK_M": 64}, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class BackendError(FlexAttentionError, ValueError):
    """``backend`` names no backend, or one that cannot run here.

    Left out, the device decides; ``FLEXATTN_BACKEND`` stands for what is left out.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> flex_attention(q, k, v, backend="fortran")
    Traceback (most recent call last):
    flexattn.errors.BackendError: there is no backend 'fortran'.
    ...
    >>> flex_attention(q, k, v, backend="eager").shape
    torch.Size([1, 2, 8, 4])
    """


class DeterminismError(FlexAttentionError, RuntimeError):
    """A gradient was asked to repeat bit by bit, and on this GPU it cannot.

    Of a captured tensor that is indexed in no simple way, threads add into the same elements in
    whatever order they come. Asked for by ``deterministic=True``, or by
    ``torch.use_deterministic_algorithms(True)``. On the CPU every gradient repeats.

    Wrong, with a ``table`` that requires a gradient, on a GPU::

        def score_mod(score, b, h, q_idx, kv_idx):
            return score + table[(q_idx * kv_idx) % 7]

        flex_attention(query, key, value, score_mod, deterministic=True).sum().backward()

    Right: ``deterministic=False`` for this call, ``table.detach()``, or an index of one kind: by
    ``b`` and ``h``, by ``q_idx``, by ``kv_idx``, by ``q_idx - kv_idx``, or ``[q_idx, kv_idx]``.
    """


class DoubleBackwardError(FlexAttentionError, NotImplementedError):
    """A second derivative was asked for; only first ones are built.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> out = flex_attention(q.requires_grad_(), k, v, backend="eager")
    >>> (grad,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    >>> grad.square().sum().backward()
    Traceback (most recent call last):
    flexattn.errors.DoubleBackwardError: a second derivative of flex_attention was asked for.
    ...
    >>> penalty = grad.detach().square().sum()  # fine as a figure to print
    """


class ForwardADError(FlexAttentionError, NotImplementedError):
    """A forward-mode derivative was asked for; it would silently be zero.

    >>> import torch
    >>> from flexattn import flex_attention
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> attend = lambda q: flex_attention(q, k, v, backend="eager")
    >>> torch.func.jvp(attend, (q,), (q,))
    Traceback (most recent call last):
    flexattn.errors.ForwardADError: flex_attention has no forward-mode derivative.
    ...
    >>> out, vjp = torch.func.vjp(attend, q)
    >>> vjp(out)[0].shape
    torch.Size([1, 2, 8, 4])
    """
