"""Forward: out = softmax(score_mod(scale q·k) where mask_mod) v, with lse and the row maximum.

A program takes one tile of queries of one head, and walks first over tiles of keys that are kept
whole, then over the others. Notation: tile [BM queries, BN keys]; G query heads share a kv head;
`b`, `h` batch and query head; `r` row of the block lists; `walk` see tiles.py.
"""

import triton
import triton.language as tl

from codegen_templates.triton.attend import (
    attend,
    begin_attention,
    finish_rows,
    lse_of_rows,
    peak_in_base_2,
    report_fault,
)
from codegen_templates.triton.mods import (
    HAS_MASK_MOD,
    HAS_SCORE_MOD,
    hoist_q,
    hoist_uniform,
)
from codegen_templates.triton.tiles import (
    LN_2,
    begin_walk,
    heads_by_group,
    list_of_blocks,
    load_rows,
    next_tile,
    open_rows,
    rows_of_tile,
    store_rows,
)


@triton.jit
def forward(
    q, k, v, out, lse, max,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, o_b, o_h, o_m,
    B, Hq, G, M, N, heads_at_once, scale, tables, order, captures, fault_at,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    POSITIVE_SCALE: tl.constexpr, ORDERED: tl.constexpr,
):
    """The grid is (tiles of queries * B * Hq,); see kernel/triton_spec.py for the arguments."""
    F: tl.constexpr = lse.dtype.element_ty
    # Without a score_mod the largest product is that of the largest score.
    RAW: tl.constexpr = POSITIVE_SCALE and not HAS_SCORE_MOD
    tiles = tl.num_programs(0) // (B * Hq)
    bh, turn = heads_by_group(tl.program_id(0), B * Hq, tiles, heads_at_once)
    if ORDERED:
        tile = tl.load(order + turn)
    else:
        tile = tiles - 1 - turn  # later rows have more keys where the mask is causal
    b = bh // Hq
    h = bh - b * Hq
    b64 = b.to(tl.int64)
    h64 = h.to(tl.int64)
    hkv = h64 // G
    r, q0, q_end = rows_of_tile(tile, M, tables[14], BM, TABLES)

    row = q0 + tl.arange(0, BM)[:, None]
    q_idx = tl.minimum(row, M - 1)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    places = (bh.to(tl.int64) * M + row) * N
    queries = open_rows(q + b64 * q_b + h64 * q_h, M, q_m, q_d, D, BM, DESCRIPTORS)
    keys = open_rows(k + b64 * k_b + hkv * k_h, N, k_n, k_d, D, BN, DESCRIPTORS)
    values = open_rows(v + b64 * v_b + hkv * v_h, N, v_n, v_d, DV, BN, DESCRIPTORS)
    q_tile = load_rows(queries, q0, D, BM, DESCRIPTORS, True)
    acc, total, peak, first = begin_attention(DV, BM, F)

    # Tiles of keys kept whole: of the listed full blocks but one that reaches beyond N.
    kv_block = tables[15]
    each = tl.cdiv(kv_block, BN)
    edge = N // kv_block
    whole_tiles = 0
    edge_tiles = 0
    if TABLES == 4:
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
        if TABLES == 0:
            kv0 = i * BN
            last = N
        else:
            kv0 = walk[2] * kv_block + walk[1] * BN
            last = tl.minimum(walk[2] * kv_block + kv_block, N)
            walk = next_tile(entries, count, each, walk, 0)
        acc, total, peak, first = attend(
            acc, total, peak, first, q_tile, keys, values, scale,
            kv0, last, True, captures, u, qv, b, h, q_idx, row < q_end, places, N,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, RAW, TABLES == 4 and not EVEN, False)

    # Other tiles: of the partial blocks, then of the full block that reaches beyond N.
    if TABLES == 0:
        some = whole_tiles
        end = tl.cdiv(N, BN)
    else:
        entries, count = list_of_blocks(tables, b, h, r, False)
        some = 0
        end = count * each + edge_tiles
        walk = begin_walk(entries, count, each, 0, edge)
    for i in tl.range(some, end):
        if TABLES == 0:
            kv0 = i * BN
            last = N
            whole = False
        else:
            kv0 = walk[2] * kv_block + walk[1] * BN
            last = tl.minimum(walk[2] * kv_block + kv_block, N)
            whole = walk[0] >= count
            walk = next_tile(entries, count, each, walk, edge)
        acc, total, peak, first = attend(
            acc, total, peak, first, q_tile, keys, values, scale,
            kv0, last, whole, captures, u, qv, b, h, q_idx, row < q_end, places, N,
            D, DV, BM, BN, DESCRIPTORS, PRECISION, RAW, True, HAS_MASK_MOD)

    store_rows(out + b64 * o_b + h64 * o_h, q0, q_end, o_m, finish_rows(acc, total), DV, BM)
    rows = q0 + tl.arange(0, BM)
    at = bh.to(tl.int64) * M + rows
    peak = peak_in_base_2(peak, scale, RAW)
    tl.store(lse + at, lse_of_rows(total, peak), mask=rows < q_end)
    tl.store(max + at, peak * LN_2, mask=rows < q_end)
    report_fault(first, fault_at)
