"""Weights of one tile of scores and the gradients through them, for the two backward kernels.

A tile is [queries, keys] or transposed; row vectors and indices come shaped to broadcast with it.
Softmax is taken in base 2. A row that has no weight or does not exist has lse2 = +inf, so that
all its weights are 0. LOCAL: what stays of a score until its gradient comes is the derivative
there, in the dtype of the inputs, instead of the score.
"""

import triton
import triton.language as tl

from codegen_templates.triton.mods import (
    DERIVATIVE,
    HAS_SCORE_MOD,
    mask_mod,
    score_mod,
    score_mod_grad,
)
from codegen_templates.triton.tiles import LN_2, LOG2_E, PADDING


@triton.constexpr_function
def keeps_derivative(derivative, dtype, has_grads):
    """Whether LOCAL is chosen: dS of 16-bit inputs is rounded to 16 bits in any case.

    Gradients of captured tensors (`has_grads`) may read the score itself.
    """
    return derivative == "score" and dtype.primitive_bitwidth == 16 and not has_grads


@triton.jit
def count_tiles(length, block, TILE: tl.constexpr, TABLES: tl.constexpr):
    """Tiles of a sequence whose blocks hold whole tiles."""
    if TABLES == 0:
        return tl.cdiv(length, TILE)
    else:
        before = tl.cdiv(length, block) - 1
        return before * tl.cdiv(block, TILE) + tl.cdiv(length - before * block, TILE)


@triton.constexpr_function
def stats_are_padded(TABLES, EVEN, BM):
    """Whether each tile of BM rows lies within the padded rows and ends where its block does."""
    return (TABLES == 0 or EVEN) and PADDING.value >= BM


@triton.constexpr_function
def stats_by_descriptor(DESCRIPTORS, PADDED, BM):
    """Whether descriptors load row values: they start at 16 bytes, and their tiles at 128."""
    return DESCRIPTORS and PADDED and BM >= 32


@triton.jit
def open_stats(base, length, BM: tl.constexpr, DESCRIPTORS: tl.constexpr, PADDED: tl.constexpr):
    """What `load_stats` reads: the values base[:length], one per padded row of all heads."""
    if stats_by_descriptor(DESCRIPTORS, PADDED, BM):
        return tl.make_tensor_descriptor(base, shape=[length], strides=[1], block_shape=[BM])
    else:
        return base


@triton.jit
def load_stats(source, start, real, other, BM: tl.constexpr, DESCRIPTORS: tl.constexpr,
               PADDED: tl.constexpr, BOUNDED: tl.constexpr):
    """The values from `start`, a 64-bit number, on; if BOUNDED `other` of rows not `real`.

    By pointers each thread fetches every value it needs by itself, which takes many instructions.
    """
    if stats_by_descriptor(DESCRIPTORS, PADDED, BM):
        return source.load([start.to(tl.int32)])
    elif BOUNDED and not PADDED:
        return tl.load(source + start + tl.arange(0, BM), mask=real, other=other)
    else:
        return tl.load(source + start + tl.arange(0, BM))


@triton.jit
def at_most_one(p):
    """Weights as they are but for rounding: products summed in another order than lse's were may
    give a score above it, of large scores by many powers of 2."""
    return tl.minimum(p, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def tile_weights(
    dots, scale, lse2, keep, captures, u, qv, kvv, b, h, q_idx, kv_idx, whole,
    BOUNDED: tl.constexpr, MASKED: tl.constexpr, LOCAL: tl.constexpr, narrow: tl.constexpr,
):
    """Weights exp(score - lse) of raw dot products, and the score (LOCAL: the derivative there).

    BOUNDED leaves out pairs that are not in `keep`; MASKED those that mask_mod drops, unless
    `whole`.
    """
    score = dots * scale
    kept = score
    if HAS_SCORE_MOD:
        modified = score_mod(
            captures, u, qv, kvv, score, dots * (scale * LOG2_E), b, h, q_idx, kv_idx)
        p = at_most_one(tl.exp2(modified.to(dots.dtype) - lse2))
        p = tl.where(lse2 == float("inf"), 0.0, p)  # the score of no row may be anything
        if LOCAL:
            one = tl.full(dots.shape, 1.0, dots.dtype)
            slope = score_mod_grad(
                captures, u, qv, kvv, score, score, one, b, h, q_idx, kv_idx)
            kept = slope.to(narrow)
    else:
        p = at_most_one(tl.exp2(dots * (scale * LOG2_E) - lse2))
    if MASKED:
        allowed = mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx) | whole
        if BOUNDED:
            allowed = allowed & keep
        p = tl.where(allowed, p, 0.0)
    elif BOUNDED:
        p = tl.where(keep, p, 0.0)
    return p, kept


@triton.jit
def tile_score_grads(
    p, dp, kept, lse2, captures, u, qv, kvv, b, h, q_idx, kv_idx, LOCAL: tl.constexpr,
):
    """Gradients at the raw scaled score and at the modified one, and the modified score.

    `dp` is the gradient at the weights less delta. Where nothing arrives nothing goes on, though
    the derivative may be infinite there.
    """
    grad = p * dp
    output = grad
    if DERIVATIVE == "output":
        output = tl.where(p > 0, (tl.log2(p) + lse2) * LN_2, 0.0)
    ds = grad
    if HAS_SCORE_MOD:
        if LOCAL:
            ds = kept.to(grad.dtype) * grad
        else:
            ds = score_mod_grad(
                captures, u, qv, kvv, kept, output, grad, b, h, q_idx, kv_idx)
        ds = tl.where(grad == 0, 0.0, ds)
    return ds, grad, output
