"""Forward: out = softmax(score_mod(scale q·k) where mask_mod) v, with lse and the row maximum.

A program takes one tile of queries of one head and all its keys, see attend.py. Notation: tile
[BM queries, BN keys]; G query heads share a kv head; `b`, `h` batch and query head; `r` row of the
block lists.
"""

import triton
import triton.language as tl

from codegen_templates.triton.attend import attend_to_keys, report_fault
from codegen_templates.triton.mods import HAS_SCORE_MOD, hoist_q, hoist_uniform
from codegen_templates.triton.softmax import lse_of_rows, mean_of_rows, natural
from codegen_templates.triton.tiles import (
    heads_by_group,
    load_rows,
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
    r, q0, q_end = rows_of_tile(tile, M, tables[-2], BM, TABLES)
    queries = open_rows(q + b64 * q_b + h64 * q_h, M, q_m, q_d, D, BM, DESCRIPTORS)
    keys = open_rows(k + b64 * k_b + hkv * k_h, N, k_n, k_d, D, BN, DESCRIPTORS)
    values = open_rows(v + b64 * v_b + hkv * v_h, N, v_n, v_d, DV, BN, DESCRIPTORS)

    row = q0 + tl.arange(0, BM)[:, None]
    q_idx = tl.minimum(row, M - 1)
    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    acc, total, peak, first = attend_to_keys(
        load_rows(queries, q0, D, BM, DESCRIPTORS, True), keys, values, scale,
        tables, h, r, 0, 1, captures, u, qv, b, h, q_idx, M, N,
        D, DV, BM, BN, F, TABLES, EVEN, DESCRIPTORS, PRECISION, RAW)

    out_rows = out + b64 * o_b + h64 * o_h
    store_rows(out_rows, q0, q_end, o_m, mean_of_rows(acc, total), DV, BM)
    rows = q0 + tl.arange(0, BM)
    at = bh.to(tl.int64) * M + rows
    tl.store(lse + at, lse_of_rows(total, peak), mask=rows < q_end)
    tl.store(max + at, natural(peak), mask=rows < q_end)
    report_fault(first, (bh.to(tl.int64) * M + row) * N, row < q_end, fault_at)
