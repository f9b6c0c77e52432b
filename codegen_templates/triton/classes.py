"""Classes of a mask's blocks: 0 empty, 1 partial, 2 full, of the pairs inside [M, N].

A program looks at one block, in tiles [BM queries, BN keys].
"""

import triton
import triton.language as tl

from codegen_templates.triton.mods import (
    HAS_FAULT,
    fault,
    hoist_kv,
    hoist_q,
    hoist_uniform,
    mask_mod,
)
from codegen_templates.triton.tiles import NO_FAULT, NO_KEY


@triton.jit
def classes(
    classes, listed, B, H, M, N, rows, cols, q_block, kv_block, count, captures, fault_at,
    BM: tl.constexpr, BN: tl.constexpr, LISTED: tl.constexpr,
):
    """The grid is (count,): program i takes block number i, or listed[i] if LISTED.

    Block ((b * H + h) * rows + r) * cols + c. Its class is stored at classes[i].
    """
    pid = tl.program_id(0)
    block = pid
    if LISTED:
        block = tl.load(listed + pid)
    c = block % cols
    r = block // cols % rows
    bh = block // cols // rows
    b = bh // H
    h = bh - b * H
    q_end = tl.minimum((r + 1) * q_block, M)
    kv_end = tl.minimum((c + 1) * kv_block, N)
    u = hoist_uniform(captures, b, h)
    kept = tl.zeros([BM], tl.int32)
    dropped = tl.zeros([BM], tl.int32)
    places = tl.full([BM], NO_FAULT, tl.int64)
    for q0 in range(r * q_block, q_end, BM):
        row = q0 + tl.arange(0, BM)[:, None]
        q_idx = tl.minimum(row, M - 1)
        qv = hoist_q(captures, u, b, h, q_idx)
        first = tl.full([BM], NO_KEY, tl.int32)
        for kv0 in range(c * kv_block, kv_end, BN):
            kv = kv0 + tl.arange(0, BN)[None, :]
            kv_idx = tl.minimum(kv, N - 1)
            kvv = hoist_kv(captures, u, b, h, kv_idx)
            real = (row < q_end) & (kv < kv_end)
            keep = mask_mod(captures, u, qv, kvv, b, h, q_idx, kv_idx) & real
            kept |= tl.max(keep.to(tl.int32), 1)
            dropped |= tl.max((real & (keep == 0)).to(tl.int32), 1)
            if HAS_FAULT:
                score = tl.zeros([BM, BN], tl.float32)
                bad = fault(captures, u, qv, kvv, score, b, h, q_idx, kv_idx) & keep
                first = tl.minimum(first, tl.min(tl.where(bad, kv, NO_KEY), 1))
        if HAS_FAULT:
            at = (bh.to(tl.int64) * M + q0 + tl.arange(0, BM)) * N + first
            places = tl.minimum(places, tl.where(first == NO_KEY, NO_FAULT, at))
    any_kept = tl.max(kept, 0)
    found = tl.where(any_kept == 0, 0, tl.where(tl.max(dropped, 0) == 0, 2, 1))
    tl.store(classes + pid, found.to(tl.uint8), mask=pid < count)
    if HAS_FAULT:
        place = tl.min(places, 0)
        if place < NO_FAULT:
            tl.atomic_min(fault_at, place, sem="relaxed")
