"""Formulas for people: their text, their LaTeX, and that they say what the mask says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_vision  # noqa: F401 - adds its masks
import torch
from hypothesis import given, settings
from read_formulas import Starts, Table, kept, latex_value, pairs, value
from study_masks import MASKS, build

from flexattn.analysis.closed.pieces import (
    END,
    Ascending,
    ClosedForm,
    OneRun,
    Piece,
    Repeat,
    StartTable,
)
from flexattn.analysis.closed.solve import solve
from flexattn.analysis.formulas.masks import form_latex, form_notes, form_text, to_latex, to_text
from flexattn.analysis.formulas.symbols import RULES
from flexattn.ir.nodes import BOOL, F32, I64, Apply, Const, Input, Node, walk
from flexattn.ir.ops import OPS
from flexattn.op.symbolic import bind_mask

sys.path.append(str(Path(__file__).parents[1] / "ir"))
from random_graphs import programs

pytestmark = pytest.mark.null

IDS = torch.tensor([0, 0, 1, 1, 1, 2])
PAIRS = torch.arange(12).reshape(2, 6)
Q, K, N0 = Input("q_idx", I64), Input("kv_idx", I64), Input("n0", I64)


def number(value: int) -> Const:
    return Const(value, I64)


def binary(op: str, a: Node, b: Node | int) -> Node:
    return Apply(op, (a, b if isinstance(b, Node) else number(b)), I64)


def program(mod: Any) -> Any:
    return bind_mask(mod).variant.program


def closed(mod: Any, solved: str = "kv_idx") -> ClosedForm:
    found = program(mod)
    form = solve(found.mask, found.captures, len(found.numbers), solved)
    assert form is not None
    return form


GRAPHS = [
    (lambda b, h, q, k: q >= k, "q ≥ k", r"q \ge k"),
    (
        lambda b, h, q, k: ((q >= k) & (q - k < 8)) | (k < 4),
        "(q ≥ k ∧ q − k < 8) ∨ k < 4",
        r"\left(q \ge k \wedge q - k < 8\right) \vee k < 4",
    ),
    (
        lambda b, h, q, k: IDS[q] == IDS[k],
        "c_0[q] = c_0[k]",
        r"c_{0}[q] = c_{0}[k]",
    ),
    (
        lambda b, h, q, k: q // 16 - k // 16 + 1 - 1 <= 2,
        "⌊q/16⌋ − ⌊k/16⌋ ≤ 2",
        r"\left\lfloor{\frac{q}{16}}\right\rfloor - \left\lfloor{\frac{k}{16}}\right\rfloor \le 2",
    ),
    (
        lambda b, h, q, k: ((q - k) % 4 == 0) & ~(abs(q - k) > 2 * h),
        "(q − k) mod 4 = 0 ∧ |q − k| ≤ 2·h",
        r"\left(q - k\right) \bmod 4 = 0 \wedge \left|{q - k}\right| \le 2 h",
    ),
    (
        lambda b, h, q, k: torch.where(q < 4, k < 4, PAIRS[b, q] > k),
        "k < 4 if q < 4 else c_0[b, q] > k",
        r"\begin{cases} k < 4 & \text{if } q < 4 \\ c_{0}[b, q] > k & \text{otherwise} \end{cases}",
    ),
    (
        lambda b, h, q, k: ((q & 3) | (k >> 2)) == 1,
        "((q & 3) | ⌊k/4⌋) = 1",
        r"\left(\left(q \mathbin{\&} 3\right) \mathbin{|} "
        r"\left\lfloor{\frac{k}{4}}\right\rfloor\right) = 1",
    ),
    (
        lambda b, h, q, k: q % (2 * h) + 8 * (k % 4) <= torch.minimum(q % 8, h - h + 6),
        "q mod (2·h) + 8·(k mod 4) ≤ min(q mod 8, 6)",
        r"q \bmod \left(2 h\right) + 8 \left(k \bmod 4\right) \le \min\left(q \bmod 8, 6\right)",
    ),
    (
        lambda b, h, q, k: q - (k.float() - (h + 0.5)) > 0,
        "q − (k − (h + 0.5)) > 0",
        r"q - \left(k - \left(h + 0.5\right)\right) > 0",
    ),
    (
        lambda b, h, q, k: q.float() * 0.5 - k > -1.5,
        "0.5·q − k > −1.5",
        r"0.5 q - k > -1.5",
    ),
]


@pytest.mark.parametrize(("mod", "text", "latex"), GRAPHS)
def test_graphs(mod: Any, text: str, latex: str) -> None:
    assert to_text(program(mod).mask) == text
    assert to_latex(program(mod).mask) == latex


FORMS = [
    (lambda b, h, q, k: q >= k, "0 ≤ k < q + 1", r"0 \le k < q + 1"),
    (
        lambda b, h, q, k: (q >= k) & (q - k < 1024),
        "max(0, q − 1023) ≤ k < q + 1",
        r"\max\left(0, q - 1023\right) \le k < q + 1",
    ),
    (
        lambda b, h, q, k: (q >= k) & ((k < 4) | (q - k < 64)),
        "k ∈ [0, min(q + 1, 4)) ∪ [max(0, q − 63), q + 1)",
        r"k \in [0, \min\left(q + 1, 4\right)) \cup [\max\left(0, q - 63\right), q + 1)",
    ),
    (
        lambda b, h, q, k: (q >= k) & ((q - k) % 4 == 0),
        "0 ≤ k < q + 1, k ≡ q (mod 4)",
        r"0 \le k < q + 1, k \equiv q \pmod{4}",
    ),
    (
        lambda b, h, q, k: k % 8 < 3,
        "0 ≤ k < N, k mod 8 < 3",
        r"0 \le k < N, k \bmod 8 < 3",
    ),
    (
        lambda b, h, q, k: IDS[q] == IDS[k],
        "start_0[c_0[q]] ≤ k < start_0[c_0[q] + 1]",
        r"\mathrm{start}_{0}[c_{0}[q]] \le k < \mathrm{start}_{0}[c_{0}[q] + 1]",
    ),
    (
        lambda b, h, q, k: (q < 4) | (k < 2),
        "k ∈ {k : 0 ≤ k < N, q < 4} ∪ [0, 2)",
        r"k \in \{k : 0 \le k < N, q < 4\} \cup [0, 2)",
    ),
    (lambda b, h, q, k: (k < 0) & (k > 0), "k ∈ ∅", r"k \in \emptyset"),
]


@pytest.mark.parametrize(("mod", "text", "latex"), FORMS)
def test_forms(mod: Any, text: str, latex: str) -> None:
    form = closed(mod) if text != "k ∈ ∅" else ClosedForm("kv_idx", ())
    assert form_text(form) == text
    assert form_latex(form) == latex


def test_the_other_direction_ends_at_the_last_query() -> None:
    assert form_text(closed(lambda b, h, q, k: q >= k, "q_idx")) == "k ≤ q < M"


def test_numbers_and_captures_have_the_names_they_are_given() -> None:
    low = binary("sub", Q, binary("sub", N0, 1))
    form = ClosedForm("kv_idx", (Piece(low, END),))
    assert form_text(form) == "max(0, q − n_0 + 1) ≤ k < N"
    assert form_text(form, {"n0": 4}) == "max(0, q − 3) ≤ k < N"
    documents = closed(lambda b, h, q, k: IDS[q] == IDS[k])
    assert form_text(documents, {"n0": 7}, ["ids"]) == "start_0[ids[q]] ≤ k < start_0[ids[q] + 1]"
    assert form_latex(documents, captures=["my_ids"]).startswith(
        r"\mathrm{start}_{0}[\mathrm{my\_ids}[q]]"
    )
    assert form_notes(documents, captures=["ids"]) == [
        "ids ascends",
        "start_0[v] is the first k with ids[k] ≥ v",
    ]


def test_quotients_rounded_up() -> None:
    up = Apply("neg", (binary("floordiv", Apply("neg", (Q,), I64), 8),), I64)
    form = ClosedForm("kv_idx", (Piece(up, binary("mul", up, 8)),))
    assert form_text(form) == "⌈q/8⌉ ≤ k < 8·⌈q/8⌉"


def test_remainders_that_are_no_single_position() -> None:
    repeat = Repeat(number(8), Apply("neg", (Q,), I64), number(2), number(5))
    form = ClosedForm("kv_idx", (Piece(repeat=repeat),))
    assert form_text(form) == "0 ≤ k < N, 2 ≤ (k − q) mod 8 < 5"


def test_parts_that_repeat_are_named_and_not_written_out() -> None:
    def mod(b: Any, h: Any, q: Any, k: Any) -> Any:
        x = q + 1
        for _ in range(40):
            x = (x & 1023) * x % 1009
        return x >= k

    found = program(mod).mask
    text = to_text(found)
    assert ", where x_1 = " in text and len(text) < 3000
    assert r" \text{ where } x_{1} = " in to_latex(found)
    for q, k in ((0, 0), (5, 90), (17, 400), (30, 1000)):
        expected = bool(mod(0, 0, torch.tensor(q), torch.tensor(k)))
        assert bool(value(text, {"q": q, "k": k})) == expected


# Every mask of the study, read back ------------------------------------------------------------

SIZE = 48


def arrays(mod: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in bind_mask(mod).captures]


def numbers(mod: Any) -> dict[str, int]:
    return {f"n{i}": value for i, value in enumerate(bind_mask(mod).ints)}


@pytest.mark.parametrize("name", list(MASKS))
def test_a_printed_mask_says_what_the_mask_says(name: str) -> None:
    mod, m, n = build(name, SIZE)
    text, latex = (show(program(mod).mask, numbers(mod)) for show in (to_text, to_latex))
    names = {f"c_{i}": Table(array) for i, array in enumerate(arrays(mod))}
    truth = pairs(mod, m, n)
    for q in range(0, m, 3):
        for k in range(n):
            pair = names | {"q": q, "k": k, "b": 0, "h": 0}
            assert bool(value(text, pair)) == truth[q, k], (text, q, k)
            if k % 3 == 0:
                assert bool(latex_value(latex, pair)) == truth[q, k], (latex, q, k)


@pytest.mark.parametrize("solved", ["kv_idx", "q_idx"])
def test_printed_forms_say_what_the_masks_say(solved: str) -> None:
    read = 0
    for name in MASKS:
        mod, m, n = build(name, SIZE)
        found = program(mod)
        form = solve(found.mask, found.captures, len(found.numbers), solved)
        values = arrays(mod)
        if form is None or not all(satisfied(need, values) for need in form.requires):
            continue
        check_form(form, mod, m, n)
        read += 1
    assert read > 30


def check_form(form: ClosedForm, mod: Any, m: int, n: int) -> None:
    values = arrays(mod)
    names = {f"c_{i}": Table(array) for i, array in enumerate(values)}
    made = {"start": 0, "run": 0}
    for table in form.tables:
        kind = "start" if isinstance(table, StartTable) else "run"
        array = values[table.capture]
        names[f"{kind}_{made[kind]}"] = Starts(array) if kind == "start" else run(array)
        made[kind] += 1
    text, truth = form_text(form, numbers(mod)), pairs(mod, m, n)
    for q in range(0, m, 3):
        for k in range(n):
            pair = {"q": q, "k": k, "M": m, "N": n, "b": 0, "h": 0}
            assert kept(text, names | pair) == truth[q, k], (text, q, k)


def satisfied(need: Any, values: list[np.ndarray]) -> bool:
    match need:
        case Ascending(capture):
            return bool((np.diff(values[capture]) >= 0).all())
        case OneRun(capture):
            return int((np.diff(values[capture].astype(int), prepend=0) == 1).sum()) <= 1
    return True


def run(array: np.ndarray) -> Table:
    at = np.flatnonzero(array)
    return Table(np.array([at[0], at[-1] + 1] if len(at) else [0, 0]))


# All operations ----------------------------------------------------------------------------------


def test_every_operation_has_a_rule() -> None:
    assert set(RULES) == set(OPS)


@settings(max_examples=60, deadline=None)
@given(programs())
def test_whatever_can_be_traced_can_be_printed(found: Any) -> None:
    for root in (found.score, found.mask):
        if root is not None:
            latex = to_latex(root)
            assert to_text(root) and latex.count("{") == latex.count("}")
            assert latex.count(r"\left") == latex.count(r"\right")


def test_scores_are_printed_too() -> None:
    score = Input("score", F32)
    capped = Apply("mul", (Apply("tanh", (Apply("div", (score, Const(20.0, F32)), F32),), F32),
                           Const(20.0, F32)), F32)  # fmt: skip
    assert to_text(capped) == "20·tanh(s/20)"
    assert to_latex(capped) == r"20 \tanh{\left(\frac{s}{20} \right)}"


def test_a_truth_value_that_is_counted_is_in_brackets() -> None:
    flag = Apply("to_int", (Apply("gt", (Q, K), BOOL),), I64)
    assert to_text(Apply("lt", (binary("add", K, flag), number(5)), BOOL)) == "k + [q > k] < 5"
    assert sum(1 for _ in walk(flag)) == 4


def test_sympy_is_loaded_by_formulas_alone() -> None:
    code = "import sys, flexattn, flexattn.analysis.closed.solve; print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
