"""Every mistake a mod can make: its error class, the user's line, and a fix that works."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from flexattn import errors
from flexattn.trace import trace_mod

table = torch.randn(3, 4)
flags = torch.tensor([True, False, True])
big = torch.randn(2, 5000)
sparse = torch.eye(3).to_sparse()
nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
MISTAKES: list[tuple[str, Callable[..., Any], type[Exception], str, str]] = []


def mistake(error: type[Exception], line: str, fix: str, kind: str = "mask") -> Any:
    """Register a mod that raises ``error`` at source ``line`` and is told ``fix``."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        MISTAKES.append((kind, fn, error, line, fix))
        return fn

    return register


@mistake(errors.TracedBranchError, "if q_idx > 0:", "torch.where(q_idx > 0, a, b)")
def branches_with_if(b, h, q_idx, kv_idx):
    if q_idx > 0:
        return kv_idx > 0
    return kv_idx < 0


@mistake(errors.TracedBranchError, "return q_idx >= kv_idx and q_idx", "use & in place of `and`")
def branches_with_and(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx and q_idx > 3


@mistake(errors.TracedBranchError, "return q_idx >= kv_idx or", "use | in place of `or`")
def branches_with_or(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx or q_idx > 3


@mistake(errors.TracedBranchError, "return not q_idx >= kv_idx", "use ~ in place of `not`")
def branches_with_not(b, h, q_idx, kv_idx):
    return not q_idx >= kv_idx


@mistake(errors.TracedBranchError, "return q_idx in (1, 2)", "(x == a) | (x == b)")
def branches_with_in(b, h, q_idx, kv_idx):
    return q_idx in (1, 2)


@mistake(errors.TracedBranchError, "return q_idx in {1, 2}", "(x == a) | (x == b)")
def branches_with_in_a_set(b, h, q_idx, kv_idx):
    return q_idx in {1, 2}


@mistake(errors.TracedBranchError, "return q_idx in flags", "(captured_tensor == x).any(-1)")
def branches_with_in_a_tensor(b, h, q_idx, kv_idx):
    return q_idx in flags


@mistake(errors.TracedBranchError, "return 1 in table[h]", "(captured_tensor == x).any(-1)")
def branches_with_in_a_row(b, h, q_idx, kv_idx):
    return 1 in table[h]


@mistake(errors.TracedBranchError, "return 0 <= q_idx - kv_idx < 4", "(a <= x) & (x < b)")
def branches_with_a_chain(b, h, q_idx, kv_idx):
    return 0 <= q_idx - kv_idx < 4


@mistake(errors.TracedBranchError, "return max(q_idx, kv_idx) > 2", "torch.maximum")
def branches_with_max(b, h, q_idx, kv_idx):
    return max(q_idx, kv_idx) > 2


@mistake(errors.TracedBranchError, "return any(", "use | between")
def branches_with_any(b, h, q_idx, kv_idx):
    return any([q_idx > kv_idx, q_idx == 0])


@mistake(errors.TracedBranchError, "while kv_idx > 0:", "no loops over traced values")
def branches_with_while(b, h, q_idx, kv_idx):
    while kv_idx > 0:
        kv_idx = kv_idx - 1
    return kv_idx == 0


@mistake(errors.TracedBranchError, "assert kv_idx >= 0", "cannot assert")
def branches_with_assert(b, h, q_idx, kv_idx):
    assert kv_idx >= 0
    return kv_idx == 0


@mistake(errors.TracedBranchError, "return score if q_idx > kv_idx", "torch.where(", kind="score")
def branches_with_a_ternary(score, b, h, q_idx, kv_idx):
    return score if q_idx > kv_idx else score * 2


@mistake(errors.TracedValueError, "return q_idx.item() > 3", "without leaving torch")
def takes_item(b, h, q_idx, kv_idx):
    return q_idx.item() > 3


@mistake(errors.TracedValueError, "return int(q_idx) > 3", ".long()")
def takes_int(b, h, q_idx, kv_idx):
    return int(q_idx) > 3


@mistake(errors.TracedValueError, "math.exp(score)", "torch.exp", kind="score")
def takes_math(score, b, h, q_idx, kv_idx):
    return math.exp(score)


@mistake(errors.TracedValueError, "np.exp(score)", "use torch.exp", kind="score")
def takes_numpy(score, b, h, q_idx, kv_idx):
    return np.exp(score)


@mistake(errors.TracedValueError, "[1.0, 2.0, 4.0][h]", "torch tensor", kind="score")
def indexes_a_list(score, b, h, q_idx, kv_idx):
    return score * [1.0, 2.0, 4.0][h]


@mistake(errors.TracedValueError, ".get(q_idx, 0)", "torch tensor")
def looks_up_in_a_dict(b, h, q_idx, kv_idx):
    return kv_idx > {1: 2}.get(q_idx, 0)


@mistake(errors.TracedValueError, "{score:.2f}", "without a format", kind="score")
def formats(score, b, h, q_idx, kv_idx):
    return score, f"{score:.2f}"


@mistake(errors.TracedValueError, "for i in range(q_idx):", "torch tensor")
def ranges(b, h, q_idx, kv_idx):
    for i in range(q_idx):
        kv_idx = kv_idx + i
    return kv_idx > 0


@mistake(errors.TracedValueError, "first, second = q_idx", "cannot be unpacked")
def iterates(b, h, q_idx, kv_idx):
    first, second = q_idx
    return first > second


@mistake(errors.TracedValueError, "len(kv_idx)", "no length")
def measures(b, h, q_idx, kv_idx):
    return q_idx < len(kv_idx)


@mistake(errors.TracedValueError, "table[h, :q_idx]", "fixed length")
def slices_by_a_symbol(b, h, q_idx, kv_idx):
    return table[h, :q_idx].sum() > 0


@mistake(errors.CrossPositionError, "torch.cumsum(score, 0)", "outside the mod", kind="score")
def sums_up(score, b, h, q_idx, kv_idx):
    return torch.cumsum(score, 0)


@mistake(errors.CrossPositionError, "score.softmax(-1)", "outside the mod", kind="score")
def normalises(score, b, h, q_idx, kv_idx):
    return score.softmax(-1)


@mistake(errors.CrossPositionError, "torch.sort(score)", "outside the mod", kind="score")
def sorts(score, b, h, q_idx, kv_idx):
    return torch.sort(score).values


@mistake(errors.CrossPositionError, "table @ table[h]", "outside the mod", kind="score")
def multiplies_matrices(score, b, h, q_idx, kv_idx):
    return (table @ table[h])[0] + score


@mistake(errors.InPlaceError, "score += 1", "new name", kind="score")
def adds_in_place(score, b, h, q_idx, kv_idx):
    score += 1
    return score


@mistake(errors.InPlaceError, "score.mul_(2)", "new name", kind="score")
def multiplies_in_place(score, b, h, q_idx, kv_idx):
    return score.mul_(2)


@mistake(errors.InPlaceError, "inplace=True", "new name", kind="score")
def activates_in_place(score, b, h, q_idx, kv_idx):
    return torch.nn.functional.relu(score, inplace=True)


@mistake(errors.InPlaceError, "out=score", "function returns", kind="score")
def writes_to_out(score, b, h, q_idx, kv_idx):
    return torch.add(score, 1, out=score)


@mistake(errors.InPlaceError, "score.fill_(2)", "out of place", kind="score")
def fills(score, b, h, q_idx, kv_idx):
    return score.fill_(2)


@mistake(errors.InPlaceError, "table[h, q_idx] = 0", "out of place", kind="score")
def assigns_to_a_capture(score, b, h, q_idx, kv_idx):
    table[h, q_idx] = 0
    return score


@mistake(errors.InPlaceError, "total += q_idx", "out of place")
def adds_to_a_tensor(b, h, q_idx, kv_idx):
    total = torch.zeros((), dtype=torch.long)
    total += q_idx
    return total > 0


@mistake(errors.InPlaceError, "distance += 0.5", "out of place")
def changes_dtype_in_place(b, h, q_idx, kv_idx):
    distance = q_idx - kv_idx
    distance += 0.5
    return distance > 0


@mistake(errors.UnsupportedOpError, "torch.lgamma(score)", "pointwise", kind="score")
def calls_an_unknown_function(score, b, h, q_idx, kv_idx):
    return torch.lgamma(score)


@mistake(errors.UnsupportedOpError, "torch.take(table, q_idx)", "table[h, i]", kind="score")
def takes(score, b, h, q_idx, kv_idx):
    return score + torch.take(table, q_idx)


@mistake(errors.UnsupportedOpError, "torch.rand_like(score)", "draw a tensor", kind="score")
def draws(score, b, h, q_idx, kv_idx):
    return score * (torch.rand_like(score) > 0.1)


@mistake(errors.UnsupportedOpError, "score & (q_idx > 1)", "compare the float")
def masks_a_float(score, h, q_idx, kv_idx):
    score = score * 1.0
    return score & (q_idx > 1)


@mistake(errors.UnsupportedOpError, "return -(q_idx > kv_idx)", "use ~")
def negates_a_bool(b, h, q_idx, kv_idx):
    return -(q_idx > kv_idx)


@mistake(errors.UnsupportedOpError, "2**h", "2.0 ** x", kind="score")
def raises_an_integer(score, b, h, q_idx, kv_idx):
    return score * 2**h


@mistake(errors.UnsupportedOpError, "torch.where(q_idx, 1, 0)", "x != 0")
def chooses_by_a_number(b, h, q_idx, kv_idx):
    return torch.where(q_idx, 1, 0) > 0


@mistake(errors.CaptureIndexError, "table[h, q_idx, 0]", "one index per dimension", kind="score")
def indexes_too_often(score, b, h, q_idx, kv_idx):
    return score + table[h, q_idx, 0]


@mistake(errors.CaptureIndexError, "table[score, h]", ".long()", kind="score")
def indexes_by_a_float(score, b, h, q_idx, kv_idx):
    return score + table[score, h]


@mistake(errors.CaptureIndexError, "table[q_idx > 1]", "torch.where", kind="score")
def indexes_by_a_bool(score, b, h, q_idx, kv_idx):
    return score + table[q_idx > 1].sum()


@mistake(errors.CaptureIndexError, "def indexes_too_little", "index every", kind="score")
def indexes_too_little(score, b, h, q_idx, kv_idx):
    return score + table[h]


@mistake(errors.CaptureIndexError, "(big[h] > 0).any()", "index every dimension")
def spreads_a_long_row(b, h, q_idx, kv_idx):
    return (big[h] > 0).any()


@mistake(errors.CaptureIndexError, "score[0]", "table[h]", kind="score")
def indexes_the_score(score, b, h, q_idx, kv_idx):
    return score[0]


@mistake(errors.CaptureDtypeError, "torch.zeros(3, dtype=torch.complex64)", "convert", kind="score")
def reads_complex_numbers(score, b, h, q_idx, kv_idx):
    return score + torch.zeros(3, dtype=torch.complex64)[h]


@mistake(errors.LayoutError, "sparse[h, h]", ".to_dense()", kind="score")
def reads_a_sparse_tensor(score, b, h, q_idx, kv_idx):
    return score + sparse[h, h]


@mistake(errors.LayoutError, "nested[h, q_idx]", ".to_padded_tensor(0.0)", kind="score")
def reads_a_nested_tensor(score, b, h, q_idx, kv_idx):
    return score + nested[h, q_idx]


@mistake(errors.ModReturnError, "def returns_a_number", "x != 0")
def returns_a_number(b, h, q_idx, kv_idx):
    return q_idx - kv_idx


@mistake(errors.ModReturnError, "def returns_a_bool", "mask_mod", kind="score")
def returns_a_bool(score, b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


@mistake(errors.ModReturnError, "def returns_a_tuple", "one value", kind="score")
def returns_a_tuple(score, b, h, q_idx, kv_idx):
    return score, q_idx


@mistake(errors.ModReturnError, "def forgets_to_return", "return statement")
def forgets_to_return(b, h, q_idx, kv_idx):
    q_idx >= kv_idx  # noqa: B015


@mistake(errors.ModSignatureError, "def takes_too_few", "(b, h, q_idx, kv_idx)")
def takes_too_few(q_idx, kv_idx):
    return q_idx >= kv_idx


@pytest.mark.parametrize(
    ("kind", "fn", "error", "line", "fix"), MISTAKES, ids=[m[1].__name__ for m in MISTAKES]
)
def test_mistake(kind: str, fn: Any, error: type[Exception], line: str, fix: str) -> None:
    with pytest.raises(errors.FlexAttentionError) as caught:
        trace_mod(fn, kind)  # type: ignore[arg-type]
    raised = caught.value
    assert type(raised) is error
    assert raised.summary.startswith(f"{kind}_mod {fn.__name__!r} ")
    assert raised.at is not None and "test_trace_errors.py:" in raised.at and line in raised.at
    assert raised.why and raised.fix and fix in raised.fix
    with pytest.raises(TypeError):  # nothing stays switched on
        [0][torch.zeros(1)]  # type: ignore[call-overload]
    assert torch._C._len_torch_function_stack() == 0
