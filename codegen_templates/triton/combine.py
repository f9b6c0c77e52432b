"""Joins the parts that decode.py wrote: out, lse and max of BM rows of all B * Hq * M a program.

    peak = max over splits of part_max;  weight = exp2(part_max - peak)
    total = sum of weight * part_sum;    out = sum of weight * part_out / total
"""

import triton
import triton.language as tl

from codegen_templates.triton.softmax import lse_of_rows, mean_of_rows, natural, peak_or_0
from codegen_templates.triton.tiles import chunk_of


@triton.constexpr_function
def splits_at_once(SPLITS, ROWS, COLUMNS):
    """How many parts are added in one step: as many as a program has registers for."""
    return max(1, min(SPLITS, 4096 // (ROWS * COLUMNS)))


@triton.jit
def sum_of_parts(part_out, part_max, peak, row, rows, splits, first: tl.constexpr,
                 COLUMNS: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, SPLITS: tl.constexpr):
    """Columns [first, first + COLUMNS) of the weighted sum, [BM, COLUMNS]."""
    STEP: tl.constexpr = splits_at_once(SPLITS, BM, COLUMNS)
    acc = tl.zeros([BM, COLUMNS], peak.dtype)
    col = first + tl.arange(0, COLUMNS)[None, None, :]
    for start in range(0, splits, STEP):
        split = start + tl.arange(0, STEP)[:, None]
        at = split.to(tl.int64) * rows + row[None, :]  # [STEP, BM]
        real = (split < splits) & (row < rows)[None, :]
        weight = tl.exp2(tl.load(part_max + at, mask=real, other=float("-inf")) - peak[None, :])
        mask = real[:, :, None] & (col < DV)
        part = tl.load(part_out + at[:, :, None] * DV + col, mask=mask, other=0.0)
        acc += tl.sum(weight[:, :, None] * part, 0)
    return acc


@triton.jit
def combine(
    part_out, part_max, part_sum, out, lse, max, o_b, o_h, o_m, B, Hq, M, splits,
    DV: tl.constexpr, BM: tl.constexpr, SPLITS: tl.constexpr,
):
    """The grid is (cdiv(B * Hq * M, BM),). SPLITS is a power of two, `splits` or more."""
    D0: tl.constexpr = chunk_of(DV, 0)
    D1: tl.constexpr = chunk_of(DV, 1)
    rows = B * Hq * M
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    split = tl.arange(0, SPLITS)[:, None]
    at = split.to(tl.int64) * rows + row[None, :]
    real = (split < splits) & (row < rows)[None, :]
    peaks = tl.load(part_max + at, mask=real, other=float("-inf"))
    peak = tl.max(peaks, 0)
    safe = peak_or_0(peak)
    sums = tl.load(part_sum + at, mask=real, other=0.0)
    total = tl.sum(tl.exp2(peaks - safe[None, :]) * sums, 0)

    bh = row // M
    h = bh % Hq
    out_row = out + (bh // Hq).to(tl.int64) * o_b + h.to(tl.int64) * o_h
    out_row += (row - bh * M).to(tl.int64) * o_m
    acc = (sum_of_parts(part_out, part_max, safe, row, rows, splits, 0, D0, DV, BM, SPLITS),)
    if D1 > 0:
        acc += (sum_of_parts(part_out, part_max, safe, row, rows, splits, D0, D1, DV, BM, SPLITS),)
    means = mean_of_rows(acc, total)
    col = tl.arange(0, D0)[None, :]
    mask = (row < rows)[:, None] & (col < DV)
    tl.store(out_row[:, None] + col, means[0].to(out.dtype.element_ty), mask=mask)
    if D1 > 0:
        col = D0 + tl.arange(0, D1)[None, :]
        mask = (row < rows)[:, None] & (col < DV)
        tl.store(out_row[:, None] + col, means[1].to(out.dtype.element_ty), mask=mask)
    tl.store(lse + row, lse_of_rows(total, peak), mask=row < rows)
    tl.store(max + row, natural(peak), mask=row < rows)
