"""``flex_attention``: checks its arguments, traces the mods, and sends the call on its way.

A call takes one of four ways, decided by who is watching:

=================================== ==========================================================
Dynamo reads this function          one node of its graph (`op/dynamo.py`)
functorch, a dispatch mode, or a    the torch operator (`op/operators.py`), which all of
tensor subclass                     PyTorch's machinery understands
autograd                            an autograd node around the kernels (`op/autograd.py`)
nobody                              the kernel
=================================== ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flexattn import knobs
from flexattn.errors import ArgumentError, BackendError, InputDeviceError
from flexattn.ir.interpreter import compute_dtype
from flexattn.masks.block_mask import BlockMask
from flexattn.op import (
    autograd,
    dynamo,
    functorch,  # noqa: F401  registers the vmap rules of the operators
    mask_reuse,
    operators,
    symbolic,
)
from flexattn.op.call import BACKENDS, forward
from flexattn.op.options import FlexKernelOptions, read_kernel_options
from flexattn.op.outputs import AuxOutput, AuxRequest
from flexattn.op.ranges import attach
from flexattn.op.request import Call, KernelOptions, Outputs
from flexattn.op.validate import (
    check_block_mask,
    check_flags,
    check_inputs,
    check_returns,
    check_scale,
)
from flexattn.trace import trace_mod


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | None = None,
    *,
    return_aux: AuxRequest | None = None,
    mask_mod: Callable[..., Any] | None = None,
    backend: str | None = None,
    deterministic: bool | None = None,
) -> Any:
    """Scaled dot-product attention with a score and a mask given as Python functions.

    ``softmax(where(mask, score_mod(q·k * scale), -inf)) @ v``, in one generated kernel and with
    a generated backward. A row with nothing to attend gives 0.

    Args:
        query: ``[B, Hq, M, D]``; float32, bfloat16, float16 or float64.
        key: ``[B, Hkv, N, D]``; a batch size of 1 is shared by all of the query's.
        value: ``[B, Hkv, N, Dv]``.
        score_mod: ``score_mod(score, b, h, q_idx, kv_idx)`` gives the score to use.
        block_mask: Which blocks to visit, and the mask_mod inside them; ours or PyTorch's.
        scale: Factor on the dot products; ``1 / sqrt(D)`` by default.
        enable_gqa: Let each key head serve ``Hq / Hkv`` query heads.
        return_lse: Return ``(out, lse)``.
        kernel_options: PyTorch's, and two of ours (docs/kernel_options.md). Tiles and the like
            take effect on GPUs; results depend on ``fast_tanh`` alone, beyond rounding.
        return_aux: Return ``(out, AuxOutput)`` with what is requested.
        mask_mod: ``mask_mod(b, h, q_idx, kv_idx)``, instead of a block mask: one is made, and
            used again while the mod's graph, numbers and captured values stay equal. To see
            that, the captured values are compared byte by byte on each call.
        backend: ``triton``, ``cpp``, ``eager``, or None for the device's own; the environment
            variable ``FLEXATTN_BACKEND`` replaces None.
        deterministic: Whether gradients of captured tensors must repeat bit by bit; by default
            as ``torch.use_deterministic_algorithms`` says. All else always does, and on the CPU
            these do too. On GPUs it costs time where many pairs share an element that is found
            by the distance ``q_idx - kv_idx`` or by both indices; where an element is found in
            any other way ``DeterminismError`` is raised.

    Returns:
        ``[B, Hq, M, Dv]`` in the query's dtype and stride order, alone or with the above.

    Raises:
        FlexAttentionError: One of its subclasses in `flexattn.errors`, for each mistake.
    """
    lse, max_scores = check_returns(return_lse, return_aux)
    if torch.compiler.is_dynamo_compiling():
        others = {"scale": scale, "enable_gqa": enable_gqa, "kernel_options": kernel_options}
        others |= {"backend": backend, "deterministic": deterministic}
        outputs = dynamo.record_attention(
            *((score_mod, mask_mod), query, key, value, block_mask, others, (lse, max_scores))
        )
        lse_out, max_out = outputs[1] if lse else None, outputs[-1] if max_scores else None
        return _returned(outputs[0], lse_out, max_out, return_aux is not None)
    if torch._C._is_any_autocast_enabled():
        query, key, value = _autocast(query, key, value)
    check_inputs(query, key, value, enable_gqa)
    kernel = () if kernel_options is None else read_kernel_options(kernel_options)
    check_flags(enable_gqa=enable_gqa, deterministic=deterministic)
    if mask_mod is not None:
        block_mask = _mask_of(mask_mod, block_mask, query, key)
    elif block_mask is not None:
        block_mask = mask_reuse.converted(block_mask)
        check_block_mask(block_mask, query, key)
        mask_mod = block_mask.mask_mod
    tables, ranges, block = mask_reuse.blocks_of(block_mask, query, kernel_options)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if isinstance(scale, torch.SymFloat):
        scale, score_mod = 1.0, symbolic.scaled(score_mod, scale)
    out, lse_out, max_out = attend(
        (score_mod, mask_mod),
        query,
        key,
        value,
        tables,
        block,
        check_scale(scale, query.shape[3]),
        choose_backend(backend, query),
        lse,
        max_scores,
        deterministic,
        kernel,
        ranges,
    )
    return _returned(out, lse_out, max_out, return_aux is not None)


def _returned(out: Tensor, lse: Tensor | None, max_scores: Tensor | None, as_aux: bool) -> Any:
    if as_aux:
        return out, AuxOutput(lse, max_scores)
    return out if lse is None else (out, lse)


def attend(
    mods: tuple[Callable[..., Any] | None, Callable[..., Any] | None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Sequence[Tensor],
    block: tuple[int, int],
    scale: float,
    backend: str,
    lse: bool,
    max_scores: bool,
    deterministic: bool = False,
    kernel: KernelOptions = (),
    ranges: Any = None,
) -> Outputs:
    """Attention with arguments that were checked: traces (score_mod, mask_mod) and runs.

    Args:
        ranges: The `op.mask_forms.KernelRanges` that stand for ``tables``, or None.
    """
    compute = compute_dtype(query.dtype)
    device = query.device
    score_mod, mask_mod = mods
    score = (
        None if score_mod is None else trace_mod(score_mod, "score", compute=compute, device=device)
    )
    mask = None if mask_mod is None else trace_mod(mask_mod, "mask", compute=compute, device=device)
    bound = symbolic.bind(score, mask, compute)
    if ranges is not None:
        bound = attach(bound, ranges.ranges, ranges.ints, ranges.captures)
    call = Call(
        *(query, key, value, bound, tables, block, scale, backend),
        *(lse, max_scores, deterministic, kernel),
    )
    tensors = (query, key, value, *bound.captures)
    if operators.is_watched(tensors):
        return operators.attend(call)
    if forward_ad._current_level >= 0:
        _refuse_tangents(tensors)
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return autograd.attend(call)
    return forward(call)


def _refuse_tangents(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if forward_ad.unpack_dual(tensor).tangent is not None:
            autograd.refuse_forward_mode()


def choose_backend(backend: str | None, query: Tensor) -> str:
    """The backend to use, after the argument, ``FLEXATTN_BACKEND`` and the device."""
    name = backend or knobs.get("FLEXATTN_BACKEND")
    if name is None:
        if query.device.type in ("cpu", "meta"):
            return "cpp"
        if query.device.type != "cuda":
            raise InputDeviceError(
                f"query lies on {query.device}.",
                why="there are kernel backends for CPU and CUDA (or ROCm) tensors only.",
                fix='move the tensors to the CPU, or pass backend="eager" for the slow reference.',
            )
        name = "triton"
    if name == "triton":
        import_module("flexattn.op.triton_device").check_device(query.device)
        return name
    if name not in BACKENDS:
        raise BackendError(
            f"there is no backend {name!r}.",
            why="the backends are " + ", ".join(BACKENDS) + ".",
            fix="pass one of them, or None; FLEXATTN_BACKEND counts where None is passed.",
        )
    if name == "cpp" and query.device.type not in ("cpu", "meta"):
        raise BackendError(
            f"backend 'cpp' cannot compute on {query.device}.",
            why="its kernels run on the CPU.",
            fix='move the tensors to the CPU, or pass backend="eager".',
        )
    return name


def _mask_of(
    mask_mod: Callable[..., Any], block_mask: BlockMask | None, query: Tensor, key: Tensor
) -> BlockMask | None:
    if block_mask is not None:
        raise ArgumentError(
            "both mask_mod and block_mask are given.",
            why="a block_mask has a mask_mod of its own.",
            fix="pass one of them, or create a block mask from and_masks(mask_mod, other).",
        )
    if operators.is_watched((query, key)):
        return None  # the values may not exist: the mod decides pair by pair
    return mask_reuse.mask_for(mask_mod, query, key)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """What autocast makes of query, key and value, as for PyTorch's flex_attention."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [
        t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    ]


def _run_recorded(
    mods: tuple[Callable[..., Any] | None, Callable[..., Any] | None],
    query: Tensor,
    rest: dict[str, Any],
) -> tuple[Tensor, ...]:
    """What `op/dynamo.py` recorded: out, and of lse and max_scores what was asked for."""
    score_mod, mask_mod = mods
    block_mask = None
    if rest["mask"] is not None:
        tables, lengths, block = rest["mask"]
        block_mask = BlockMask._make(
            tuple(tables[:2]),
            tuple(tables[2:]) or None,
            seq_lengths=tuple(lengths),
            BLOCK_SIZE=tuple(block),
            mask_mod=mask_mod,
            _q_wanted=False,
        )
        mask_mod = None
    out, aux = flex_attention(
        *(query, rest["key"], rest["value"], score_mod, block_mask),
        mask_mod=mask_mod,
        return_aux=AuxRequest(*rest["returns"]),
        **rest["others"],
    )
    return (out, *(tensor for tensor in aux if tensor is not None))


dynamo.ATTENTION.run = _run_recorded
