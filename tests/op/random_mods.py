"""Hypothesis strategies for score_mods, mask_mods and the shapes to run them on."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor

# An expression takes (inputs by name, captured tensors by name).
Expression: TypeAlias = Callable[[dict[str, Any], dict[str, Tensor]], Any]

TABLE = 23
"""Sizes of captured dimensions; indices are clamped to it."""


@dataclass
class RandomMods:
    """Mods with the shape to run them on.

    Attributes:
        score: Expression of the score_mod, or None.
        mask: Expression of the mask_mod, or None.
        text: Both, readable, for reports of failing examples.
    """

    score: Expression | None
    mask: Expression | None
    text: str
    shape: tuple[int, ...]
    block: tuple[int, int]

    def __repr__(self) -> str:
        return f"{self.text} on {self.shape}, blocks {self.block}"

    def captures(self, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
        batch, heads = self.shape[:2]
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

        return {
            "per_head": randn(heads),
            "table": randn(heads, TABLE),
            "grid": randn(TABLE, TABLE),
            "by_batch": randn(batch, TABLE),
            "gate": randn(),
            "ids": torch.randint(0, 5, (TABLE,), generator=generator, dtype=torch.int32),
            "flags": torch.randint(0, 10, (TABLE,), generator=generator) < 7,
        }

    def make(self, captures: dict[str, Tensor]) -> tuple[Any, Any]:
        def score_mod(score, b, h, q_idx, kv_idx):
            assert self.score is not None
            inputs = {"score": score, "b": b, "h": h, "q": q_idx, "k": kv_idx}
            # Bounded, so that rows keep more than one weight.
            return 0.5 * score + 3.0 * torch.tanh(self.score(inputs, captures))

        def mask_mod(b, h, q_idx, kv_idx):
            assert self.mask is not None
            return self.mask({"b": b, "h": h, "q": q_idx, "k": kv_idx}, captures)

        return score_mod if self.score else None, mask_mod if self.mask else None


Typed: TypeAlias = tuple[Expression, str]


def _leaf(name: str) -> Typed:
    return lambda i, c: i[name], name


def _number(value: float) -> Typed:
    return lambda i, c: value, repr(value)


def _binary(sign: str, function: Callable[..., Any]) -> Callable[[Typed, Typed], Typed]:
    def build(a: Typed, b: Typed) -> Typed:
        return lambda i, c: function(a[0](i, c), b[0](i, c)), f"({a[1]} {sign} {b[1]})"

    return build


def _unary(name: str, function: Callable[..., Any]) -> Callable[[Typed], Typed]:
    return lambda a: (lambda i, c: function(a[0](i, c)), f"{name}({a[1]})")


def _load(name: str, *indices: Typed) -> Typed:
    def run(i: dict[str, Any], c: dict[str, Tensor]) -> Any:
        return c[name][tuple(index[0](i, c) for index in indices)]

    return run, f"{name}[{', '.join(index[1] for index in indices)}]"


def _place(a: Typed) -> Typed:
    return lambda i, c: a[0](i, c).clamp(0, TABLE - 1), f"place({a[1]})"


def _where(a: Typed, b: Typed, d: Typed) -> Typed:
    def run(i: dict[str, Any], c: dict[str, Tensor]) -> Any:
        return torch.where(a[0](i, c), b[0](i, c), d[0](i, c))

    return run, f"where({a[1]}, {b[1]}, {d[1]})"


SMALL = st.integers(2, 9).map(_number)
INT_LEAVES = st.sampled_from(["b", "h", "q", "k"]).map(_leaf)


def _more_ints(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        st.builds(_binary("+", operator.add), inner, inner),
        st.builds(_binary("-", operator.sub), inner, inner),
        st.builds(_binary("*", operator.mul), inner, SMALL),
        st.builds(_binary("//", operator.floordiv), inner, SMALL),
        st.builds(_binary("%", operator.mod), inner, SMALL),
        st.builds(_unary("abs", abs), inner),
        st.builds(lambda a: _load("ids", _place(a)), inner),
    )


INTS = st.recursive(INT_LEAVES, _more_ints, max_leaves=4)

COMPARISONS = {
    ">=": operator.ge,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
BOOL_LEAVES = st.one_of(
    *(st.builds(_binary(sign, f), INTS, INTS) for sign, f in COMPARISONS.items()),
    st.builds(_binary("<=", operator.le), INTS, SMALL),
    st.builds(lambda a: _load("flags", _place(a)), INTS),
)
BOOLS = st.recursive(
    BOOL_LEAVES,
    lambda inner: st.one_of(
        st.builds(_binary("&", operator.and_), inner, inner),
        st.builds(_binary("|", operator.or_), inner, inner),
        st.builds(_unary("~", operator.invert), inner),
    ),
    max_leaves=3,
)

FLOAT_NUMBERS = st.sampled_from([0.3, -1.5, 2.0, 0.125]).map(_number)
FLOAT_LEAVES = st.one_of(
    st.just(_leaf("score")),
    st.just(_load("per_head", _leaf("h"))),
    st.just(_load("gate")),
    st.builds(lambda a: _load("table", _leaf("h"), _place(a)), INTS),
    st.builds(lambda a: _load("by_batch", _leaf("b"), _place(a)), INTS),
    st.builds(lambda a, b: _load("grid", _place(a), _place(b)), INTS, INTS),
    st.builds(_binary("*", operator.mul), INTS, FLOAT_NUMBERS),
)


def _more_floats(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        st.builds(_binary("+", operator.add), inner, inner),
        st.builds(_binary("-", operator.sub), inner, FLOAT_NUMBERS),
        st.builds(_binary("*", operator.mul), inner, inner),
        st.builds(_binary("/", operator.truediv), inner, FLOAT_NUMBERS),
        st.builds(_binary("max", torch.maximum), inner, inner),
        st.builds(_unary("sigmoid", torch.sigmoid), inner),
        st.builds(_unary("sin", torch.sin), inner),
        st.builds(_unary("exp_of_tanh", lambda x: torch.exp(torch.tanh(x))), inner),
        st.builds(_unary("abs", torch.abs), inner),
        st.builds(_unary("log1p_abs", lambda x: torch.log1p(abs(x))), inner),
        st.builds(_where, BOOLS, inner, inner),
    )


FLOATS = st.recursive(FLOAT_LEAVES, _more_floats, max_leaves=5)


@st.composite
def random_mods(draw: st.DrawFn, max_length: int = 150) -> RandomMods:
    """Mods and shapes; at least one of the mods is there."""
    with_score = draw(st.booleans())
    score = draw(FLOATS) if with_score else None
    mask = draw(BOOLS) if not with_score or draw(st.booleans()) else None
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    shape = (
        draw(st.integers(1, 2)),
        kv_heads * group,
        kv_heads,
        draw(st.integers(1, max_length)),
        draw(st.integers(1, max_length)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 40)),
    )
    block = draw(st.tuples(st.sampled_from([1, 16, 64, 100]), st.sampled_from([8, 32, 128])))
    text = f"score {score and score[1]}, mask {mask and mask[1]}"
    return RandomMods(score and score[0], mask and mask[0], text, shape, block)
