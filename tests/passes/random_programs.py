"""Random small programs, and a scalar evaluator of the rule for what counts as an error."""

from __future__ import annotations

import random
from typing import Any

import torch

from flexattn.ir.nodes import BOOL, F64, I64, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType, Program

INT_OPS = ("add", "sub", "mul", "minimum", "maximum", "and", "or", "xor")
SITE_OPS = ("floordiv", "truncdiv", "mod", "fmod", "shl", "shr")
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
FLOAT_OPS = ("add", "sub", "mul", "minimum", "maximum")

# One integer vector, one float matrix, one bool vector.
CAPTURES = (CaptureType("i32", 1), CaptureType("f64", 2), CaptureType("bool", 1))
NUMBERS = ("i64", "i64")


def random_program(seed: int, size: int = 14) -> Program:
    """A program over `CAPTURES` and `NUMBERS` in f64, rich in sites."""
    rng = random.Random(seed)
    ints: list[Node] = [Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx", "n0", "n1")]
    ints += [Const(value, I64) for value in (-1, 0, 2, 3)]
    floats: list[Node] = [Input("score", F64), Const(0.5, F64), Const(-2.0, F64)]
    bools: list[Node] = [Apply("ge", (ints[2], ints[3]), BOOL)]
    for _ in range(size):
        kind = rng.choice(("int", "int", "site", "load", "load", "bool", "bool", "float", "where"))
        _grow(kind, rng, ints, floats, bools)
    return Program(floats[-1], bools[-1], CAPTURES, NUMBERS, F64)


def _grow(
    kind: str, rng: random.Random, ints: list[Node], floats: list[Node], bools: list[Node]
) -> None:
    def pick(pool: list[Node]) -> Node:
        return rng.choice(pool[-6:] if rng.random() < 0.6 else pool)

    match kind:
        case "int":
            ints.append(Apply(rng.choice(INT_OPS), (pick(ints), pick(ints)), I64))
            if rng.random() < 0.2:
                ints.append(Apply(rng.choice(("neg", "abs", "sign", "not")), (pick(ints),), I64))
        case "site":
            ints.append(Apply(rng.choice(SITE_OPS), (pick(ints), pick(ints)), I64))
        case "load":
            which = rng.randrange(3)
            if which == 0:
                ints.append(Load(0, (pick(ints),), I64))
            elif which == 1:
                floats.append(Load(1, (pick(ints), pick(ints)), F64))
            else:
                bools.append(Load(2, (pick(ints),), BOOL))
        case "bool":
            op = rng.choice(("compare", "compare", "and", "or", "xor", "not", "float"))
            if op == "compare":
                bools.append(Apply(rng.choice(COMPARE), (pick(ints), pick(ints)), BOOL))
            elif op == "float":
                bools.append(Apply("lt", (pick(floats), pick(floats)), BOOL))
            elif op == "not":
                bools.append(Apply("not", (pick(bools),), BOOL))
            else:
                bools.append(Apply(op, (pick(bools), pick(bools)), BOOL))
        case "float":
            floats.append(Apply(rng.choice(FLOAT_OPS), (pick(floats), pick(floats)), F64))
            if rng.random() < 0.4:
                source = pick(ints) if rng.random() < 0.5 else pick(bools)
                floats.append(Apply("to_float", (source,), F64))
        case "where":
            pool, dtype = rng.choice(((ints, I64), (floats, F64), (bools, BOOL)))
            pool.append(Apply("where", (pick(bools), pick(pool), pick(pool)), dtype))


def captured(seed: int, sizes: tuple[int, int, int, int] = (5, 3, 4, 6)) -> list[torch.Tensor]:
    """Tensors for `CAPTURES`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-3, 7, sizes[:1], generator=generator, dtype=torch.int32),
        torch.randn(sizes[1:3], generator=generator, dtype=torch.float64),
        torch.rand(sizes[3:], generator=generator) < 0.5,
    ]


def grid(m: int, n: int) -> dict[str, torch.Tensor]:
    """q_idx and kv_idx of an m x n block, ready to broadcast."""
    return {"q_idx": torch.arange(m)[:, None], "kv_idx": torch.arange(n)[None, :]}


class Poison(Exception):
    """The value is an error."""


def scalar(root: Node, env: dict[str, Any], captures: list[Any]) -> Any:
    """The value of ``root`` at one position in Python numbers; raises `Poison` for an error.

    Errors are lazy: the side of a ``where`` not chosen is not looked at, and a sound False (True)
    on one side of ``and`` (``or``) hides the other side.
    """
    memo: dict[Node, Any] = {}

    def value(node: Node) -> Any:
        if node not in memo:
            try:
                memo[node] = compute(node)
            except Poison as error:
                memo[node] = error
        if isinstance(memo[node], Poison):
            raise memo[node]
        return memo[node]

    def compute(node: Node) -> Any:
        match node:
            case Const(constant):
                return constant
            case Input(name):
                return env[name]
            case Load(capture, indices):
                found = captures[capture]
                for index in map(value, indices):
                    if not -len(found) <= index < len(found):
                        raise Poison
                    found = found[index]
                return found
            case Apply("where", (c, a, b)):
                return value(a) if value(c) else value(b)
            case Apply("and" | "or" as op, (a, b), dtype) if dtype == BOOL:
                return _hiding(op, a, b)
            case Apply(op, args, dtype):
                return _scalar_op(op, [value(arg) for arg in args], dtype)
        raise TypeError(node)

    def _hiding(op: str, a: Node, b: Node) -> bool:
        hides = op == "or"
        seen = []
        for arg in (a, b):
            try:
                seen.append(value(arg))
            except Poison:
                seen.append(None)
        if hides in seen:
            return hides
        if None in seen:
            raise Poison
        return not hides

    return value(root)


def _scalar_op(op: str, args: list[Any], dtype: str) -> Any:
    a, b = args[0], args[-1]
    if op in ("floordiv", "truncdiv", "mod", "fmod"):
        if b == 0:
            raise Poison
        exact = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return _wrap(
            {"floordiv": a // b, "mod": a % b, "truncdiv": exact, "fmod": a - b * exact}[op]
        )
    if op in ("shl", "shr"):
        if not 0 <= b < 64:
            raise Poison
        return _wrap(a << b if op == "shl" else a >> b)
    result = {
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "minimum": lambda: min(a, b),
        "maximum": lambda: max(a, b),
        "and": lambda: a & b,
        "or": lambda: a | b,
        "xor": lambda: a ^ b,
        "neg": lambda: -a,
        "abs": lambda: abs(a),
        "sign": lambda: (a > 0) - (a < 0),
        "not": lambda: not a if dtype == BOOL else ~a,
        "eq": lambda: a == b,
        "ne": lambda: a != b,
        "lt": lambda: a < b,
        "le": lambda: a <= b,
        "gt": lambda: a > b,
        "ge": lambda: a >= b,
        "to_float": lambda: float(a),
    }[op]()
    return _wrap(result) if dtype == I64 else result


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, any NaN equal to any other."""
    a, b = torch.broadcast_tensors(a, b)
    if a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        both = a.isnan() & b.isnan()
        return bool((both | ((a == b) & (a.signbit() == b.signbit()))).all())
    return bool((a == b).all())


def operations(*roots: Node | None) -> int:
    """Number of operations and loads."""
    return sum(1 for node in walk(*roots) if isinstance(node, Apply | Load))
