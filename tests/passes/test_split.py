"""Hoisted values put back give the very graph that was split."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from random_programs import random_program

from flexattn.ir.nodes import F32, I64, Apply, Const, Input, Load, Node, rewrite, walk
from flexattn.passes.split import Hoisted, split

B, H, Q, KV = (Input(name, I64) for name in ("b", "h", "q_idx", "kv_idx"))
SCORE = Input("score", F32)


def put_back(root: Node, hoisted: Hoisted) -> Node:
    values = {"u": hoisted.uniform, "q": hoisted.q, "kv": hoisted.kv}

    def rule(node: Node) -> Node:
        if isinstance(node, Input) and ":" in node.name:
            kind, number = node.name.split(":")
            return put_back(values[kind][int(number)], hoisted)
        return node

    return rewrite(root, rule)


def names(*roots: Node) -> set[str]:
    return {node.name.split(":")[0] for node in walk(*roots) if isinstance(node, Input)}


@given(st.integers(0, 10**6))
def test_putting_back(seed: int) -> None:
    program = random_program(seed, size=20)
    hoisted = split([program.score, program.mask])
    assert put_back(hoisted.roots[0], hoisted) is program.score
    assert put_back(hoisted.roots[1], hoisted) is program.mask
    outer = {"b", "h", "n0", "n1"}
    assert names(*hoisted.uniform) <= outer
    assert names(*hoisted.q) <= outer | {"u", "q_idx", "q"} and "q" not in names(*hoisted.q)
    assert names(*hoisted.kv) <= outer | {"u", "kv_idx"}
    for root in hoisted.roots:  # nothing one-sided is left inside
        for node in walk(root):
            if not isinstance(node, Input | Const):
                kinds = names(node) & {"q_idx", "q", "kv_idx", "kv", "score"}
                sides = {"q" if k[0] == "q" else "kv" if k[0] == "k" else k for k in kinds}
                assert sides == {"q", "kv"} or "score" in sides


def test_what_is_hoisted_where() -> None:
    slope = Load(0, (H,), F32)
    document = Load(1, (B, Q), I64), Load(1, (B, KV), I64)
    same = Apply("eq", document, "bool")
    distance = Apply("to_float", (Apply("sub", (Q, KV), I64),), F32)
    score = Apply("add", (SCORE, Apply("mul", (slope, distance), F32)), F32)
    hoisted = split([Apply("where", (same, score, SCORE), F32)])
    assert hoisted.uniform == (slope,)
    assert hoisted.q == document[:1] and hoisted.kv == document[1:]
    assert hoisted.q[0].dtype == I64


def test_inputs_and_constants_stay() -> None:
    causal = Apply("ge", (Q, KV), "bool")
    assert split([causal]) == Hoisted((), (), (), (causal,))
    assert split([Q, Const(1, I64)]).roots == (Q, Const(1, I64))


def test_a_root_of_one_side_is_hoisted_whole() -> None:
    padding = Apply("lt", (KV, Load(0, (B,), I64)), "bool")
    hoisted = split([padding])
    assert hoisted.roots == (Input("kv:0", "bool"),)
    assert hoisted.kv == (Apply("lt", (KV, Input("u:0", I64)), "bool"),)
