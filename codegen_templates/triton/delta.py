"""What both backward kernels read of each row of weights.

    lse2 = lse * log2(e), and +inf where no weight is to come out;
    delta = rowsum(out * grad_out) - grad_lse: what every weight's gradient is measured against.

`lse` and `grad_lse` are [B, Hq, M], `lse2` and `delta` [B, Hq, padded_rows(M)], contiguous: tiles
may read beyond the last row of a head, and begin where a descriptor can. Rows beyond M have no
weight. One program per BM rows of a head, tiles fastest: a grid of
cdiv(padded_rows(M), BM) * B * Hq programs.
Notation: p_ pointer, b_ block value, o_ offsets, m_ mask; shapes at line ends.
"""

import triton
import triton.language as tl

from codegen_templates.triton.tiles import LOG2_E, lowest_of, padded_rows


@triton.jit
def to_base_2(lse):
    """lse times log2(e), finite where lse is, and +inf for -inf."""
    LEAST: tl.constexpr = lowest_of(lse.dtype)
    lse2 = tl.maximum(lse * LOG2_E, LEAST)
    return tl.where(lse == float("-inf"), float("inf"), lse2)


@triton.jit
def delta(
    out, grad_out, lse, grad_lse, lse2, delta,
    o_b, o_h, o_m, do_b, do_h, do_m, do_d,
    Hq, M,
    DV: tl.constexpr, BM: tl.constexpr, HAS_GRAD_LSE: tl.constexpr,
):
    WIDTH: tl.constexpr = triton.next_power_of_2(DV)
    F: tl.constexpr = delta.dtype.element_ty
    P = padded_rows(M)
    tiles = tl.cdiv(P, BM)
    pid = tl.program_id(0)
    bh = (pid // tiles).to(tl.int64)
    b, h = bh // Hq, bh % Hq
    o_q = (pid % tiles) * BM + tl.arange(0, BM)
    o_d = tl.arange(0, WIDTH)
    m_q = o_q < M
    m_tile = m_q[:, None] & (o_d < DV)[None, :]
    rows = o_q.to(tl.int64)[:, None]
    at_out = out + b * o_b + h * o_h + rows * o_m + o_d[None, :]
    at_grad = grad_out + b * do_b + h * do_h + rows * do_m + o_d[None, :] * do_d
    b_out = tl.load(at_out, mask=m_tile, other=0.0).to(F)  # [BM, WIDTH]
    b_grad = tl.load(at_grad, mask=m_tile, other=0.0).to(F)  # [BM, WIDTH]
    b_delta = tl.sum(b_out * b_grad, 1)  # [BM]
    b_lse = tl.load(lse + bh * M + o_q, mask=m_q, other=float("-inf"))
    if HAS_GRAD_LSE:
        b_delta -= tl.load(grad_lse + bh * M + o_q, mask=m_q, other=0.0)
    tl.store(lse2 + bh * P + o_q, to_base_2(b_lse), mask=o_q < P)
    tl.store(delta + bh * P + o_q, b_delta, mask=o_q < P)
