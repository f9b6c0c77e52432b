"""Random masks: whatever their form, lengths and tiles, every claim is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_truth import assert_sound

from flexattn.analysis.tiles.classify import Question, as_array, classify_tiles
from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node

B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))
LENGTH = 24  # of the tables; indices beyond it are clamped

small = st.integers(-3, 12).map(lambda value: Const(value, I64))
positions = st.sampled_from([Q, KV, Q, KV, Apply("sub", (Q, KV), I64), B, H])


def clamp(node: Node, size: int) -> Node:
    low = Apply("maximum", (node, Const(0, I64)), I64)
    return Apply("minimum", (low, Const(size - 1, I64)), I64)


def extend_ints(ints: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    two = st.tuples(ints, ints)
    return st.one_of(
        st.builds(
            lambda op, args: Apply(op, args, I64),
            st.sampled_from(["add", "sub", "mul", "minimum", "maximum", "and", "or", "xor"]),
            two,
        ),
        st.builds(lambda op, a: Apply(op, (a,), I64), st.sampled_from(["neg", "abs", "not"]), ints),
        st.builds(
            lambda op, a, n: Apply(op, (a, Const(n, I64)), I64),
            st.sampled_from(["floordiv", "mod", "truncdiv", "fmod"]),
            ints,
            st.integers(1, 9),
        ),
        st.builds(
            lambda op, a, n: Apply(op, (a, Const(n, I64)), I64),
            st.sampled_from(["shl", "shr"]),
            ints,
            st.integers(0, 3),
        ),
        st.builds(lambda c, a: Load(c, (clamp(a, LENGTH),), I64), st.integers(0, 2), ints),
        st.builds(
            lambda a, x, y, op: Apply("where", (Apply(op, (a, x), BOOL), x, y), I64),
            ints,
            ints,
            ints,
            st.sampled_from(["lt", "eq"]),
        ),
    )


ints = st.recursive(st.one_of(positions, positions, small), extend_ints, max_leaves=5)
comparisons = st.builds(
    lambda op, a, b: Apply(op, (a, b), BOOL),
    st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]),
    ints,
    ints,
)
tables = st.one_of(
    st.builds(lambda a: Load(3, (clamp(a, LENGTH),), BOOL), ints),
    st.builds(lambda a, b: Load(4, (clamp(a, LENGTH), clamp(b, 9)), BOOL), ints, ints),
)


def extend_bools(bools: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.one_of(
        st.builds(
            lambda op, a, b: Apply(op, (a, b), BOOL),
            st.sampled_from(["and", "and", "or", "or", "xor", "eq", "ne"]),
            bools,
            bools,
        ),
        st.builds(lambda a: Apply("not", (a,), BOOL), bools),
        st.builds(lambda c, a, b: Apply("where", (c, a, b), BOOL), bools, bools, bools),
    )


masks = st.recursive(st.one_of(comparisons, comparisons, tables), extend_bools, max_leaves=5)


def captures(seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = (torch.rand(LENGTH, generator=g) < 0.3).cumsum(0)
    loose = torch.randint(-1, 6, (LENGTH,), generator=g)
    wide = torch.randint(-99, 99, (LENGTH,), generator=g)
    flags = torch.rand(LENGTH, generator=g) < 0.3
    return [ids, loose, wide, flags, torch.rand(LENGTH, 9, generator=g) < 0.6]


def brute(mask: Node, shape: tuple[int, int, int, int], tensors: list[torch.Tensor]) -> np.ndarray:
    index = {
        name: torch.arange(n).reshape([-1 if axis == d else 1 for axis in range(4)])
        for d, (name, n) in enumerate(zip(("b", "h", "q_idx", "kv_idx"), shape))
    }
    return evaluate(mask, index, tensors).expand(shape).numpy()


@settings(max_examples=400, deadline=None)
@given(
    masks,
    st.integers(0, 9),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([(8, 8), (16, 8), (5, 7), (16, 32), (3, 3)]),
    st.sampled_from([(1, 1), (2, 3)]),
)
def test_random_masks(
    mask: Node, seed: int, q_len: int, kv_len: int, block: tuple[int, int], heads: Any
) -> None:
    tensors, shape = captures(seed), (*heads, q_len, kv_len)
    asked = Question(mask, None, [as_array(t) for t in tensors], {}, shape, block)
    assert_sound(classify_tiles(asked), brute(mask, shape, tensors), block)
