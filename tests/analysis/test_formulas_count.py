"""Counts as formulas: every value they give is the number of pairs found by trying them all."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import study_vision  # noqa: F401 - adds its masks
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from read_formulas import latex_value, pairs, value
from study_masks import MASKS, build

from flexattn.analysis.closed.linear import minus, plus
from flexattn.analysis.closed.pieces import BEGIN, END, ClosedForm, Piece, Positive, Repeat
from flexattn.analysis.closed.solve import solve
from flexattn.analysis.formulas.count import Count, count_formula, flops_formula
from flexattn.ir.nodes import I64, Apply, Const, Input, Node
from flexattn.op.symbolic import bind_mask

pytestmark = pytest.mark.null

Q, N0, N1 = Input("q_idx", I64), Input("n0", I64), Input("n1", I64)
IDS = torch.tensor([0, 0, 1, 1])


def closed(mod: Any, solved: str = "kv_idx") -> ClosedForm:
    program = bind_mask(mod).variant.program
    form = solve(program.mask, program.captures, len(program.numbers), solved)
    assert form is not None
    return form


def numbers(mod: Any) -> dict[str, int]:
    """What a mask's lifted numbers are; another mask of its kind may have lifted them."""
    return {f"n{i}": value for i, value in enumerate(bind_mask(mod).ints)}


def counted(form: ClosedForm, mod: Any = None, **options: Any) -> Count:
    if mod is not None:
        options["numbers"] = numbers(mod)
    found = count_formula(form, **options)
    assert found is not None
    return found


TEXTS = [
    (lambda b, h, q, k: q >= k, "N·(N + 1)/2"),
    (lambda b, h, q, k: q >= 0, "N²"),
    (lambda b, h, q, k: (q >= k) & (q - k < 1024), "1024·N − 523776 if N ≥ 1023"),
    (lambda b, h, q, k: (q >= k) | (k < 6), "(N² + N + 30)/2 if N ≥ 6"),
    (lambda b, h, q, k: (q >= k) & ((q - k < 7) | (k < 3)), "10·N − 45 if N ≥ 10"),
    (
        lambda b, h, q, k: (q >= k) & (q // 8 == k // 8),
        "(N mod 8)²/2 + (N mod 8)/2 + 36·⌊N/8⌋",
    ),
    (lambda b, h, q, k: (q >= k) & (k % 8 >= 6), "N·(N − 5)/8 if N mod 8 = 0"),
    (lambda b, h, q, k: abs(q - k) <= 5, "11·N − 30 if N ≥ 11"),
]


@pytest.mark.parametrize(("mod", "text"), TEXTS)
def test_formulas_as_people_know_them(mod: Any, text: str) -> None:
    assert counted(closed(mod), mod).text() == text


SHAPES: dict[str, Any] = {
    "causal": lambda b, h, q, k: q >= k,
    "ahead": lambda b, h, q, k: q + 4 >= k,
    "window": lambda b, h, q, k: (q >= k) & (q - k < 7),
    "two sides": lambda b, h, q, k: ((q >= k) & (q - k < 5)) | ((q < k) & (k - q < 3)),
    "prefix": lambda b, h, q, k: (k < 6) | (q >= k),
    "sink": lambda b, h, q, k: (q >= k) & ((k < 3) | (q - k < 7)),
    "chunk": lambda b, h, q, k: (q // 8 == k // 8) & (q >= k),
    "shifted chunk": lambda b, h, q, k: ((q - 3) // 8 == (k - 3) // 8) & (q >= k),
    "block causal": lambda b, h, q, k: q // 8 >= k // 8,
    "few chunks": lambda b, h, q, k: (q // 5 - k // 5 >= 0) & (q // 5 - k // 5 <= 2),
    "chunk + sink": lambda b, h, q, k: ((q // 8 == k // 8) | (k < 3)) & (q >= k),
    "chunk & window": lambda b, h, q, k: (q // 8 == k // 8) & (q >= k) & (q - k < 3),
    "dilated": lambda b, h, q, k: (abs(q - k) <= 8) & ((q - k) % 4 == 0),
    "dilated, odd": lambda b, h, q, k: (abs(q - k) <= 7) & ((q - k) % 3 == 1),
    "strided": lambda b, h, q, k: (q >= k) & ((q - k < 4) | ((q - k) % 4 == 0)),
    "columns": lambda b, h, q, k: (q >= k) & (k % 8 >= 6),
    "remainders": lambda b, h, q, k: q % 6 == k % 6,
    "gist": lambda b, h, q, k: (q >= k) & ~((q >= 14) & (k < 10)),
    "corner": lambda b, h, q, k: (q < 9) & (k >= 4),
}


@pytest.mark.parametrize("solved", ["kv_idx", "q_idx"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_counts_of_squares(name: str, solved: str) -> None:
    mod, exact = SHAPES[name], 0
    formula = counted(closed(mod, solved), mod)
    for n in range(1, 50):
        found = formula.at(n)
        if found is not None:
            assert found == pairs(mod, n, n).sum(), (formula.text(), n)
            exact += 1
    assert exact >= 5


@pytest.mark.parametrize("solved", ["kv_idx", "q_idx"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_formula_for_given_lengths_holds_there(name: str, solved: str) -> None:
    mod, form = SHAPES[name], closed(SHAPES[name], solved)
    for m, n in product((1, 5, 9, 16, 33), (2, 8, 13, 24, 40)):
        formula = counted(form, mod, lengths=(m, n))
        assert formula.at(n, m) == pairs(mod, m, n).sum(), (formula.text(), m, n)


def test_masks_of_the_study() -> None:
    exact = 0
    for name in MASKS:
        mod, m, n = build(name, 200)
        program = bind_mask(mod).variant.program
        form = solve(program.mask, program.captures, len(program.numbers))
        if form is None:
            continue
        formula = count_formula(form, numbers(mod), lengths=(m, n))
        if formula is not None:
            assert formula.at(n, m) == pairs(mod, m, n).sum(), (name, formula.text())
            exact += 1
    assert exact >= 18


def test_numbers_may_stay_symbols() -> None:
    low = plus(minus(Q, N0), 1)
    form = ClosedForm("kv_idx", (Piece(low, plus(Q, 1)),), (Positive(N0),))
    formula = counted(form)
    assert formula.text() == "N·n_0 − n_0·(n_0 − 1)/2 if N ≥ n_0 − 1"
    for n, w in product(range(1, 20), range(1, 20)):
        found = formula.at(n, n_0=w)
        expected = pairs(lambda b, h, q, k: (q >= k) & (q - k < w), n, n).sum()  # noqa: B023
        assert found == (expected if n >= w - 1 else None)
    assert counted(form, numbers={"n0": 3}).text() == "3·N − 3 if N ≥ 2"


def test_what_is_printed_is_what_is_counted() -> None:
    for mod, length in product(SHAPES.values(), (None, 3, 6, 11, 20)):
        formula = counted(closed(mod), mod, lengths=length and (length, length))
        text, latex = formula.text().split(" if "), formula.latex().split(r" \text{ if } ")
        for n in range(1, 42):
            found = formula.at(n)
            if found is not None:
                assert value(text[0], {"N": n}) == latex_value(latex[0], {"N": n}) == found
            if len(text) > 1:
                met = [value(part, {"N": n}) for part in text[1].split(", ")]
                assert all(met) == (found is not None), (text, n)


def test_flops() -> None:
    formula = counted(closed(lambda b, h, q, k: q >= k))
    n, d = sympy.Symbol("N", integer=True), sympy.Symbol("D", integer=True)
    assert flops_formula(formula).subs({n: 128, d: 64}) == 4 * 64 * 128 * 129 // 2
    assert flops_formula(formula, 64, backward=True).subs({n: 128}) == 10 * 64 * 128 * 129 // 2


@pytest.mark.parametrize(
    "mod",
    [
        lambda b, h, q, k: IDS[q] >= k,  # a capture
        lambda b, h, q, k: q + h >= k,
        lambda b, h, q, k: 2 * q >= k,  # a rounded half of N
        lambda b, h, q, k: (q // 3 >= k) & (q // 4 <= k),  # quotients by two numbers
    ],
)
def test_what_has_no_formula(mod: Any) -> None:
    assert count_formula(closed(mod)) is None


def test_two_ways_to_repeat_have_no_formula() -> None:
    pieces = tuple(Piece(repeat=Repeat(number(m), Q, number(0), number(1))) for m in (2, 3))
    assert count_formula(ClosedForm("kv_idx", pieces)) is None


def number(value: int) -> Const:
    return Const(value, I64)


# Random forms ------------------------------------------------------------------------------------

small = st.integers(-6, 12)


@st.composite
def ends(draw: st.DrawFn) -> Node:
    """q + c, c, chunks of 4, or the lesser or greater of two such, or a number less one."""
    kind = draw(st.sampled_from(["shifted", "number", "chunk", "extreme", "mirrored"]))
    match kind:
        case "shifted":
            return plus(Q, draw(small))
        case "number":
            return number(draw(small))
        case "chunk":
            chunk = Apply("floordiv", (plus(Q, draw(st.sampled_from([0, 4, 8]))), number(4)), I64)
            return plus(Apply("mul", (chunk, number(4)), I64), draw(small))
        case "mirrored":
            return Apply("sub", (number(draw(small)), draw(ends())), I64)
    return Apply(draw(st.sampled_from(["minimum", "maximum"])), (draw(ends()), draw(ends())), I64)


@st.composite
def forms(draw: st.DrawFn) -> ClosedForm:
    def end(other: Node) -> Node:
        return draw(ends() | st.just(other))

    count = draw(st.integers(1, 3))
    return ClosedForm("kv_idx", tuple(Piece(end(BEGIN), end(END)) for _ in range(count)))


def inside(node: Node, q: np.ndarray) -> Any:
    """The value of an end at queries ``q``."""
    match node:
        case Input():
            return q
        case Const(value):
            return value
        case Apply(op, args):
            a, b = (inside(arg, q) for arg in args)
            operations = {"add": np.add, "sub": np.subtract, "mul": np.multiply,
                          "floordiv": np.floor_divide, "minimum": np.minimum,
                          "maximum": np.maximum}  # fmt: skip
            return operations[op](a, b)
    raise TypeError(node)


@settings(max_examples=150, deadline=None)
@given(forms(), st.integers(1, 30), st.integers(1, 30))
def test_random_unions(form: ClosedForm, m: int, n: int) -> None:
    q, k = np.arange(m)[:, None], np.arange(n)
    kept = np.zeros((m, n), bool)
    for piece in form.pieces:
        kept |= (inside(piece.low, q) <= k) & (k < inside(piece.high, q))
    formula = count_formula(form, lengths=(m, n))
    if formula is not None:
        assert formula.at(n, m) == kept.sum(), formula.text()
    square = count_formula(form)
    if square is not None and m == n and square.at(n) is not None:
        assert square.at(n) == kept.sum()
