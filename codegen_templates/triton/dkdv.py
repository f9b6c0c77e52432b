"""Backward, second pass: dK = scale · dSᵀ Q, dV = Pᵀ dO, and captured gradients that go by keys.

A program owns one tile of keys of one kv head, and walks over all that read it: batches that
share the keys, the G query heads of the group, the tiles of queries. Tiles of scores stand
transposed, [BN keys, BM queries], so that Pᵀ and dSᵀ are left factors as they come. Here rows of
the block lists are blocks of keys and name blocks of queries. Queries beyond the last have no
weight, and what keys beyond the last would get is not stored; so no pair is checked for bounds.
Notation: see dq.py.
"""

import triton
import triton.language as tl

from codegen_templates.triton.gradients import (
    keeps_derivative,
    load_stats,
    open_stats,
    stats_are_padded,
    tile_score_grads,
    tile_weights,
)
from codegen_templates.triton.mods import (
    DERIVATIVE,
    HAS_KEY_GRADS,
    HAS_MASK_MOD,
    Q_RANGES,
    add_key_grads,
    begin_key_grads,
    end_key_grads,
    hoist_kv,
    hoist_q,
    hoist_uniform,
)
from codegen_templates.triton.ranges import (
    begin_ranged_walk,
    end_of_tile,
    next_ranged_tile,
    query_blocks,
)
from codegen_templates.triton.tiles import (
    add_rows,
    begin_walk,
    dot_rows,
    list_of_blocks,
    load_rows,
    next_tile,
    open_rows,
    padded_rows,
    rows_of_tile,
    scale_rows,
    store_rows,
    zero_rows,
)


@triton.jit
def dkdv_step(
    dk, dv, sums, keys, queries, grads_out, stats, scale, q0, q_last, whole, site, sizes,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, PADDED: tl.constexpr,
    BOUNDED: tl.constexpr, MASKED: tl.constexpr,
):
    """dK, dV and the sums of captured gradients after the queries [q0, min(q0 + BM, q_last))."""
    b_k, b_v = keys
    lse2, delta, first_row = stats
    captures, u, kvv, b, h, kv_idx = site
    M, grads = sizes
    F: tl.constexpr = dk[0].dtype
    LOCAL: tl.constexpr = keeps_derivative(DERIVATIVE, b_k[0].dtype, HAS_KEY_GRADS)
    row = q0 + tl.arange(0, BM)
    q_idx = (tl.minimum(row, M - 1) if BOUNDED else row)[None, :]
    qv = hoist_q(captures, u, b, h, q_idx)
    b_q = load_rows(queries, q0, D, BM, DESCRIPTORS, BOUNDED)
    dots = dot_rows(b_k, b_q, tl.zeros([BN, BM], F), PRECISION)
    real = row < q_last
    b_lse2 = load_stats(
        lse2, first_row + q0, real, float("inf"), BM, DESCRIPTORS, PADDED, BOUNDED)[None, :]
    p, kept = tile_weights(
        dots, scale, b_lse2, True, captures, u, qv, kvv, b, h, q_idx, kv_idx, whole,
        False, MASKED, LOCAL, b_k[0].dtype)
    b_do = load_rows(grads_out, q0, DV, BM, DESCRIPTORS, BOUNDED)
    dv = add_rows(dv, p, b_do, PRECISION)
    b_delta = load_stats(delta, first_row + q0, real, 0.0, BM, DESCRIPTORS, PADDED, BOUNDED)
    dp = dot_rows(b_v, b_do, tl.broadcast_to(-b_delta[None, :], [BN, BM]), PRECISION)
    ds, grad, output = tile_score_grads(
        p, dp, kept, b_lse2, captures, u, qv, kvv, b, h, q_idx, kv_idx, LOCAL)
    if HAS_KEY_GRADS:
        sums = add_key_grads(
            sums, grads, captures, u, qv, kvv, kept, output, grad, b, h, q_idx, kv_idx)
    dk = add_rows(dk, ds, b_q, PRECISION)
    return dk, dv, sums


@triton.jit
def dkdv_head(
    dk, dv, b_keys, q, grad_out, lse2, delta, strides_q, strides_do,
    b, h, Hq, M, N, scale, tables, captures, grads, j, kv0, kv_last,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):
    """dK and dV after all queries of head `h` of batch `b`."""
    b64, h64 = b.to(tl.int64), h.to(tl.int64)
    bh = b64 * Hq + h64
    kv_idx = tl.minimum(kv0 + tl.arange(0, BN)[:, None], N - 1)
    u = hoist_uniform(captures, b, h)
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    site = (captures, u, kvv, b, h, kv_idx)
    stats = (lse2, delta, bh * padded_rows(M))
    PADDED: tl.constexpr = stats_are_padded(TABLES, EVEN, BM)
    sizes = (M, grads)
    queries = open_rows(q + b64 * strides_q[0] + h64 * strides_q[1], M, strides_q[2],
                        strides_q[3], D, BM, DESCRIPTORS)
    grads_out = open_rows(grad_out + b64 * strides_do[0] + h64 * strides_do[1], M, strides_do[2],
                          strides_do[3], DV, BM, DESCRIPTORS)
    sums = begin_key_grads(BN)

    # Tiles of queries kept whole: of the listed full blocks but one that reaches beyond M.
    whole_tiles = 0
    edge_tiles = 0
    if TABLES > 0:
        q_block = tables[-2]
        each = tl.cdiv(q_block, BM)
        edge = M // q_block
    if Q_RANGES > 0:
        entries, count, others, others_count = query_blocks(
            captures, tables, b, h, j, M, N, EVEN)
        whole_tiles = count * each
        walk = begin_ranged_walk(entries, q_block, 0, BM, EVEN)
    elif TABLES == 4:
        entries, count = list_of_blocks(tables, b, h, j, True)
        if EVEN:
            at_edge = tl.load(entries + count - 1, mask=count > 0, other=-1) == edge
            edge_tiles = at_edge.to(tl.int32) * tl.cdiv(M - edge * q_block, BM)
            count = count - at_edge.to(tl.int32)
        whole_tiles = count * each
        walk = begin_walk(entries, count, each, 0, 0)
    elif TABLES == 0 and not HAS_MASK_MOD:
        whole_tiles = M // BM
    for i in tl.range(0, whole_tiles):
        if Q_RANGES > 0:
            q0 = walk[0]
            q_last = end_of_tile(walk, q_block, M, EVEN)
            walk = next_ranged_tile(entries, q_block, walk, BM, EVEN)
        elif TABLES == 0:
            q0 = tl.cast(i * BM, tl.int32)  # interpreted, i is no tensor
            q_last = M
        else:
            q0 = walk[2] * q_block + walk[1] * BM
            q_last = tl.minimum(walk[2] * q_block + q_block, M)
            walk = next_tile(entries, count, each, walk, 0)
        dk, dv, sums = dkdv_step(
            dk, dv, sums, b_keys, queries, grads_out, stats, scale, q0, q_last, True, site, sizes,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, PADDED, TABLES == 4 and not EVEN, False)

    # Other tiles: of the partial blocks, then of the full block that reaches beyond M.
    if Q_RANGES > 0:
        some = 0
        end = others_count * each
        walk = begin_ranged_walk(others, q_block, 0, BM, EVEN)
    elif TABLES == 0:
        some = whole_tiles
        end = tl.cdiv(M, BM)
    else:
        entries, count = list_of_blocks(tables, b, h, j, False)
        some = 0
        end = count * each + edge_tiles
        walk = begin_walk(entries, count, each, 0, edge)
    # What is left without lists is one tile at most, and nothing to load ahead.
    STAGES: tl.constexpr = 1 if TABLES == 0 and not HAS_MASK_MOD else None
    for i in tl.range(some, end, num_stages=STAGES):
        if Q_RANGES > 0:
            q0 = walk[0]
            q_last = end_of_tile(walk, q_block, M, EVEN)
            whole = False
            walk = next_ranged_tile(others, q_block, walk, BM, EVEN)
        elif TABLES == 0:
            q0 = tl.cast(i * BM, tl.int32)  # interpreted, i is no tensor
            q_last = M
            whole = False
        else:
            q0 = walk[2] * q_block + walk[1] * BM
            q_last = tl.minimum(walk[2] * q_block + q_block, M)
            whole = walk[0] >= count
            walk = next_tile(entries, count, each, walk, edge)
        dk, dv, sums = dkdv_step(
            dk, dv, sums, b_keys, queries, grads_out, stats, scale, q0, q_last, whole, site, sizes,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, PADDED, True, HAS_MASK_MOD)
    if HAS_KEY_GRADS:
        end_key_grads(sums, grads, captures, u, kvv, b, h, kv_idx, bh, kv0, kv_last, N, BN)
    return dk, dv


@triton.jit
def dkdv(
    q, k, v, grad_out, lse2, delta, grad_k, grad_v,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, do_b, do_h, do_m, do_d,
    dk_b, dk_h, dk_n, dv_b, dv_h, dv_n,
    B, Bkv, Hq, G, M, N, scale, tables, order, captures, grads,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    ORDERED: tl.constexpr,
):
    """The grid is (tiles of keys * Bkv * Hkv,); see kernel/triton_spec.py for the arguments."""
    F: tl.constexpr = lse2.dtype.element_ty
    heads = Hq // G
    turn = tl.program_id(0) // (Bkv * heads)
    bkv_hkv = tl.program_id(0) - turn * (Bkv * heads)
    if ORDERED:
        tile = tl.load(order + turn)
    else:
        tile = turn  # earlier keys have more queries where the mask is causal
    bkv = bkv_hkv // heads
    hkv = bkv_hkv - bkv * heads
    bkv64, hkv64 = bkv.to(tl.int64), hkv.to(tl.int64)
    j, kv0, kv_last = rows_of_tile(tile, N, tables[-1], BN, TABLES)
    keys = open_rows(k + bkv64 * k_b + hkv64 * k_h, N, k_n, k_d, D, BN, DESCRIPTORS)
    values = open_rows(v + bkv64 * v_b + hkv64 * v_h, N, v_n, v_d, DV, BN, DESCRIPTORS)
    b_keys = (
        load_rows(keys, kv0, D, BN, DESCRIPTORS, True),
        load_rows(values, kv0, DV, BN, DESCRIPTORS, True),
    )
    dk = zero_rows(D, BN, F)
    dv = zero_rows(DV, BN, F)
    PADDED: tl.constexpr = stats_are_padded(TABLES, EVEN, BM)
    all_rows = B * Hq * padded_rows(M)
    lse2_rows = open_stats(lse2, all_rows, BM, DESCRIPTORS, PADDED)
    delta_rows = open_stats(delta, all_rows, BM, DESCRIPTORS, PADDED)
    shared_by = B // Bkv
    for i in tl.range(0, shared_by * G, num_stages=1):
        i = tl.cast(i, tl.int32)
        b = bkv * shared_by + i // G
        h = hkv * G + i % G
        dk, dv = dkdv_head(
            dk, dv, b_keys, q, grad_out, lse2_rows, delta_rows, (q_b, q_h, q_m, q_d),
            (do_b, do_h, do_m, do_d), b, h, Hq, M, N, scale, tables, captures, grads,
            j, kv0, kv_last, D, DV, BM, BN, TABLES, EVEN, DESCRIPTORS, PRECISION)
    store_rows(grad_k + bkv64 * dk_b + hkv64 * dk_h, kv0, kv_last, dk_n, scale_rows(dk, scale),
               D, BN)
    store_rows(grad_v + bkv64 * dv_b + hkv64 * dv_h, kv0, kv_last, dv_n, dv, DV, BN)
