"""How the tracer's errors read, and that errors of the mod itself pass unchanged."""

from __future__ import annotations

import functools

import pytest
import torch

from flexattn import errors
from flexattn.trace import trace_mod

table = torch.ones(4, 5, 6)[..., 0]


def branches_with_if(b, h, q_idx, kv_idx):
    if q_idx > 0:
        return kv_idx > 0
    return kv_idx < 0


def returns_a_number(b, h, q_idx, kv_idx):
    return q_idx - kv_idx


def test_the_message_reads_as_the_style_guide_wants() -> None:
    with pytest.raises(errors.TracedBranchError) as caught:
        trace_mod(branches_with_if, "mask")
    first, at, why, fix = str(caught.value).splitlines()
    assert first == "mask_mod 'branches_with_if' branches on a traced value with `if`."
    assert at.startswith("  at   ") and at.endswith(": if q_idx > 0:")
    assert why == (
        "  why  the value is computed from q_idx, which stands for all at once, "
        "so it has no single truth value."
    )
    assert fix.startswith("  fix  use torch.where(q_idx > 0, a, b), or compute")


def test_an_integer_that_does_not_fit() -> None:
    def huge(score, b, h, q_idx, kv_idx):
        return score * q_idx * 2**70

    with pytest.raises(errors.UnsupportedOpError, match="'huge' uses the integer 118") as caught:
        trace_mod(huge, "score").graph()
    assert caught.value.at is not None and "def huge(score" in caught.value.at


@pytest.mark.parametrize(
    ("mod", "said"),
    [
        (lambda b, h, q, k: not (table[h] > 0), "computed from h, which stands for all at once"),
        (lambda b, h, q, k: not table[q, h], "computed from h and q_idx, which stand for all"),
        (lambda b, h, q, k: not q, "q_idx stands for all query indices at once"),
        (lambda b, h, q, k: not (b + h > q * k), "computed from b, h, q_idx and kv_idx"),
        (lambda b, h, q, k: not q.new_ones(()), "known only when the kernel runs"),
    ],
)
def test_why_says_what_the_value_depends_on(mod, said) -> None:
    with pytest.raises(errors.TracedBranchError) as caught:
        trace_mod(mod, "mask")
    assert caught.value.why is not None and said in caught.value.why


def test_not_callable_and_wrong_kind() -> None:
    with pytest.raises(errors.ModSignatureError, match="mask_mod 'Tensor' cannot be called"):
        trace_mod(torch.ones(3), "mask")
    with pytest.raises(errors.ModSignatureError, match="'branches_with_if'"):
        trace_mod(branches_with_if, "score")


def test_names_of_unusual_callables() -> None:
    class Mod:
        def __call__(self, b, h, q_idx, kv_idx):
            return q_idx

    for fn, name in (
        (Mod(), "Mod"),
        (functools.partial(returns_a_number), "returns_a_number"),
        (lambda b, h, q, k: q, "<lambda>"),
    ):
        with pytest.raises(errors.ModReturnError, match=f"'{name}' returns an integer"):
            trace_mod(fn, "mask")


def test_exceptions_of_the_mod_itself_pass_unchanged() -> None:
    class Own(Exception):
        pass

    def fails(b, h, q_idx, kv_idx):
        raise Own("mine")

    def type_error_inside(b, h, q_idx, kv_idx):
        return len(5)  # type: ignore[arg-type]

    def of_torch(b, h, q_idx, kv_idx):
        return torch.zeros(3) @ torch.zeros(4)

    with pytest.raises(Own, match="mine"):
        trace_mod(fails, "mask")
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        trace_mod(type_error_inside, "mask")
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        trace_mod(of_torch, "mask")
    assert torch._C._len_torch_function_stack() == 0


def test_capture_on_another_device() -> None:
    elsewhere = torch.zeros(3, device="meta")

    def reads_elsewhere(score, b, h, q_idx, kv_idx):
        return score + elsewhere[h]

    with pytest.raises(errors.CaptureDeviceError, match="shape \\(3,\\) on meta") as caught:
        trace_mod(reads_elsewhere, "score", device=torch.device("cpu"))
    assert caught.value.at is not None and "return score + elsewhere[h]" in caught.value.at
    assert caught.value.fix == "move it with .to('cpu') before the call."


def test_a_symbol_kept_from_another_call() -> None:
    kept = []

    def keeps(b, h, q_idx, kv_idx):
        kept.append(q_idx)
        return kept[0] >= kv_idx

    trace_mod(keeps, "mask")
    with pytest.raises(errors.UnsupportedOpError, match="traced value of another call"):
        trace_mod(keeps, "mask")


def test_errors_inside_a_helper_name_the_helpers_line_and_the_mod() -> None:
    def helper(x):
        return x if x > 0 else -x

    def outer(b, h, q_idx, kv_idx):
        return helper(q_idx - kv_idx) < 3

    with pytest.raises(errors.TracedBranchError) as caught:
        trace_mod(outer, "mask")
    assert "mask_mod 'outer'" in caught.value.summary
    assert caught.value.at is not None and "return x if x > 0 else -x" in caught.value.at
