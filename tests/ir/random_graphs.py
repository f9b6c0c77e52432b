"""Random well-formed programs, built directly from the operation table."""

from __future__ import annotations

import hypothesis.strategies as st

from flexattn.ir.nodes import BOOL, F32, F64, I32, I64, Apply, Const, Input, Load, Node
from flexattn.ir.ops import OPS, Op, result_dtype
from flexattn.ir.program import CaptureType, Program

CAPTURES = (
    CaptureType("bf16", 1),
    CaptureType("i32", 2),
    CaptureType("bool", 0),
    CaptureType("f64", 4),
    CaptureType("u8", 3),
)
TAKES = {
    "float": ("float",),
    "int": (I64,),
    "bool": (BOOL,),
    "number": ("float", I64),
    "integral": (I64, BOOL),
    "any": ("float", I64, BOOL),
}


@st.composite
def programs(draw: st.DrawFn, size: int = 25) -> Program:
    """Programs of up to ``size`` operations, every node of the pool usable by the next."""
    compute = draw(st.sampled_from([F32, F64]))
    pool: dict[str, list[Node]] = {
        compute: [Input("score", compute), Input("n1", compute)],
        I64: [Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx", "n0", "size1_1")],
        BOOL: [Const(True, BOOL), Load(2, (), BOOL)],
    }
    for value in draw(st.lists(st.floats(width=32 if compute == F32 else 64), max_size=4)):
        pool[compute].append(Const(value if value == value else float("nan"), compute))
    for integer in draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)):
        pool[I64].append(Const(integer, I64))
    for _ in range(draw(st.integers(0, size))):
        node = draw(_applies(pool, compute) | _loads(pool, compute))
        pool[node.dtype].append(node)
    score = draw(st.none() | st.sampled_from(pool[compute]))
    mask = draw(st.none() | st.sampled_from(pool[BOOL]))
    return Program(score, mask, CAPTURES, (I64, compute), compute)


def _loads(pool: dict[str, list[Node]], compute: str) -> st.SearchStrategy[Node]:
    def load(number: int) -> st.SearchStrategy[Node]:
        capture = CAPTURES[number]
        dtype = BOOL if capture.dtype == "bool" else compute
        dtype = I64 if capture.dtype in ("i32", "u8") else dtype
        index = st.sampled_from(pool[I64])
        return st.lists(index, min_size=capture.ndim, max_size=capture.ndim).map(
            lambda indices: Load(number, indices, dtype)
        )

    return st.integers(0, len(CAPTURES) - 1).flatmap(load)


def _applies(pool: dict[str, list[Node]], compute: str) -> st.SearchStrategy[Node]:
    rows = [op for op in OPS.values() if op.name not in ("to_i32", "to_i64")]
    return st.sampled_from(rows).flatmap(lambda op: _apply(op, pool, compute))


@st.composite
def _apply(draw: st.DrawFn, op: Op, pool: dict[str, list[Node]], compute: str) -> Node:
    dtype = draw(st.sampled_from(TAKES[op.takes]))
    dtype = compute if dtype == "float" else dtype
    count = op.arity if op.arity >= 0 else draw(st.sampled_from([1, 3, 5]))
    args = [draw(st.sampled_from(pool[dtype])) for _ in range(count)]
    if op.name == "where":
        args[0] = draw(st.sampled_from(pool[BOOL]))
    if op.name == "pow" and dtype == I64:
        args[1] = Const(draw(st.integers(0, 4)), I64)
    return Apply(op.name, args, result_dtype(op.name, tuple(a.dtype for a in args), compute))


__all__ = ["CAPTURES", "I32", "programs"]
