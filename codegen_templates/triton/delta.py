"""delta = rowsum(out * grad_out) - grad_lse: what every weight's gradient is measured against.

One program per BM queries of a head, tiles of queries fastest: a grid of
cdiv(M, BM) * B * Hq programs. `grad_lse` and `delta` are [B, Hq, M], contiguous.
Notation: p_ pointer, b_ block value, o_ offsets, m_ mask; shapes at line ends.
"""

import triton
import triton.language as tl


@triton.jit
def delta(
    out, grad_out, grad_lse, delta,
    o_b, o_h, o_m, do_b, do_h, do_m, do_d,
    Hq, M,
    DV: tl.constexpr, BM: tl.constexpr, HAS_GRAD_LSE: tl.constexpr,
):
    WIDTH: tl.constexpr = triton.next_power_of_2(DV)
    F: tl.constexpr = delta.dtype.element_ty
    tiles = tl.cdiv(M, BM)
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
    o_row = bh * M + o_q
    if HAS_GRAD_LSE:
        b_delta -= tl.load(grad_lse + o_row, mask=m_q, other=0.0)
    tl.store(delta + o_row, b_delta, mask=m_q)
