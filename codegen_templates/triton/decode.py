"""Decode: few queries against many keys, split among programs; combine.py joins the parts.

Split s takes tiles [s * T / splits, (s + 1) * T / splits) of the T tiles of keys that the block
lists hold, so that splits are equal whatever the mask leaves out. With PACK the rows of a tile are
the G heads of a kv head, query after query: row i is head hkv * G + i % G and query i // G.
Without PACK they are queries of one head. Block lists have one row, M queries or more.

A part is `part_out` (sum of weights times values, not divided by the sum of weights), `part_max`
(largest score times log2(e), -inf without keys) and `part_sum` (sum of weights), contiguous
[splits, B, Hq, M (, DV)].
"""

import triton
import triton.language as tl

from codegen_templates.triton.attend import attend_to_keys, report_fault
from codegen_templates.triton.mods import HAS_SCORE_MOD, hoist_q, hoist_uniform
from codegen_templates.triton.tiles import chunk_of, open_rows


@triton.jit
def gather_columns(addresses, mask, stride, first: tl.constexpr, COLUMNS: tl.constexpr,
                   D: tl.constexpr):
    """Columns [first, first + COLUMNS) of rows anywhere: `addresses` and `mask` are [BM, 1]."""
    col = first + tl.arange(0, COLUMNS)[None, :]
    return tl.load(addresses + col * stride, mask=mask & (col < D), other=0.0)


@triton.jit
def gather_rows(addresses, mask, stride, D: tl.constexpr):
    """A tile of rows anywhere."""
    D0: tl.constexpr = chunk_of(D, 0)
    D1: tl.constexpr = chunk_of(D, 1)
    x0 = gather_columns(addresses, mask, stride, 0, D0, D)
    if D1 > 0:
        return (x0, gather_columns(addresses, mask, stride, D0, D1, D))
    else:
        return (x0,)


@triton.jit
def scatter_rows(addresses, mask, values, D: tl.constexpr):
    """Store a tile to rows anywhere, whose columns are contiguous."""
    D0: tl.constexpr = chunk_of(D, 0)
    D1: tl.constexpr = chunk_of(D, 1)
    col = tl.arange(0, D0)[None, :]
    tl.store(addresses + col, values[0].to(addresses.dtype.element_ty), mask=mask & (col < D))
    if D1 > 0:
        col = D0 + tl.arange(0, D1)[None, :]
        tl.store(addresses + col, values[1].to(addresses.dtype.element_ty), mask=mask & (col < D))


@triton.jit
def decode(
    q, k, v, part_out, part_max, part_sum,
    q_b, q_h, q_m, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d,
    B, Hq, G, M, N, splits, scale, tables, captures, fault_at,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TABLES: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    POSITIVE_SCALE: tl.constexpr, PACK: tl.constexpr,
):
    """The grid is (B * heads * splits * row tiles,), row tiles fastest.

    With PACK heads = Hq / G and row tiles = cdiv(G * M, BM), else Hq and cdiv(M, BM).
    """
    F: tl.constexpr = part_max.dtype.element_ty
    RAW: tl.constexpr = POSITIVE_SCALE and not HAS_SCORE_MOD
    heads = Hq // G if PACK else Hq
    count = G * M if PACK else M
    row_tiles = tl.cdiv(count, BM)
    pid = tl.program_id(0)
    split = pid // row_tiles % splits
    unit = pid // row_tiles // splits
    b = unit // heads
    first_head = (unit - b * heads) * (G if PACK else 1)
    row = pid % row_tiles * BM + tl.arange(0, BM)[:, None]
    real = row < count
    if PACK:
        h = first_head + row % G
        q_idx = tl.minimum(row // G, M - 1)
    else:
        h = first_head
        q_idx = tl.minimum(row, M - 1)
    b64 = b.to(tl.int64)
    hkv = (first_head // G).to(tl.int64)
    keys = open_rows(k + b64 * k_b + hkv * k_h, N, k_n, k_d, D, BN, DESCRIPTORS)
    values = open_rows(v + b64 * v_b + hkv * v_h, N, v_n, v_d, DV, BN, DESCRIPTORS)
    q_rows = q + b64 * q_b + h.to(tl.int64) * q_h + q_idx.to(tl.int64) * q_m
    q_tile = gather_rows(q_rows, real, q_d, D)

    u = hoist_uniform(captures, b, h)
    qv = hoist_q(captures, u, b, h, q_idx)
    at = (b64 * Hq + h) * M + q_idx  # [BM, 1]
    acc, total, peak, first = attend_to_keys(
        q_tile, keys, values, scale, tables, first_head, 0, split, splits,
        captures, u, qv, b, h, q_idx, M, N,
        D, DV, BM, BN, F, TABLES, EVEN, DESCRIPTORS, PRECISION, RAW)

    report_fault(first, at * N, real, fault_at)
    at = split.to(tl.int64) * B * Hq * M + at
    scatter_rows(part_out + at * DV, real, acc, DV)
    tl.store(part_max + at, peak[:, None], mask=real)
    tl.store(part_sum + at, total[:, None], mask=real)
