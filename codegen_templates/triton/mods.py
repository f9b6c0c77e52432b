"""The hook interface between a kernel and the traced mods; the marked region is replaced.

Every function here takes scalars and tensors of any shapes that broadcast: a kernel whose tile is
[queries, keys] passes q_idx as [BM, 1] and kv_idx as [1, BN], one that works on the transposed
tile passes [1, BM] and [BN, 1], and decoding passes a head per row. Indices never leave [0, M) and
[0, N). `captures` holds address, sizes and strides of each captured tensor, then the lifted
numbers. `u`, `qv` and `kvv` are what the hoist functions returned.
"""

import triton
import triton.language as tl

# >>> mods
HAS_SCORE_MOD: tl.constexpr = tl.constexpr(False)
HAS_MASK_MOD: tl.constexpr = tl.constexpr(False)
HAS_FAULT: tl.constexpr = tl.constexpr(False)
# What score_mod_grad reads beside `grad`: "none", "output" (the modified score) or "score".
DERIVATIVE: tl.constexpr = tl.constexpr("none")
# Whether captured tensors get gradients in the kernel for dQ, and in the one for dK and dV.
HAS_ROW_GRADS: tl.constexpr = tl.constexpr(False)
HAS_KEY_GRADS: tl.constexpr = tl.constexpr(False)
# How many ranges tell which blocks to visit, of keys for a query and of queries for a key; 0: the
# block lists do.
KV_RANGES: tl.constexpr = tl.constexpr(0)
Q_RANGES: tl.constexpr = tl.constexpr(0)


@triton.jit
def kv_ranges(captures, b, h, q_idx):
    """Low and high, 64 bits, of each range of keys of one query (a scalar), one after the other.

    Half-open; they may lie outside [0, N).
    """
    return ()


@triton.jit
def q_ranges(captures, b, h, kv_idx):
    """The same for the queries of one key."""
    return ()


@triton.jit
def hoist_uniform(captures, b, h):
    """Values of (b, h) alone, as a tuple."""
    return ()


@triton.jit
def hoist_q(captures, u, b, h, q_idx):
    """Values of (b, h, q_idx), as a tuple."""
    return ()


@triton.jit
def hoist_kv(captures, u, b, h, kv_idx):
    """Values of (b, h, kv_idx), as a tuple."""
    return ()


@triton.jit
def mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx):
    """Whether the pair is kept."""
    return (q_idx >= 0) & (kv_idx >= 0)


@triton.jit
def score_mod(captures, u, qv, kvv, score, score_log2, b, h, q_idx, kv_idx):
    """log2(e) times the modified score; `score` is scale * q.k, `score_log2` log2(e) times it."""
    return score_log2


@triton.jit
def fault(captures, u, qv, kvv, score, b, h, q_idx, kv_idx):
    """Whether the pair reads outside a capture; the kernel leaves out pairs that the mask drops."""
    return (q_idx < 0) & (kv_idx < 0)


@triton.jit
def score_mod_grad(captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx):
    """Gradient at the raw scaled score, linear in `grad`, the one at the modified score.

    `output` is the modified score (natural domain), of meaning when DERIVATIVE is "output".
    """
    return grad


@triton.jit
def begin_row_grads(BM: tl.constexpr):
    """Accumulators of one tile of queries, as a tuple."""
    return ()


@triton.jit
def add_row_grads(
    sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx,
    bh, chunk, B, Hq, q0, kv0, q_last, kv_last, M, N,
    BM: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr,
):
    """The accumulators after one tile [BM, BN] at (q0, kv0).

    `grad` is 0 where the mask drops the pair or it lies outside [q_last, kv_last]: such a pair
    must add exactly 0, whatever the derivative is. From q_last and kv_last on, pairs are another
    tile's, whose plain stores must not be overwritten.
    """
    return sums


@triton.jit
def end_row_grads(sums, grads, captures, u, qv, b, h, q_idx, bh, chunk, B, Hq, q0, last, M, N, tile,
                  tiles, BM: tl.constexpr):
    """Store the accumulators of tile number `tile` of `tiles`: queries q0 .. `last`, exclusive."""


@triton.jit
def begin_key_grads(BN: tl.constexpr):
    """Accumulators of one tile of keys of one query head, as a tuple."""
    return ()


@triton.jit
def add_key_grads(sums, grads, captures, u, qv, kvv, score, output, grad, b, h, q_idx, kv_idx):
    """The accumulators after one transposed tile [BN, BM]; see add_row_grads for `grad`."""
    return sums


@triton.jit
def end_key_grads(sums, grads, captures, u, kvv, b, h, kv_idx, bh, kv0, last, N, BN: tl.constexpr):
    """Store the accumulators of the keys from kv0 up to but not including `last`."""
# <<< mods
