"""Softmax in base 2: `peak` is the largest score times log2(e), `total` the sum of weights."""

import triton
import triton.language as tl

from codegen_templates.triton.tiles import LN_2, lowest_of


@triton.jit
def peak_or_0(peak):
    """What weights are relative to: exp2(-inf - 0) is 0 in a row that has met no key."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def natural(x):
    """`x` from base 2. The lowest number stands for all that base 2 has no number for."""
    LOWEST: tl.constexpr = lowest_of(x.dtype)
    return tl.where(x == LOWEST, LOWEST, x * LN_2)


@triton.jit
def lse_of_rows(total, peak):
    """Natural log of the sum of weights; -inf without keys."""
    return natural(peak + tl.log2(tl.where(total == 0, 1.0, total)))


@triton.jit
def mean_of_rows(acc, total):
    """Weighted means; 0 in rows without keys, where a value of inf or NaN met a weight of 0."""
    inverse = (1.0 / tl.where(total == 0, 1.0, total))[:, None]
    empty = (total == 0)[:, None]
    x0 = tl.where(empty, 0.0, acc[0] * inverse)
    if len(acc) > 1:
        return (x0, tl.where(empty, 0.0, acc[1] * inverse))
    else:
        return (x0,)
