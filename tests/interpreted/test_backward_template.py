"""The backward templates, interpreted: against autograd through dense float64."""

from __future__ import annotations

import pytest
import torch
from backward_calls import Backward, Cut, backward_mods, check, problem

# Weights of 0 have a logarithm, and dropped pairs any value.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PLAIN = (1, 1, 2, 1, 35, 21, 16, 16)
CAUSAL = backward_mods(mask_mod="q_idx + 3 >= kv_idx")
LOG2_E = 1.4426950408889634
CAP = "tl.exp(score * 0.8)"  # (e - 1) / (e + 1) = tanh(0.4 s)
SOFT_CAP = {
    "score_mod": f"2.5 * {LOG2_E} * (({CAP} - 1) / ({CAP} + 1))",
    "score_mod_grad": f"grad * 4 * {CAP} / (({CAP} + 1) * ({CAP} + 1))",
}
SOFT_CAP_BY_OUTPUT = SOFT_CAP | {"score_mod_grad": "grad * (1 - 0.16 * output * output)"}


def causal(M: int, N: int) -> torch.Tensor:
    return (torch.arange(M)[:, None] + 3 >= torch.arange(N))[None, None]


def soft_cap(s, b, h, q_idx, kv_idx):
    return 2.5 * torch.tanh(s * 0.4)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 16, 16, 16, 16),
        (2, 1, 4, 2, 18, 20, 40, 24),  # batches share keys, heads are grouped, two chunks
        (2, 2, 2, 1, 1, 17, 16, 16),
        (1, 1, 1, 1, 17, 1, 16, 80),
        (1, 1, 1, 1, 18, 20, 96, 7),
    ],
)
@pytest.mark.parametrize("descriptors", [False, True])
def test_without_mods(shape, descriptors):
    Backward(problem(shape, with_lse=True), Cut(), descriptors=descriptors).check()


@pytest.mark.parametrize("BM", [32, 64, 512])
@pytest.mark.parametrize("tables", [0, 4])
def test_row_values_of_heads_of_odd_lengths(BM, tables):
    """Of the second head on they begin where descriptors can read them: tiles of 32 to 256 do."""
    shape = (2, 2, 2, 1, 35, 21, 16, 16)
    p = problem(shape, keep=causal(35, 21), with_lse=True)
    Backward(p, Cut(BM, 16, tables, BM, 16), CAUSAL, descriptors=True).check()


def test_rows_beyond_the_last_have_no_weight():
    p = problem((2, 2, 2, 1, 5, 7, 16, 16), with_lse=True)
    backward = Backward(p, Cut())
    lse2, delta = backward.lse2, backward.delta
    sums = (p.tensors["out"] * p.tensors["grad_out"]).sum(-1) - p.grad_lse
    torch.testing.assert_close(lse2[..., :5], p.lse * LOG2_E)
    torch.testing.assert_close(delta[..., :5], sums, atol=1e-5, rtol=1e-5)
    assert bool((lse2[..., 5:] == torch.inf).all()) and bool((delta[..., 5:] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    keep = causal(35, 21)
    Backward(problem(PLAIN, dtype, keep=keep, with_lse=True), Cut(BM=32), CAUSAL).check()


@pytest.mark.parametrize("tables", [2, 4])
@pytest.mark.parametrize(("q_block", "kv_block"), [(16, 32), (24, 20), (64, 64), (18, 16)])
def test_blocks_of_any_size(tables, q_block, kv_block):
    p = problem(PLAIN, keep=causal(35, 21), with_lse=True)
    cut = Cut(16, 16, tables, q_block, kv_block)
    Backward(p, cut, CAUSAL, ordered=tables == 4).check()


@pytest.mark.parametrize("tables", [2, 4])
def test_the_lists_decide_too(tables):
    """Lists per head leave out blocks that mask_mod would keep; some rows have none."""
    cells = torch.rand(2, 2, 3, 3) < 0.5
    cells[0, 0, 1] = False
    keep = cells.repeat_interleave(16, -2).repeat_interleave(16, -1)[..., :35, :21]
    keep = keep & causal(35, 21)
    p = problem((2, 2, 2, 2, 35, 21, 16, 16), keep=keep, with_lse=True)
    backward = Backward(p, Cut(tables=tables), CAUSAL)
    backward.check()
    assert bool((backward.dq()[0, 0, 16:32] == 0).all())


def test_no_lists_but_a_mask():
    p = problem(PLAIN, keep=causal(35, 21), with_lse=True)
    Backward(p, Cut(BN=32), CAUSAL).check()


@pytest.mark.parametrize("derivative", ["score", "output"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_derivatives(derivative, dtype):
    bodies = SOFT_CAP if derivative == "score" else SOFT_CAP_BY_OUTPUT
    mods = backward_mods(derivative, mask_mod="q_idx + 3 >= kv_idx", **bodies)
    p = problem(PLAIN, dtype, keep=causal(35, 21), mod=soft_cap, with_lse=True)
    Backward(p, Cut(16, 16, 4, 16, 32), mods).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_arrives_nothing_goes_on(dtype):
    """A slope without end where the mask drops the pair: score / (q_idx - kv_idx)."""
    mods = backward_mods(
        "none",
        mask_mod="q_idx > kv_idx",
        score_mod="score_log2 / (q_idx - kv_idx)",
        score_mod_grad="grad / (q_idx - kv_idx)",
    )
    keep = (torch.arange(35)[:, None] > torch.arange(21))[None, None]

    def divided(s, b, h, q_idx, kv_idx):
        return torch.where(q_idx > kv_idx, s / (q_idx - kv_idx).clamp(min=1), 0.0)

    p = problem(PLAIN, dtype, keep=keep, mod=divided, with_lse=True)
    Backward(p, Cut(16, 16, 2, 16, 16), mods).check()


def test_rows_that_do_not_exist_may_score_anything():
    """Theirs is 0, where this mod gives NaN."""
    mods = backward_mods(
        "score", score_mod="score_log2 + 0 / score", score_mod_grad="grad + 0 / score"
    )
    p = problem(PLAIN, mod=lambda s, *_: s)
    Backward(p, Cut(), mods).check()


def test_rows_that_a_score_mod_empties():
    mods = backward_mods(
        score_mod="tl.where(q_idx % 7 == 3, float('-inf'), score_log2)",
        score_mod_grad="tl.where(q_idx % 7 == 3, 0.0, grad)",
    )

    def emptied(s, b, h, q_idx, kv_idx):
        return torch.where(q_idx % 7 == 3, -torch.inf, s)

    backward = Backward(problem(PLAIN, mod=emptied, with_lse=True), Cut(), mods)
    backward.check()
    assert bool((backward.dq()[:, :, 3] == 0).all())


def test_dq_can_be_left_out():
    p = problem(PLAIN)
    assert bool(Backward(p, Cut()).dq(want=False).isnan().all())


def test_many_tiles_one_after_the_other():
    p = problem((2, 2, 2, 1, 37, 21, 16, 16), keep=causal(37, 21), with_lse=True)
    backward = Backward(p, Cut(16, 16, 4, 24, 16), CAUSAL)
    check("q", backward.dq(serial=2), p.wanted[0])
