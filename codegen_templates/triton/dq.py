"""Backward, first pass: dQ = scale · dS K, and gradients of captured tensors that go by queries.

A program takes one tile of queries of one head, as in forward.py: S = Q Kᵀ, P = exp(S - lse),
dP = dO Vᵀ - delta, dS = P dP through the derivative of score_mod. With SERIAL, one program takes
many tiles one after the other, so that sums in memory have one order.
Notation: tile [BM queries, BN keys]; G query heads share a kv head; `b`, `h` batch and query head;
`r` row of the block lists; `walk` see tiles.py.
"""

import triton
import triton.language as tl

from codegen_templates.triton.gradients import (
    count_tiles,
    keeps_derivative,
    tile_score_grads,
    tile_weights,
)
from codegen_templates.triton.mods import (
    DERIVATIVE,
    HAS_MASK_MOD,
    HAS_ROW_GRADS,
    KV_RANGES,
    add_row_grads,
    begin_row_grads,
    end_row_grads,
    hoist_kv,
    hoist_q,
    hoist_uniform,
)
from codegen_templates.triton.ranges import (
    begin_ranged_walk,
    end_of_tile,
    key_blocks,
    next_ranged_tile,
)
from codegen_templates.triton.tiles import (
    add_rows,
    begin_walk,
    dot_rows,
    heads_by_group,
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
def dq_step(
    acc, sums, rows, keys, values, scale, kv0, kv_last, whole, site, sizes, grads,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, WANT_DQ: tl.constexpr,
    SHARED: tl.constexpr, BOUNDED: tl.constexpr, MASKED: tl.constexpr,
):
    """dQ and the sums of captured gradients after the keys [kv0, min(kv0 + BN, kv_last))."""
    b_q, b_do, lse2, b_delta = rows
    captures, u, qv, b, h, q_idx, bh, chunk, q0, q_last = site
    B, Hq, M, N = sizes
    F: tl.constexpr = lse2.dtype
    LOCAL: tl.constexpr = keeps_derivative(DERIVATIVE, b_q[0].dtype, HAS_ROW_GRADS)
    kv = kv0 + tl.arange(0, BN)[None, :]
    kv_idx = tl.minimum(kv, N - 1) if BOUNDED else kv
    kvv = hoist_kv(captures, u, b, h, kv_idx)
    b_k = load_rows(keys, kv0, D, BN, DESCRIPTORS, BOUNDED)
    dots = dot_rows(b_q, b_k, tl.zeros([BM, BN], F), PRECISION)
    p, kept = tile_weights(
        dots, scale, lse2, kv < kv_last, captures, u, qv, kvv, b, h, q_idx, kv_idx, whole,
        BOUNDED, MASKED, LOCAL, b_q[0].dtype)
    b_v = load_rows(values, kv0, DV, BN, DESCRIPTORS, BOUNDED)
    dp = dot_rows(b_do, b_v, tl.broadcast_to(-b_delta, [BM, BN]), PRECISION)
    ds, grad, output = tile_score_grads(
        p, dp, kept, lse2, captures, u, qv, kvv, b, h, q_idx, kv_idx, LOCAL)
    if HAS_ROW_GRADS:
        sums = add_row_grads(
            sums, grads, captures, u, qv, kvv, kept, output, grad, b, h, q_idx, kv_idx,
            bh, chunk, B, Hq, q0, kv0, q_last, kv_last, M, N, BM, BN, SHARED)
    if WANT_DQ:
        acc = add_rows(acc, ds, b_k, PRECISION)
    return acc, sums


@triton.jit
def dq_tile(
    inputs, strides_q, strides_k, strides_v, strides_do, grad_q, strides_dq,
    B, Hq, G, M, N, scale, tables, captures, grads, bh, tile, tiles, chunk,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    WANT_DQ: tl.constexpr, SHARED: tl.constexpr,
):
    """One tile of queries of head `bh` of B * Hq, from its first key to its stores."""
    q, k, v, grad_out, lse2, delta = inputs
    F: tl.constexpr = lse2.dtype.element_ty
    b = bh // Hq
    h = bh - b * Hq
    b64, h64, bh64 = b.to(tl.int64), h.to(tl.int64), bh.to(tl.int64)
    hkv = h64 // G
    r, q0, q_last = rows_of_tile(tile, M, tables[-2], BM, TABLES)
    row = q0 + tl.arange(0, BM)[:, None]
    q_idx = tl.minimum(row, M - 1)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    site = (captures, u, qv, b, h, q_idx, bh64, chunk, q0, q_last)
    sizes = (B, Hq, M, N)

    queries = open_rows(q + b64 * strides_q[0] + h64 * strides_q[1], M, strides_q[2],
                        strides_q[3], D, BM, DESCRIPTORS)
    grads_out = open_rows(grad_out + b64 * strides_do[0] + h64 * strides_do[1], M, strides_do[2],
                          strides_do[3], DV, BM, DESCRIPTORS)
    keys = open_rows(k + b64 * strides_k[0] + hkv * strides_k[1], N, strides_k[2],
                     strides_k[3], D, BN, DESCRIPTORS)
    values = open_rows(v + b64 * strides_v[0] + hkv * strides_v[1], N, strides_v[2],
                       strides_v[3], DV, BN, DESCRIPTORS)
    of_row = bh64 * padded_rows(M) + row
    rows = (
        load_rows(queries, q0, D, BM, DESCRIPTORS, True),
        load_rows(grads_out, q0, DV, BM, DESCRIPTORS, True),
        tl.load(lse2 + of_row, mask=row < q_last, other=float("inf")),
        tl.load(delta + of_row, mask=row < q_last, other=0.0),
    )
    acc = zero_rows(D, BM, F)
    sums = begin_row_grads(BM)

    # Tiles of keys kept whole: of the listed full blocks but one that reaches beyond N.
    whole_tiles = 0
    edge_tiles = 0
    if TABLES > 0:
        kv_block = tables[-1]
        each = tl.cdiv(kv_block, BN)
        edge = N // kv_block
    if KV_RANGES > 0:
        entries, count, others, others_count = key_blocks(
            captures, tables, b, h, r, M, N, EVEN)
        whole_tiles = count * each
        walk = begin_ranged_walk(entries, kv_block, 0, BN, EVEN)
    elif TABLES == 4:
        entries, count = list_of_blocks(tables, b, h, r, True)
        if EVEN:
            at_edge = tl.load(entries + count - 1, mask=count > 0, other=-1) == edge
            edge_tiles = at_edge.to(tl.int32) * tl.cdiv(N - edge * kv_block, BN)
            count = count - at_edge.to(tl.int32)
        whole_tiles = count * each
        walk = begin_walk(entries, count, each, 0, 0)
    elif TABLES == 0 and not HAS_MASK_MOD:
        whole_tiles = N // BN
    for i in tl.range(0, whole_tiles):
        if KV_RANGES > 0:
            kv0 = walk[0]
            kv_last = end_of_tile(walk, kv_block, N, EVEN)
            walk = next_ranged_tile(entries, kv_block, walk, BN, EVEN)
        elif TABLES == 0:
            kv0 = tl.cast(i * BN, tl.int32)  # interpreted, i is no tensor
            kv_last = N
        else:
            kv0 = walk[2] * kv_block + walk[1] * BN
            kv_last = tl.minimum(walk[2] * kv_block + kv_block, N)
            walk = next_tile(entries, count, each, walk, 0)
        acc, sums = dq_step(
            acc, sums, rows, keys, values, scale, kv0, kv_last, True, site, sizes, grads,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, WANT_DQ, SHARED,
            TABLES == 4 and not EVEN, False)

    # Other tiles: of the partial blocks, then of the full block that reaches beyond N.
    if KV_RANGES > 0:
        some = 0
        end = others_count * each
        walk = begin_ranged_walk(others, kv_block, 0, BN, EVEN)
    elif TABLES == 0:
        some = whole_tiles
        end = tl.cdiv(N, BN)
    else:
        entries, count = list_of_blocks(tables, b, h, r, False)
        some = 0
        end = count * each + edge_tiles
        walk = begin_walk(entries, count, each, 0, edge)
    # What is left without lists is one tile at most, and nothing to load ahead.
    STAGES: tl.constexpr = 1 if TABLES == 0 and not HAS_MASK_MOD else None
    for i in tl.range(some, end, num_stages=STAGES):
        if KV_RANGES > 0:
            kv0 = walk[0]
            kv_last = end_of_tile(walk, kv_block, N, EVEN)
            whole = False
            walk = next_ranged_tile(others, kv_block, walk, BN, EVEN)
        elif TABLES == 0:
            kv0 = tl.cast(i * BN, tl.int32)  # interpreted, i is no tensor
            kv_last = N
            whole = False
        else:
            kv0 = walk[2] * kv_block + walk[1] * BN
            kv_last = tl.minimum(walk[2] * kv_block + kv_block, N)
            whole = walk[0] >= count
            walk = next_tile(entries, count, each, walk, edge)
        acc, sums = dq_step(
            acc, sums, rows, keys, values, scale, kv0, kv_last, whole, site, sizes, grads,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, WANT_DQ, SHARED, True, HAS_MASK_MOD)

    if WANT_DQ:
        store_rows(grad_q + b64 * strides_dq[0] + h64 * strides_dq[1], q0, q_last, strides_dq[2],
                   scale_rows(acc, scale), D, BM)
    if HAS_ROW_GRADS:
        end_row_grads(sums, grads, captures, u, qv, b, h, q_idx, bh64, chunk, B, Hq, q0, q_last,
                      M, N, tile, tiles, BM)


@triton.jit
def dq(
    q, k, v, grad_out, lse2, delta, grad_q,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, do_b, do_h, do_m, do_d,
    dq_b, dq_h, dq_m,
    B, Hq, G, M, N, heads_at_once, scale, tables, order, captures, grads,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    ORDERED: tl.constexpr, WANT_DQ: tl.constexpr, SHARED: tl.constexpr, SERIAL: tl.constexpr,
):
    """The grid is (tiles of queries * B * Hq,), or with SERIAL (heads_at_once,).

    Of SERIAL programs, number c takes the tiles t of all heads with t % heads_at_once == c.
    See kernel/triton_spec.py for the arguments.
    """
    inputs = (q, k, v, grad_out, lse2, delta)
    strides_q, strides_k = (q_b, q_h, q_m, q_d), (k_b, k_h, k_n, k_d)
    strides_v, strides_do = (v_b, v_h, v_n, v_d), (do_b, do_h, do_m, do_d)
    strides_dq = (dq_b, dq_h, dq_m)
    tiles = count_tiles(M, tables[-2], BM, TABLES)
    pid = tl.program_id(0)
    if SERIAL:
        for head in tl.range(0, B * Hq, num_stages=1):
            bh = tl.cast(head, tl.int32)  # interpreted, head is no tensor
            for t in tl.range(pid, tiles, heads_at_once, num_stages=1):
                tile = tl.cast(t, tl.int32)
                dq_tile(inputs, strides_q, strides_k, strides_v, strides_do, grad_q, strides_dq,
                        B, Hq, G, M, N, scale, tables, captures, grads, bh, tile, tiles, pid,
                        D, DV, BM, BN, TABLES, EVEN, DESCRIPTORS, PRECISION, WANT_DQ, SHARED)
                tl.debug_barrier()
    else:
        bh, turn = heads_by_group(pid, B * Hq, tiles, heads_at_once)
        if ORDERED:
            tile = tl.load(order + turn)
        else:
            tile = tiles - 1 - turn  # later rows have more keys where the mask is causal
        dq_tile(inputs, strides_q, strides_k, strides_v, strides_do, grad_q, strides_dq,
                B, Hq, G, M, N, scale, tables, captures, grads, bh, tile, tiles, 0,
                D, DV, BM, BN, TABLES, EVEN, DESCRIPTORS, PRECISION, WANT_DQ, SHARED)
