"""How the backward templates call the hooks of captured gradients, one of each way, interpreted."""

from __future__ import annotations

import pytest
import torch
from backward_calls import Backward, Cut, Problem, backward_mods, check, problem
from template_calls import poisoned
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LOG2_E = 1.4426950408889634
# A tensor per way: head, query, key, distance, pair, scatter.
SLOPE, ROWS, KEYS, TABLE, PAIRS, CELLS = range(6)
BIAS = """\
bias = tl.load(captures[0] + h) * (kv_idx - q_idx)
bias += tl.load(captures[3] + b * captures[7] + h * captures[8] + q_idx * captures[9])
bias += tl.load(captures[10] + kv_idx)
bias += tl.load(captures[13] + kv_idx - q_idx + captures[14] // 2)
bias += tl.load(captures[16] + h * captures[20] + q_idx * captures[21] + kv_idx)
bias += tl.load(captures[23] + (7 * q_idx + 3 * kv_idx) % 5)
"""
ADD_ROWS = """\
far = (chunk * B * Hq + bh) * (M + N) + kv_idx - q_idx + M - 1
tl.atomic_add(grads[3] + far, grad, mask=grad != 0, sem="relaxed")
pair = grads[4] + h * captures[20] + q_idx * N + kv_idx
if SHARED:
    tl.atomic_add(pair, grad, mask=grad != 0, sem="relaxed")
else:
    rows, keys = q0 + tl.arange(0, BM), kv0 + tl.arange(0, BN)
    tl.store(pair, grad, mask=(rows < q_last)[:, None] & (keys < kv_last)[None, :])
tl.atomic_add(grads[5] + (7 * q_idx + 3 * kv_idx) % 5, grad, mask=grad != 0, sem="relaxed")
return sums[0] + tl.sum(grad * (kv_idx - q_idx), 1), sums[1] + tl.sum(grad, 1)
"""
END_ROWS = """\
rows = q0 + tl.arange(0, BM)
tl.store(grads[1] + bh * M + rows, sums[1], mask=rows < last)
tl.store(grads[0] + bh * tiles + tile, tl.sum(sums[0], 0))
"""
END_KEYS = """\
keys = kv0 + tl.arange(0, BN)
tl.store(grads[2] + bh * N + keys, sums[0], mask=keys < last)
"""
MODS = backward_mods(
    row=True,
    key=True,
    mask_mod="q_idx + 3 >= kv_idx",
    score_mod=f"{BIAS}return score_log2 + {LOG2_E} * bias",
    score_mod_grad="grad",
    begin_row_grads="(tl.zeros([BM], tl.float32), tl.zeros([BM], tl.float32))",
    add_row_grads=ADD_ROWS,
    end_row_grads=END_ROWS,
    begin_key_grads="(tl.zeros([BN], tl.float32),)",
    add_key_grads="(sums[0] + tl.sum(grad, 1),)",
    end_key_grads=END_KEYS,
)


def biased(s, b, h, q_idx, kv_idx, slope, rows, keys, table, pairs, cells):
    distance = kv_idx - q_idx
    places = (h if pairs.shape[0] > 1 else h * 0, q_idx, kv_idx)
    bias = slope[h] * distance + rows[b, h, q_idx] + keys[kv_idx]
    bias = bias + table[distance + table.shape[0] // 2] + pairs[places]
    return s + bias + cells[(7 * q_idx + 3 * kv_idx) % 5]


def biases(B: int, Hq: int, M: int, N: int, *, shared: bool) -> Problem:
    pairs = torch.randn(1 if shared else Hq, M, N)
    if shared:
        pairs = pairs.as_strided((Hq, M, N), (0, N, 1))
    captured = [
        torch.randn(Hq) * 0.1, torch.randn(B, Hq, M), torch.randn(N), torch.randn(2 * max(M, N)),
        pairs, torch.randn(5),
    ]  # fmt: skip
    keep = (torch.arange(M)[:, None] + 3 >= torch.arange(N))[None, None]
    shape = (B, B, Hq, 1, M, N, 16, 16)
    return problem(shape, keep=keep, mod=biased, captured=captured, with_lse=True)


class Buffers:
    """What the hooks add to, and what the host makes of it. What is stored once is poisoned."""

    def __init__(self, backward: Backward, chunks: int = 1) -> None:
        self.p = backward.p
        B, Hq, M, N = self.p.lengths
        self.tiles = backward.row_tiles()
        f32 = torch.float32
        heads = Hq if self.p.captured[PAIRS].stride(0) else 1
        self.all = (
            poisoned(B, Hq, self.tiles, dtype=f32), poisoned(B, Hq, M, dtype=f32),
            poisoned(B, Hq, N, dtype=f32), torch.zeros(chunks, B, Hq, M + N),
            torch.zeros(heads, M, N), torch.zeros(5),
        )  # fmt: skip

    def check(self) -> None:
        wanted, (slope, rows, keys, table, pairs, cells) = self.p.wanted[3:], self.all
        _, _, M, N = self.p.lengths
        middle = self.p.captured[TABLE].shape[0] // 2
        found: list[Tensor] = [slope.sum((0, 2)), rows, keys.sum((0, 1))]
        by_distance = torch.zeros_like(self.p.captured[TABLE])
        by_distance[middle - M + 1 : middle + N] = table.sum((0, 1, 2))[: M + N - 1]
        found += [by_distance, pairs, cells]
        for name, ours, theirs in zip(("head", "query", "key", "distance", "pair", "scatter"),
                                      found, wanted, strict=True):  # fmt: skip
            check(
                name, ours, theirs.sum(0, keepdim=True) if ours.shape[0] < len(theirs) else theirs
            )


@pytest.mark.parametrize(
    ("lengths", "cut"),
    [
        ((1, 2, 33, 21), Cut()),
        ((1, 2, 35, 21), Cut(16, 16, 4, 24, 20)),  # tiles reach into the next block
        ((1, 1, 20, 37), Cut(16, 16, 2, 16, 32)),
    ],
)
def test_each_way(lengths, cut):
    backward = Backward(biases(*lengths, shared=False), cut, MODS)
    buffers = Buffers(backward)
    backward.check(buffers.all)
    buffers.check()


@pytest.mark.parametrize("serial", [0, 2])
def test_heads_that_meet_in_one_place(serial):
    p = biases(2, 2, 20, 21, shared=True)
    backward = Backward(p, Cut(16, 16, 4, 16, 16), MODS)
    buffers = Buffers(backward, max(1, serial))
    check("q", backward.dq(*buffers.all, shared=True, serial=serial), p.wanted[0])
    backward.dkdv(*buffers.all)
    buffers.check()
    if serial:
        assert bool((buffers.all[TABLE].abs().sum((1, 2, 3)) > 0).all())


def test_without_dq():
    p = biases(1, 1, 20, 21, shared=False)
    backward = Backward(p, Cut(), MODS)
    buffers = Buffers(backward)
    assert bool(backward.dq(*buffers.all, want=False).isnan().all())
    backward.dkdv(*buffers.all)
    buffers.check()
