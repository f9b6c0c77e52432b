"""Attention of one tile of queries to the keys of its blocks, softmax in base 2.

Running values of the tile: `acc` (chunks of [BM, DV], weights times values), `total` ([BM], sum of
weights), `peak` ([BM], largest score), `first` (() or [BM], first key that faults). Scores and
`peak` are raw dot products if RAW, and else modified scores times log2(e).
"""

import triton
import triton.language as tl

from codegen_templates.triton.mods import (
    HAS_FAULT,
    HAS_MASK_MOD,
    HAS_SCORE_MOD,
    KV_RANGES,
    fault,
    hoist_kv,
    mask_mod,
    score_mod,
)
from codegen_templates.triton.ranges import (
    begin_ranged_walk,
    end_of_tile,
    key_blocks,
    next_ranged_tile,
)
from codegen_templates.triton.softmax import peak_or_0
from codegen_templates.triton.tiles import (
    LOG2_E,
    NO_FAULT,
    NO_KEY,
    add_rows,
    begin_walk,
    dot_rows,
    list_of_blocks,
    load_rows,
    next_tile,
    scale_rows,
    zero_rows,
)


@triton.jit
def begin_attention(DV: tl.constexpr, BM: tl.constexpr, F: tl.constexpr):
    """The running values of a tile that has met no keys."""
    peak = tl.full([BM], float("-inf"), F)
    if HAS_FAULT:
        return zero_rows(DV, BM, F), tl.zeros([BM], F), peak, (tl.full([BM], NO_KEY, tl.int32),)
    else:
        return zero_rows(DV, BM, F), tl.zeros([BM], F), peak, ()


@triton.jit
def attend(
    acc, total, peak, first, q, keys, values, scale,
    kv0, last, whole, captures, u, qv, b, h, q_idx, N,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, RAW: tl.constexpr,
    BOUNDED: tl.constexpr, MASKED: tl.constexpr,
):
    """The running values after the keys [kv0, kv0 + BN).

    BOUNDED leaves out keys from `last` on; MASKED those that mask_mod drops, unless `whole`. `h`
    may be a head per row, [BM, 1].
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
        bad = fault(captures, u, qv, kvv, s * scale, b, h, q_idx, kv_idx)
        if BOUNDED:
            bad = bad & keep
        first = (tl.minimum(first[0], tl.min(tl.where(bad, kv, NO_KEY), 1)),)
    if HAS_SCORE_MOD:
        modified = score_mod(
            captures, u, qv, kvv, s * scale, s * (scale * LOG2_E), b, h, q_idx, kv_idx)
        s = tl.broadcast_to(modified.to(F), [BM, BN])
    elif not RAW:
        s = s * (scale * LOG2_E)
    if BOUNDED:
        s = tl.where(keep, s, float("-inf"))
    top = tl.maximum(peak, tl.max(s, 1))
    safe = peak_or_0(top)
    if RAW:
        # A number given a name would be rounded to float32 by the interpreter.
        safe = safe * (scale * LOG2_E)
        p = tl.exp2(s * (scale * LOG2_E) - safe[:, None])
        shrink = tl.exp2(peak * (scale * LOG2_E) - safe)
    else:
        p = tl.exp2(s - safe[:, None])
        shrink = tl.exp2(peak - safe)
    v = load_rows(values, kv0, DV, BN, DESCRIPTORS, BOUNDED)
    acc = add_rows(scale_rows(acc, shrink[:, None]), p, v, PRECISION)
    return acc, total * shrink + tl.sum(p, 1), top, first


@triton.jit
def attend_to_keys(
    q, keys, values, scale, tables, h_list, r, split, splits,
    captures, u, qv, b, h, q_idx, M, N,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, F: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    RAW: tl.constexpr,
):
    """The running values after part `split` of `splits` of the keys in row r of (b, h_list).

    First come tiles of keys kept whole, without mask and bounds, then the others. A tile is a unit
    of work, so that parts are equal whatever the mask leaves out.
    """
    HAS_WHOLE: tl.constexpr = TABLES == 4 or (TABLES == 0 and not HAS_MASK_MOD)
    acc, total, peak, first = begin_attention(DV, BM, F)
    kv_block = tables[-1]
    each = tl.cdiv(kv_block, BN)
    edge = N // kv_block
    # A full block that reaches beyond N stands last in its list, and goes with the others.
    at_edge = 0
    edge_tiles = 0
    if KV_RANGES > 0:
        full, full_count, others, count = key_blocks(captures, tables, b, h_list, r, M, N, EVEN)
        whole_tiles = full_count * each
        tiles = whole_tiles + count * each
    elif TABLES == 0:
        whole_tiles = N // BN if HAS_WHOLE else 0
        tiles = tl.cdiv(N, BN)
    else:
        if TABLES == 4:
            full, full_count = list_of_blocks(tables, b, h_list, r, True)
            if EVEN:
                at_edge = tl.load(full + full_count - 1, mask=full_count > 0, other=-1) == edge
                edge_tiles = tl.where(at_edge, tl.cdiv(N - edge * kv_block, BN), 0)
                full_count -= at_edge.to(tl.int32)
            whole_tiles = full_count * each
        else:
            whole_tiles = 0
        others, count = list_of_blocks(tables, b, h_list, r, False)
        tiles = whole_tiles + count * each + edge_tiles
    begin = (tiles.to(tl.int64) * split // splits).to(tl.int32)
    end = (tiles.to(tl.int64) * (split + 1) // splits).to(tl.int32)

    if HAS_WHOLE:
        if KV_RANGES > 0:
            walk = begin_ranged_walk(full, kv_block, begin, BN, EVEN)
        elif TABLES == 4:
            walk = begin_walk(full, full_count, each, begin, 0)
        for i in tl.range(begin, tl.minimum(end, whole_tiles)):
            if KV_RANGES > 0:
                kv0 = walk[0]
                last = end_of_tile(walk, kv_block, N, EVEN)
                walk = next_ranged_tile(full, kv_block, walk, BN, EVEN)
            elif TABLES == 0:
                kv0 = i * BN
                last = N
            else:
                kv0 = walk[2] * kv_block + walk[1] * BN
                last = tl.minimum(walk[2] * kv_block + kv_block, N)
                walk = next_tile(full, full_count, each, walk, 0)
            acc, total, peak, first = attend(
                acc, total, peak, first, q, keys, values, scale,
                kv0, last, True, captures, u, qv, b, h, q_idx, N,
                D, DV, BM, BN, DESCRIPTORS, PRECISION, RAW, TABLES == 4 and not EVEN, False)
    begin = tl.maximum(begin, whole_tiles)
    if KV_RANGES > 0:
        walk = begin_ranged_walk(others, kv_block, begin - whole_tiles, BN, EVEN)
    elif TABLES != 0:
        walk = begin_walk(others, count, each, begin - whole_tiles, edge)
    # What is left without lists is one tile at most, and nothing to load ahead.
    STAGES: tl.constexpr = 1 if TABLES == 0 and HAS_WHOLE else None
    for i in tl.range(begin, end, num_stages=STAGES):
        if KV_RANGES > 0:
            kv0 = walk[0]
            last = end_of_tile(walk, kv_block, N, EVEN)
            whole = False
            walk = next_ranged_tile(others, kv_block, walk, BN, EVEN)
        elif TABLES == 0:
            kv0 = i * BN
            last = N
            whole = False
        else:
            kv0 = walk[2] * kv_block + walk[1] * BN
            last = tl.minimum(walk[2] * kv_block + kv_block, N)
            whole = walk[0] >= count
            walk = next_tile(others, count, each, walk, edge)
        acc, total, peak, first = attend(
            acc, total, peak, first, q, keys, values, scale,
            kv0, last, whole, captures, u, qv, b, h, q_idx, N,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, RAW, True, HAS_MASK_MOD)
    if RAW:
        peak = peak * (scale * LOG2_E)
    return acc, total, peak, first


@triton.jit
def report_fault(first, places, real, fault_at):
    """Lower fault_at[0] to the first place of this program, if there is one.

    `places` and `real`, both [BM, 1]: the place of (b, h, q, 0), and whether it is a row at all.
    """
    if HAS_FAULT:
        kv = first[0][:, None]
        at = tl.where(real & (kv != NO_KEY), places + kv, NO_FAULT)
        place = tl.min(tl.min(at, 1), 0)
        if place < NO_FAULT:
            tl.atomic_min(fault_at, place, sem="relaxed")
