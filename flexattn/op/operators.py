"""The torch operators that stand for attention inside graphs: schema, kernel, shapes, derivative.

They describe themselves: the mods travel as program text, captured tensors and lifted numbers
as arguments, so that a graph holding one can be stored and run in another process. One operator
per direction, and one that makes the block tables of a mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from flexattn.errors import DoubleBackwardError, ForwardADError
from flexattn.op.blocks import run_blocks
from flexattn.op.call import run_backward, run_forward
from flexattn.op.flops import when_counted
from flexattn.op.outputs import dense_strides, empty_like_query
from flexattn.op.programs import Bound, variant_of_text
from flexattn.op.ranges import listed_blocks
from flexattn.op.request import Call, Outputs

LIBRARY = torch.library.Library("flexattn", "DEF")
_PLAIN = (Tensor, torch.nn.Parameter)
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

LIBRARY.define(
    "forward(Tensor query, Tensor key, Tensor value, Tensor[] captures, Tensor[] tables,"
    " str program, SymInt[] ints, float[] floats, float scale, str options)"
    " -> (Tensor out, Tensor lse, Tensor max_scores)",
    tags=_TAGS,
)
LIBRARY.define(
    "backward(Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, Tensor grad_out,"
    " Tensor? grad_lse, Tensor[] captures, Tensor[] tables, str program, int[] grads,"
    " SymInt[] ints, float[] floats, float scale, str options)"
    " -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor[] grad_captures)",
    tags=_TAGS,
)
LIBRARY.define(
    "blocks(Tensor[] captures, str program, SymInt[] ints, float[] floats, SymInt batch,"
    " SymInt heads, SymInt q_len, SymInt kv_len, int q_block, int kv_block,"
    " bool separate_full, Device device) -> Tensor[]",
    tags=_TAGS,
)

forward_op = torch.ops.flexattn.forward.default
backward_op = torch.ops.flexattn.backward.default
blocks_op = torch.ops.flexattn.blocks.default


def is_watched(tensors: Sequence[Tensor]) -> bool:
    """Whether something of PyTorch's needs to see a call on ``tensors`` as an operator."""
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack():
        return True
    for tensor in tensors:  # noqa: SIM110  any() with a generator costs twice as much
        if type(tensor) not in _PLAIN or tensor.is_meta:
            return True
    return False


def attend(call: Call) -> Outputs:
    """The call as an operator, for whoever watches operators."""
    bound = call.bound
    out, lse, max_scores = forward_op(
        *(call.query, call.key, call.value, list(bound.captures), list(call.tables)),
        *(bound.variant.text, bound.ints, bound.floats, call.scale, call.options()),
    )
    return out, lse if call.lse else None, max_scores if call.max_scores else None


def block_tables(
    bound: Bound,
    shape: tuple[int, int, int, int],
    block: tuple[int, int],
    separate_full: bool,
    device: torch.device,
) -> list[Tensor]:
    """``run_blocks`` as an operator, for a mask of ``shape`` (B, H, Q_LEN, KV_LEN)."""
    tables: list[Tensor] = blocks_op(
        *(list(bound.captures), bound.variant.text, bound.ints, bound.floats),
        *(*shape, *block, separate_full, device),
    )
    return tables


# The kernels ----------------------------------------------------------------------------------


LIBRARY.impl("forward", run_forward, "CompositeExplicitAutograd")
LIBRARY.impl("backward", run_backward, "CompositeExplicitAutograd")
# Without captures there is no tensor argument to dispatch on.
LIBRARY.impl("blocks", run_blocks, "CompositeExplicitAutograd")
LIBRARY.impl("blocks", run_blocks, "BackendSelect")


# Shapes and strides ---------------------------------------------------------------------------


@torch.library.register_fake("flexattn::forward", lib=LIBRARY)
def _forward_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    captures: Sequence[Tensor],
    tables: Sequence[Tensor],
    program: str,
    ints: Sequence[int],
    floats: Sequence[float],
    scale: float,
    options: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, length, _ = query.shape
    wants = _options(options)
    rows = (batch, heads, length)
    stats = torch.float64 if query.dtype == torch.float64 else torch.float32
    lse = query.new_empty(rows if wants["lse"] else (0,), dtype=stats)
    max_scores = query.new_empty(rows if wants["max"] else (0,), dtype=stats)
    return empty_like_query(query, (*rows, value.shape[3])), lse, max_scores


@torch.library.register_fake("flexattn::backward", lib=LIBRARY)
def _backward_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    captures: Sequence[Tensor],
    tables: Sequence[Tensor],
    program: str,
    grads: Sequence[int],
    ints: Sequence[int],
    floats: Sequence[float],
    scale: float,
    options: str,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    grad_query, grad_key, grad_value = (
        tensor.new_empty_strided(tensor.shape, dense_strides(tensor))
        for tensor in (query, key, value)
    )
    return (
        grad_query,
        grad_key,
        grad_value,
        [captures[i].new_empty(captures[i].shape) for i in grads],
    )


@torch.library.register_fake("flexattn::blocks", lib=LIBRARY)
def _blocks_shapes(
    captures: Sequence[Tensor],
    program: str,
    ints: Sequence[int],
    floats: Sequence[float],
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    q_block: int,
    kv_block: int,
    separate_full: bool,
    device: torch.device,
) -> list[Tensor]:
    rows = (q_len + q_block - 1) // q_block
    cols = (kv_len + kv_block - 1) // kv_block
    shapes = [(batch, heads, rows), (batch, heads, rows, cols)] * (2 if separate_full else 1)
    return [torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes]


@lru_cache(maxsize=256)
def _options(text: str) -> dict[str, Any]:
    return json.loads(text)


@lru_cache(maxsize=256)
def _differentiated(text: str) -> str:
    """``options`` of a forward whose backward follows and reads lse."""
    options = {**json.loads(text), "lse": True, "differentiated": True}
    return json.dumps(options, sort_keys=True, separators=(",", ":"))


# Derivatives ----------------------------------------------------------------------------------
# Below autograd both functions redispatch, so that functorch, functionalization, tracing and the
# kernel follow in PyTorch's own order. They are of the single-level kind because the dispatcher,
# not `autograd.Function`, peels off one functorch transform at a time.


@contextmanager
def _below_autograd() -> Iterator[None]:
    with torch._C._AutoDispatchBelowAutograd():
        if not torch._C._are_functorch_transforms_active():
            yield
            return
        # Inside `forward` gradients are off; the next transform further out must record again.
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            yield


class _Forward(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, keyset, tables, program, ints, floats, scale, options, *tensors):  # type: ignore[no-untyped-def]
        query, key, value, *captures = tensors
        with _below_autograd():
            out, lse, max_scores = forward_op.redispatch(
                keyset & torch._C._after_autograd_keyset,
                *(query, key, value, captures, tables, program, ints, floats, scale, options),
            )
        ctx.save_for_backward(query, key, value, out, lse, *captures, *tables)
        ctx.rest = program, ints, floats, scale, options
        ctx.count = len(captures)
        ctx.mark_non_differentiable(max_scores)
        ctx.set_materialize_grads(False)
        return out, lse, max_scores

    @staticmethod
    def backward(ctx, grad_out, grad_lse, _):  # type: ignore[no-untyped-def]
        query, key, value, out, lse, *others = ctx.saved_tensors
        captures, tables = others[: ctx.count], others[ctx.count :]
        needed = ctx.needs_input_grad[7:]
        none = (None,) * 7
        if grad_out is None and grad_lse is None:
            return none + (None,) * len(needed)
        program, ints, floats, scale, options = ctx.rest
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        grads = [i for i, need in enumerate(needed[3:]) if need]
        *grad_qkv, grad_captures = backward_op(
            *(query, key, value, out, lse, grad_out, grad_lse, captures, tables),
            *(program, grads, ints, floats, scale, options),
        )
        by_capture = dict(zip(grads, grad_captures))
        qkv = (grad if need else None for grad, need in zip(grad_qkv, needed))
        return *none, *qkv, *(by_capture.get(i) for i in range(ctx.count))

    @staticmethod
    def jvp(ctx, *tangents):  # type: ignore[no-untyped-def]
        raise ForwardADError(
            "flex_attention has no forward-mode derivative.",
            why="its kernels compute the output and, in a second pass, reverse-mode gradients.",
            fix="use reverse mode: torch.autograd.grad, torch.func.grad, vjp or jacrev.",
        )


class _Backward(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, keyset, arguments, *tensors):  # type: ignore[no-untyped-def]
        with _below_autograd():
            *grads, captures = backward_op.redispatch(
                keyset & torch._C._after_autograd_keyset, *arguments
            )
        ctx.set_materialize_grads(False)
        return *grads, *captures

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        raise DoubleBackwardError(
            "flex_attention has no second derivative.",
            why="its backward kernel is not itself differentiable.",
            fix="differentiate once, without create_graph=True; for a gradient penalty compute "
            "that attention from torch operations.",
        )

    jvp = staticmethod(_Forward.jvp)


for _function in (_Forward, _Backward):
    # Compiled autograd names a backward node by its class, as it does for autograd.Function.
    _function._compiled_autograd_key = staticmethod(lambda ctx: (ctx._autograd_function_id,))


def _forward_autograd(
    keyset, query, key, value, captures, tables, program, ints, floats, scale, options
):  # type: ignore[no-untyped-def]
    tensors = (query, key, value, *captures)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        options = _differentiated(options)
    with enable_single_level_autograd_function():
        return _Forward.apply(keyset, tables, program, ints, floats, scale, options, *tensors)


def _backward_autograd(keyset, *arguments):  # type: ignore[no-untyped-def]
    tensors = [*arguments[:7], *arguments[7]]
    with enable_single_level_autograd_function():
        grads = _Backward.apply(keyset, arguments, *tensors)
    return *grads[:3], list(grads[3:])


LIBRARY.impl("forward", _forward_autograd, "Autograd", with_keyset=True)
LIBRARY.impl("backward", _backward_autograd, "Autograd", with_keyset=True)


# FLOPs ----------------------------------------------------------------------------------------


def _kept_pairs(
    query: Tensor, key: Tensor, bound: Bound, tables: Sequence[Tensor], options: str
) -> int:
    """Number of (query, key) pairs in blocks that are visited, over all batches and heads."""
    batch, heads, length, _ = query.shape
    dense = batch * heads * length * key.shape[2]
    values = (query, *bound.captures, *tables)
    if any(isinstance(tensor, torch._subclasses.FakeTensor) for tensor in values):
        return dense
    block: tuple[int, int] = tuple(_options(options)["block"])  # type: ignore[assignment]
    if bound.variant.program.ranges is not None:
        shape = (batch, heads, length, key.shape[2])
        listed = listed_blocks(bound, shape, block, query.device)
        counts = sum(blocks.expand(batch, heads, -1, -1).sum() for blocks in listed)
    elif tables:
        counts = sum(table.expand(batch, heads, -1).sum() for table in tables[::2])
    else:
        return dense
    return min(dense, int(counts) * block[0] * block[1])


def _forward_flops(
    query, key, value, captures, tables, program, ints, floats, scale, options, out_val=None, **_
):  # type: ignore[no-untyped-def]
    """Two multiply-adds per pair and head dimension: query·key and p·value."""
    bound = Bound(variant_of_text(program), captures, ints, floats)
    pairs = _kept_pairs(query, key, bound, tables, options)
    return 2 * pairs * (query.shape[3] + value.shape[3])


def _backward_flops(query, key, value, *rest, out_val=None, **_):  # type: ignore[no-untyped-def]
    """Five products: the scores again, dQ and dK over D; dP and dV over Dv."""
    captures, tables, program, _, ints, floats, _, options = rest[4:]
    bound = Bound(variant_of_text(program), captures, ints, floats)
    pairs = _kept_pairs(query, key, bound, tables, options)
    return 2 * pairs * (3 * query.shape[3] + 2 * value.shape[3])


when_counted(
    {torch.ops.flexattn.forward: _forward_flops, torch.ops.flexattn.backward: _backward_flops}
)
