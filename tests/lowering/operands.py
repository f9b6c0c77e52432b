"""Graphs and captured tensors that put every operation and every way to load to the test."""

from __future__ import annotations

import random

import torch

from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Load, Node
from flexattn.ir.ops import OPS, result_dtype

M, N = 70, 133  # more than a tile of each, and no multiple of a vector
Q, K, H, B = (Input(name, I64) for name in ("q_idx", "kv_idx", "h", "b"))
ZERO = Const(0, I64)


def operands(dtype: torch.dtype) -> list[torch.Tensor]:
    """Two float, two integer and two bool captures [M, N], and benign floats and counts."""
    special = torch.tensor(
        [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e30, float("inf"), -float("inf"), float("nan")]
    )
    x, y = 3 * torch.randn(2, M, N, dtype=torch.float64).to(dtype)
    x[:11, :11], y[:11, :11] = special.view(-1, 1), special
    big = torch.tensor([2**62, -(2**63), 2**63 - 1, -1, 1, 7, -7])
    a, b = torch.randint(-50, 50, (2, M, N))
    b[b == 0] = 3
    a[:7, :7], b[:7, :7] = big.view(-1, 1), big
    return [
        x, y, a, b, torch.rand(M, N) < 0.5, torch.rand(M, N) < 0.5,
        3 * torch.randn(M, N, dtype=dtype), torch.randint(0, 63, (M, N)),
    ]  # fmt: skip


def places(capture: int, dtype: str) -> list[Node]:
    """A capture read per pair, per query, per key, and once."""
    spots = ((Q, K), (Q, ZERO), (ZERO, K), (ZERO, ZERO))
    return [Load(capture, spot, dtype) for spot in spots]


def roots_of(op: str, compute: str) -> list[Node]:
    """Applications of one operation to every kind of operand it takes."""
    kinds = {"float": ((0, 1, compute),), "bool": ((4, 5, BOOL),), "int": ((2, 3, I64),)}
    takes = {
        "float": ("float",), "int": ("int",), "bool": ("bool",), "number": ("float", "int"),
        "integral": ("int", "bool"), "any": ("float", "int", "bool"),
    }[OPS[op].takes]  # fmt: skip
    found: list[Node] = []
    for kind in takes:
        for first, second, dtype in kinds[kind]:
            if op in ("to_int", "to_i32") and kind != "bool":
                first = 6 if kind == "float" else 7
            right = places(7 if op in ("shl", "shr") else second, dtype)
            for left, other in zip(places(first, dtype), right):
                args: tuple[Node, ...] = (left, other)[: max(1, OPS[op].arity)]
                if op == "where":
                    args = (Load(4, left.args, BOOL), left, other)
                elif op == "override_grad":
                    args = (left, other, other)
                elif op == "pow" and dtype == I64:
                    args = (left, Const(3, I64))
                found.append(
                    Apply(op, args, result_dtype(op, tuple(a.dtype for a in args), compute))
                )
    if op == "pow":
        base = Load(6, (Q, K), compute)
        found += [
            Apply("pow", (base, Const(e, compute)), compute)
            for e in (2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 0.0, 1.7)
        ]
    return found


def captures_of_all_kinds() -> list[torch.Tensor]:
    """One capture of every dtype and many layouts: views with offset, transposed, broadcast."""
    ints = torch.randint(-100, 100, (2, 3, M, N))
    return [
        torch.randn(2, 3, M, N),
        torch.randn(N, M).t(),  # neighbouring queries are neighbours in memory
        torch.randn(3, 1, N).expand(3, M, N),
        torch.randn(2 * M, 3 * N)[3 : M + 3, ::3],
        torch.randn(M, N).to(torch.bfloat16), torch.randn(N, M).t().to(torch.bfloat16),
        torch.randn(N, M).to(torch.float16).t(), torch.randn(N, M).double().t(),
        ints[0, 0].to(torch.int32), ints[0].to(torch.int8), ints.abs().to(torch.uint8), ints,
        ints.to(torch.int16)[1, 2].t().contiguous().t(),
        ints[0, 1].to(torch.int32).t().contiguous().t(),
        torch.rand(M, N) < 0.5, torch.tensor(2.5), torch.tensor(7), torch.randn(M + N),
    ]  # fmt: skip


def loads(captures: list[torch.Tensor], compute: str) -> list[Node]:
    reflected = Apply("sub", (Const(N - 1, I64), K), I64)
    found: list[Node] = []
    for number, capture in enumerate(captures):
        dtype = (
            compute if capture.is_floating_point() else BOOL if capture.dtype == torch.bool else I64
        )
        heads = {4: (B, H), 3: (H,), 2: (), 1: (), 0: ()}[capture.dim()]
        if capture.dim() >= 2:
            ends = [(Q, K), (Q, ZERO), (ZERO, K), (Q, reflected), (Const(-1, I64), K)]
        elif capture.dim() == 1:
            ends = [(Q,), (K,), (Apply("add", (Q, K), I64),), (H,)]
        else:
            ends = [()]
        found += [Load(number, (*heads, *end), dtype) for end in ends if not negative(end)]
    return found


def negative(end: tuple[Node, ...]) -> bool:
    return any(isinstance(index, Const) and index.value < 0 for index in end)


INT_OPS = ("add", "sub", "mul", "minimum", "maximum", "and", "or", "xor")
FLOAT_OPS = ("add", "sub", "minimum", "maximum", "mul")


def random_graphs(seed: int, count: int = 24) -> list[Node]:
    """Graphs whose values stay near 1 (floats) and below 2**31 (integers)."""
    rng = random.Random(seed)
    ints: list[Node] = [
        Q,
        K,
        H,
        B,
        Const(3, I64),
        Input("n0", I64),
        Load(2, (Q,), I64),
        Load(2, (K,), I64),
    ]
    floats: list[Node] = [
        Input("score", F32),
        Input("n1", F32),
        Load(0, (Q, K), F32),
        Load(1, (H,), F32),
    ]
    bools: list[Node] = [Apply("ge", (Q, K), BOOL), Load(3, (K,), BOOL)]
    roots: list[Node] = []
    while len(roots) < count:
        kind = rng.randrange(6)
        if kind == 0:
            node = Apply(rng.choice(INT_OPS), (rng.choice(ints), rng.choice(ints)), I64)
            ints.append(Apply("mod", (node, Const(rng.choice((5, 97, -7)), I64)), I64))
            roots.append(ints[-1])
        elif kind == 1:
            node = Apply(
                rng.choice(("floordiv", "truncdiv", "fmod")),
                (rng.choice(ints), Const(rng.choice((2, -3, 8)), I64)),
                I64,
            )
            ints.append(node)
            roots.append(node)
        elif kind == 2:
            a, b = rng.choice((rng.sample(ints, 2), rng.sample(floats[:4], 2)))
            bools.append(Apply(rng.choice(("eq", "ne", "lt", "le", "gt", "ge")), (a, b), BOOL))
            roots.append(bools[-1])
        elif kind == 3:
            bools.append(
                Apply(rng.choice(("and", "or", "xor", "eq", "ne")), rng.sample(bools, 2), BOOL)
            )
            roots.append(bools[-1])
        elif kind == 4:
            node = Apply(rng.choice(FLOAT_OPS), rng.sample(floats, 2), F32)
            floats.append(Apply(rng.choice(("tanh", "sigmoid", "sin")), (node,), F32))
            roots.append(floats[-1])
        else:
            pool = rng.choice((ints, floats, bools))
            node = Apply("where", (rng.choice(bools), *rng.sample(pool, 2)), pool[0].dtype)
            pool.append(node)
            roots.append(node)
    return roots
