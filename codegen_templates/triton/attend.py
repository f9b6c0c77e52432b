"""One step of attention: a tile of queries meets a tile of keys. Softmax is taken in base 2.

Running values of a tile of queries: `acc` (chunks of [BM, DV], weights times values), `total`
([BM], sum of weights), `peak` ([BM], largest score), `first` (() or [BM], least place that faults).
Scores and `peak` are raw dot products if RAW, and else modified scores times log2(e).
"""

import triton
import triton.language as tl

from codegen_templates.triton.mods import (
    HAS_FAULT,
    HAS_SCORE_MOD,
    fault,
    hoist_kv,
    mask_mod,
    score_mod,
)
from codegen_templates.triton.tiles import (
    LN_2,
    LOG2_E,
    NO_FAULT,
    add_rows,
    dot_rows,
    load_rows,
    scale_rows,
    zero_rows,
)


@triton.jit
def begin_attention(DV: tl.constexpr, BM: tl.constexpr, F: tl.constexpr):
    """The running values of a tile that has met no keys."""
    peak = tl.full([BM], float("-inf"), F)
    if HAS_FAULT:
        return zero_rows(DV, BM, F), tl.zeros([BM], F), peak, (tl.full([BM], NO_FAULT, tl.int64),)
    else:
        return zero_rows(DV, BM, F), tl.zeros([BM], F), peak, ()


@triton.jit
def attend(
    acc, total, peak, first, q, keys, values, scale,
    kv0, last, whole, captures, u, qv, b, h, q_idx, real, places, N,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    RAW: tl.constexpr, BOUNDED: tl.constexpr, MASKED: tl.constexpr,
):
    """The running values after the keys [kv0, kv0 + BN).

    BOUNDED leaves out keys from `last` on; MASKED those that mask_mod drops, unless `whole`. `h`
    may be a head per row, [BM, 1]. `real` and `places`, both [BM, 1], say where a fault counts
    and the place of (b, h, q, 0).
    """
    F: tl.constexpr = total.dtype
    k = load_rows(keys, kv0, D, BN, DESCRIPTORS, BOUNDED)
    s = dot_rows(q, k, tl.zeros([BM, BN], F), PRECISION)
    kv = kv0 + tl.arange(0, BN)[None, :]
    kv_idx = tl.minimum(kv, N - 1) if BOUNDED else kv
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    keep = kv < last
    if MASKED:
        keep = keep & (mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx) | whole)
    if HAS_FAULT:
        bad = fault(captures, u, qv, kvv, scale * s, b, h, q_idx, kv_idx) & real
        if BOUNDED:
            bad = bad & keep
        at = tl.min(tl.where(bad, places + kv, NO_FAULT), 1)
        first = (tl.minimum(first[0], at),)
    if HAS_SCORE_MOD:
        modified = score_mod(
            captures, u, qv, kvv, scale * s, (scale * LOG2_E) * s, b, h, q_idx, kv_idx)
        s = tl.broadcast_to(modified.to(F), [BM, BN])
    elif not RAW:
        s = (scale * LOG2_E) * s
    if BOUNDED:
        s = tl.where(keep, s, float("-inf"))
    top = tl.maximum(peak, tl.max(s, 1))
    # A row that has met no key keeps weights exp2(-inf - 0) = 0.
    safe = tl.where(top == float("-inf"), 0.0, top)
    if RAW:
        # A number given a name would be rounded to float32 by the interpreter.
        lowered = safe * (scale * LOG2_E)
        p = tl.exp2(s * (scale * LOG2_E) - lowered[:, None])
        shrink = tl.exp2(peak * (scale * LOG2_E) - lowered)
    else:
        p = tl.exp2(s - safe[:, None])
        shrink = tl.exp2(peak - safe)
    v = load_rows(values, kv0, DV, BN, DESCRIPTORS, BOUNDED)
    acc = add_rows(scale_rows(acc, shrink[:, None]), p, v, PRECISION)
    return acc, total * shrink + tl.sum(p, 1), top, first


@triton.jit
def peak_in_base_2(peak, scale, RAW: tl.constexpr):
    """The largest score times log2(e); -inf without keys."""
    if RAW:
        return peak * (scale * LOG2_E)
    else:
        return peak


@triton.jit
def lse_of_rows(total, peak):
    """Natural log of the sum of weights, from a peak in base 2; -inf without keys."""
    return (peak + tl.log2(tl.where(total == 0, 1.0, total))) * LN_2


@triton.jit
def finish_rows(acc, total):
    """Weighted means; 0 in rows without keys, where a value of inf or NaN met a weight of 0."""
    inverse = 1.0 / tl.where(total == 0, 1.0, total)
    x0 = tl.where((total == 0)[:, None], 0.0, acc[0] * inverse[:, None])
    if len(acc) > 1:
        return (x0, tl.where((total == 0)[:, None], 0.0, acc[1] * inverse[:, None]))
    else:
        return (x0,)


@triton.jit
def report_fault(first, fault_at):
    """Lower fault_at[0] to the first place of this program, if there is one."""
    if HAS_FAULT:
        place = tl.min(first[0], 0)
        if place < NO_FAULT:
            tl.atomic_min(fault_at, place, sem="relaxed")
