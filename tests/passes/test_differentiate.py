"""Derivatives against torch.autograd on the user's formula, and against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_programs import captured, grid, random_program

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, F64, I64, Apply, Const, Input, Load, Node, walk
from flexattn.ir.ops import OPS
from flexattn.ir.sites import find_sites
from flexattn.passes.derivatives import RULES
from flexattn.passes.differentiate import derivative, gradients, score_loads
from flexattn.passes.guard import guard
from flexattn.passes.simplify import simplify

X, Y, GRAD = Input("x", F64), Input("y", F64), Input("grad", F64)

SMOOTH = [-2.3, -1.1, -0.7, -0.2, 0.3, 0.6, 0.9, 1.4, 3.2]
CORNERS = [0.0, -0.0, 1.0, -1.0, 0.5]
UNARY = sorted(
    name for name, op in OPS.items() if op.arity == 1 and op.takes in ("float", "number")
    and op.gives == "same"
)  # fmt: skip
BINARY = ["add", "sub", "mul", "minimum", "maximum", "div", "mod", "fmod", "pow", "atan2"]
BINARY += ["floordiv", "truncdiv"]


def op(name: str, *args: Node, dtype: str = F64) -> Apply:
    return Apply(name, args, dtype)


def f(value: float) -> Const:
    return Const(value, F64)


def ours(root: Node, wrt: list[Node], env: dict[str, torch.Tensor], captures=()):
    """Gradients of sum(root * grad) by the symbolic rules, as tensors (or None)."""
    shape = torch.broadcast_shapes(*(t.shape for t in env.values()))
    found = gradients(root, wrt, GRAD)
    return [g if g is None else evaluate(g, env, captures, F64).expand(shape) for g in found]


def check(
    formula: Callable[..., torch.Tensor], root: Node, points: list[float], names: str
) -> None:
    """``root`` over x (and y) against autograd of ``formula``, at every pair of points."""
    axes = torch.meshgrid(*[torch.tensor(points, dtype=torch.float64)] * len(names), indexing="ij")
    leaves = [axis.flatten().clone().requires_grad_() for axis in axes]
    grad = torch.linspace(-1.3, 1.7, leaves[0].numel(), dtype=torch.float64)
    formula(*leaves).backward(grad)
    env = {name: leaf.detach() for name, leaf in zip(names, leaves, strict=True)} | {"grad": grad}
    wrt: list[Node] = [Input(name, F64) for name in names]
    for leaf, found in zip(leaves, ours(root, wrt, env), strict=True):
        found = torch.zeros_like(grad) if found is None else found
        expected = torch.zeros_like(grad) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-12, atol=1e-13)


def test_every_operation_has_a_row() -> None:
    assert RULES.keys() == OPS.keys()


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_argument(name: str) -> None:
    check(OPS[name].eager, op(name, X), SMOOTH + CORNERS, "x")


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_arguments(name: str) -> None:
    # At a zero divisor the quotients of autograd are inf and NaN in an order of its own.
    points = [p for p in SMOOTH + CORNERS if p != 0 or name not in ("mod", "fmod")]
    # torch.floor_divide itself has no derivative; as a rounding mode of div it is flat.
    eager = partial(torch.div, rounding_mode="floor") if name == "floordiv" else OPS[name].eager
    check(eager, op(name, X, Y), points, "xy")


@pytest.mark.parametrize("name", sorted(set(UNARY + BINARY) - {"floordiv", "truncdiv"}))
def test_finite_differences(name: str) -> None:
    """No autograd at all: where the function is smooth, the slope of its own values."""
    args = (X, Y)[: OPS[name].arity]
    x = torch.tensor([0.31, 0.62, 0.87] if name != "acosh" else [1.3, 2.1, 5.5]).double()
    y = torch.tensor([0.53, 1.7, 2.9]).double()
    env, h = {"x": x, "y": y}, 1e-6
    root = op(name, *args)
    for arg in args:
        up = evaluate(root, env | {arg.name: env[arg.name] + h}, [], F64)
        down = evaluate(root, env | {arg.name: env[arg.name] - h}, [], F64)
        found = evaluate(derivative(root, arg), env, [], F64).expand(3)
        torch.testing.assert_close(found, (up - down) / (2 * h), rtol=1e-7, atol=1e-8)


ABOVE = op("gt", X, f(0.25), dtype=BOOL)
FORMULAS: dict[str, tuple[Callable[..., torch.Tensor], Node]] = {
    "softcap": (
        lambda x: 20 * torch.tanh(x / 20),
        op("mul", f(20.0), op("tanh", op("div", X, f(20.0)))),
    ),
    "used twice": (
        lambda x: x * torch.sigmoid(x) + x,
        op("add", op("mul", X, op("sigmoid", X)), X),
    ),
    "softplus": (
        lambda x: torch.log(1 + torch.exp(x)),
        op("log", op("add", f(1.0), op("exp", X))),
    ),
    "power tower": (
        lambda x: (x * x + 1) ** (x * 0.5),
        op("pow", op("add", op("mul", X, X), f(1.0)), op("mul", X, f(0.5))),
    ),
    "clamp": (
        lambda x: torch.minimum(torch.maximum(x, torch.tensor(-1.0)), torch.tensor(0.5)) * x,
        op("mul", op("minimum", op("maximum", X, f(-1.0)), f(0.5)), X),
    ),
    "branches of one where": (
        lambda x: torch.where(x > 0.25, x * x, 3 * x).exp(),
        op("exp", op("where", ABOVE, op("mul", X, X), op("mul", f(3.0), X))),
    ),
    "detach": (
        lambda x: x * x.detach().exp(),
        op("mul", X, op("exp", op("detach", X))),
    ),
    "rounded": (
        lambda x: (x - x.round()) * x.floor(),
        op("mul", op("sub", X, op("round", X)), op("floor", X)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    formula, root = FORMULAS[name]
    check(formula, root, SMOOTH + CORNERS, "x")
    check(formula, simplify(root), SMOOTH + CORNERS, "x")


@given(st.integers(0, 10**6))
def test_random_programs(seed: int) -> None:
    """Nested and shared choices, min, max and products, against autograd on the whole graph."""
    program = random_program(seed, size=30)
    root = guard(program.score, find_sites(program), frozenset()).root
    raw = torch.linspace(-1.4, 1.6, 20, dtype=torch.float64).reshape(4, 5).requires_grad_()
    grad = torch.linspace(2.0, -1.0, 20, dtype=torch.float64).reshape(4, 5)
    captures = captured(seed)
    captures[1].requires_grad_()
    env = {**grid(4, 5), "b": 1, "h": 2, "n0": 3, "n1": -2, "score": raw}
    value = evaluate(root, env, captures, F64).expand(4, 5)
    if value.requires_grad:
        value.backward(grad)
    loads = score_loads(root, frozenset({1}))
    found = gradients(root, (Input("score", F64), *loads), GRAD)
    plain = [capture.detach() for capture in captures]
    env = env | {"score": raw.detach(), "grad": grad}
    at_score, *at_loads = (
        torch.zeros(4, 5).double() if g is None else evaluate(g, env, plain, F64).expand(4, 5)
        for g in found
    )
    expected = torch.zeros(4, 5).double() if raw.grad is None else raw.grad
    torch.testing.assert_close(at_score, expected)
    table = torch.zeros_like(plain[1])
    for load, part in zip(loads, at_loads, strict=True):
        index = tuple(evaluate(i, env, plain, F64).expand(4, 5) for i in load.indices)
        table.index_put_(index, part, accumulate=True)
    expected = torch.zeros_like(table) if captures[1].grad is None else captures[1].grad
    torch.testing.assert_close(table, expected)


def test_no_nan_from_the_branch_not_taken() -> None:
    """Infinite slopes inside the branch, and of what is applied to the whole where."""
    x = torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64)
    positive = op("gt", X, f(0.0), dtype=BOOL)
    inside = op("where", positive, op("log", op("sqrt", X)), f(0.0))
    (found,) = ours(inside, [X], {"x": x, "grad": torch.ones(3).double()})
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.125]).double())
    outside = op("sqrt", op("where", positive, X, f(0.0)))
    (found,) = ours(outside, [X], {"x": x, "grad": torch.ones(3).double()})
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.25]).double())


def test_two_ways_of_which_one_is_dead() -> None:
    """x arrives through a dead log and through a live product: only the product counts."""
    x = torch.tensor([0.0, 2.0], dtype=torch.float64)
    positive = op("gt", X, f(0.0), dtype=BOOL)
    root = op("add", op("where", positive, op("log", X), f(0.0)), op("mul", X, f(3.0)))
    (found,) = ours(root, [X], {"x": x, "grad": torch.ones(2).double()})
    torch.testing.assert_close(found, torch.tensor([3.0, 3.5]).double())


def test_two_ways_dead_at_the_same_place() -> None:
    """The slope of sqrt is infinite there, and nothing arrives: exactly 0."""
    x, root = torch.tensor([0.0, 4.0], dtype=torch.float64), op("sqrt", X)
    first = op("where", op("gt", X, f(0.0), dtype=BOOL), root, f(0.0))
    second = op("where", op("gt", X, f(1.0), dtype=BOOL), op("mul", root, f(3.0)), f(0.0))
    (found,) = ours(op("add", first, second), [X], {"x": x, "grad": torch.ones(2).double()})
    assert found.tolist() == [0.0, 1.0]


def test_opposite_conditions_at_different_depths() -> None:
    inner, outer = op("gt", X, f(0.0), dtype=BOOL), op("gt", Y, f(0.0), dtype=BOOL)
    deep = op("where", outer, op("where", inner, X, f(0.0)), f(0.0))
    shallow = op("where", inner, f(0.0), op("mul", X, f(3.0)))

    def formula(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        deep = torch.where(y > 0, torch.where(x > 0, x, 0.0), 0.0)
        return deep + torch.where(x > 0, 0.0, 3 * x)

    check(formula, op("add", deep, shallow), SMOOTH, "xy")
    check(formula, op("add", shallow, deep), SMOOTH, "xy")


def test_a_long_chain_of_choices_stays_linear() -> None:
    """for i in range(40): score = where(q == i, score + t[i], score)."""
    score: Node = Input("score", F64)
    for i in range(40):
        at = op("eq", Input("q_idx", I64), Const(i, I64), dtype=BOOL)
        score = op("where", at, op("add", score, Load(0, (Const(i, I64),), F64)), score)
    loads = score_loads(score, frozenset({0}))
    found = gradients(score, (Input("score", F64), *loads), GRAD)
    assert simplify(found[0]) is GRAD
    assert sum(1 for _ in walk(*found)) < 40 * 10
    env = {"q_idx": torch.arange(40), "grad": torch.ones(40, dtype=torch.float64)}
    for i, grad in enumerate(found[1:]):
        assert evaluate(grad, env, [], F64).tolist() == [float(i == q) for q in range(40)]


def test_override_grad() -> None:
    root = op("mul", op("override_grad", op("sign", X), X, f(2.0), Y, X), Y)
    env = {"x": torch.tensor([3.0]).double(), "y": torch.tensor([5.0]).double()}
    dx, dy = ours(root, [X, Y], env | {"grad": torch.ones(1).double()})
    assert dx.item() == 2 * 5 and dy.item() == 3 * 5 + 1


def test_independence_is_none() -> None:
    compared = op("where", op("gt", X, Y, dtype=BOOL), f(1.0), f(2.0))
    assert gradients(compared, (X, Y), GRAD) == (None, None)
    assert gradients(f(1.0), (X,), GRAD) == (None,)
    assert derivative(op("detach", X), X) is f(0.0)


def test_loads_are_separate_and_in_order() -> None:
    here, there = Load(0, (Input("q_idx", I64),), F64), Load(0, (Input("kv_idx", I64),), F64)
    index = op("to_int", Load(1, (), F64), dtype=I64)
    root = op("mul", op("add", here, there), Load(0, (index,), F64))
    loads = score_loads(root, frozenset({0}))
    assert loads[:2] == (here, there) and len(loads) == 3
    assert score_loads(root, frozenset({1})) == (Load(1, (), F64),)
    assert gradients(root, score_loads(root, frozenset({1})), GRAD) == (None,)


def test_gradient_of_the_second_factor_of_pow_at_zero() -> None:
    root = op("pow", X, Y)
    env = {"x": torch.zeros(2).double(), "y": torch.tensor([2.0, -1.0]).double()}
    _, dy = ours(root, [X, Y], env | {"grad": torch.ones(2).double()})
    assert dy[0] == 0 and math.isinf(dy[1].item())
