"""torch.autograd.Function inside mods: its forward is traced and its own backward is used."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from flexattn import errors
from flexattn.ir.interpreter import evaluate
from flexattn.trace import trace_mod

ORIGINAL = Function.__dict__["apply"]


class TanhApprox(Function):
    """A soft cap whose derivative is deliberately not that of tanh."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        result = torch.tanh(x)
        ctx.result = result
        return result

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad * (1 - ctx.result * ctx.result) + 0.125 * grad * x


class WithSetup(Function):
    @staticmethod
    def forward(x: Any, scale: Any = 2.0) -> Any:
        return x * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, scale = inputs
        ctx.scale = scale
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Any) -> Any:
        (output,) = ctx.saved_tensors
        return torch.where(output > 0, grad * ctx.scale * 3, torch.zeros_like(grad)), None


class TwoOutputs(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        ctx.save_for_backward(x, y)
        return x * y, x + y

    @staticmethod
    def backward(ctx: Any, product: Any, total: Any) -> Any:
        x, y = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, True)
        return product * y + 2 * total, product * x - total / 4


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -grad


class Clipped(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad.clamp(-1, 1)


class NoBackward(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2


weight = torch.tensor(0.7, requires_grad=True)
MODS = {
    "saved": lambda s, b, h, q, k: TanhApprox.apply(s / 3) * 3,
    "setup_context": lambda s, b, h, q, k: WithSetup.apply(s) + WithSetup.apply(s * s, 0.5),
    "two outputs": lambda s, b, h, q, k: sum(TwoOutputs.apply(s, torch.sin(s))),
    "reversal": lambda s, b, h, q, k: s * Reversal.apply(torch.exp(s / 4)),
    "nested": lambda s, b, h, q, k: TanhApprox.apply(Reversal.apply(s)),
    "learned scalar": lambda s, b, h, q, k: TwoOutputs.apply(s, weight)[0] * weight,
}


@pytest.mark.parametrize("name", MODS)
def test_values_and_gradients_are_those_of_the_function(name: str) -> None:
    fn = MODS[name]
    points = torch.linspace(-3, 3, 13)
    eager_points = points.clone().requires_grad_()
    zero = torch.tensor(0)
    expected = torch.stack([fn(point, zero, zero, zero, zero) for point in eager_points])
    wanted = torch.autograd.grad(expected.sum(), (eager_points, weight), allow_unused=True)

    traced = trace_mod(fn, "score")
    score = points.clone().requires_grad_()
    value = evaluate(traced.graph(), {"score": score}, traced.captures)
    given = torch.autograd.grad(value.sum(), (score, weight), allow_unused=True)
    torch.testing.assert_close(value, expected)
    for g, w in zip(given, wanted):
        assert (g is None) == (w is None)
        if w is not None:
            torch.testing.assert_close(g, w)


def test_the_gradient_differs_from_that_of_the_forward() -> None:
    score = torch.tensor([0.5], requires_grad=True)
    traced = trace_mod(lambda s, b, h, q, k: TanhApprox.apply(s), "score")
    (given,) = torch.autograd.grad(evaluate(traced.graph(), {"score": score}, []), score)
    assert abs(given - (1 - torch.tanh(score) ** 2)) > 0.05


def test_functions_on_real_tensors_keep_working_inside_a_mod() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    traced = trace_mod(lambda s, b, h, q, k: s * TanhApprox.apply(scale.reshape(1))[0], "score")
    value = evaluate(traced.graph(), {"score": torch.tensor(3.0)}, traced.captures)
    (grad,) = torch.autograd.grad(value, scale)
    torch.testing.assert_close(grad, 3 * (1 - torch.tanh(scale) ** 2 + 0.125 * scale))


def test_a_backward_that_is_not_linear_is_refused() -> None:
    traced = trace_mod(lambda s, b, h, q, k: Clipped.apply(s), "score")
    with pytest.raises(
        errors.UnsupportedOpError, match=r"'<lambda>' applies Clipped, whose backward is not linear"
    ):
        traced.graph()


def test_a_function_without_backward_is_refused() -> None:
    with pytest.raises(errors.UnsupportedOpError, match="NoBackward, which has no backward"):
        trace_mod(lambda s, b, h, q, k: NoBackward.apply(s), "score")


def test_a_tensor_that_would_need_a_whole_gradient_is_refused() -> None:
    class Lookup(Function):
        @staticmethod
        def forward(ctx: Any, s: Any, table: Any, h: Any) -> Any:
            return s + table[h]

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad, grad, None

    table = torch.zeros(3, requires_grad=True)
    with pytest.raises(errors.UnsupportedOpError, match="a gradient to a whole tensor"):
        trace_mod(lambda s, b, h, q, k: Lookup.apply(s, table, h), "score")


def test_apply_is_itself_again_after_traces_that_end_or_fail() -> None:
    def fails(b, h, q_idx, kv_idx):
        assert Function.__dict__["apply"] is not ORIGINAL
        raise ValueError("on purpose")

    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            trace_mod(fails, "mask")
        trace_mod(MODS["saved"], "score")
        assert Function.__dict__["apply"] is ORIGINAL
    x = torch.tensor([0.5], requires_grad=True)
    TanhApprox.apply(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()) ** 2 + 0.125 * x.detach())


def test_other_threads_use_functions_while_one_traces() -> None:
    inside, done = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def slow(score, b, h, q_idx, kv_idx):
        inside.set()
        assert done.wait(10)
        return TanhApprox.apply(score)

    def trace() -> None:
        try:
            graph = trace_mod(slow, "score").graph()
            assert "override_grad" in repr([getattr(graph, "op", None)])
        except BaseException as error:
            failures.append(error)
            done.set()

    thread = threading.Thread(target=trace)
    thread.start()
    assert inside.wait(10)
    x = torch.tensor([0.5], requires_grad=True)
    TanhApprox.apply(x).sum().backward()
    second = trace_mod(MODS["saved"], "score")  # ends before the first does
    assert "TanhApprox" in str(second.structure)
    done.set()
    thread.join()
    assert not failures and x.grad is not None
    assert Function.__dict__["apply"] is ORIGINAL
