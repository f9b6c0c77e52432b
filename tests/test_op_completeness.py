"""Every stage has a row for every operation; what a new one lacks is printed, file by file."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping

import pytest

from flexattn.ir.ops import OPS
from flexattn.trace import tape

# (module, table, what a row of it is) of each stage that treats every operation.
TOTAL = [
    ("flexattn.ir.ranges", "RULES", "the range of the result; None for floats"),
    (
        "flexattn.passes.derivatives",
        "RULES",
        "the partial derivatives; None for integers and bools",
    ),
    ("flexattn.analysis.formulas.symbols", "RULES", "the sympy expression that formulas print"),
    ("flexattn.lowering.spellings", "SPELLINGS", "the C++ of one value and of a vector"),
    ("flexattn.lowering.triton_spellings", "SPELLINGS", "the Triton of a value of any shape"),
    ("flexattn.lowering.javascript_spellings", "SPELLINGS", "the JavaScript of one value"),
]
# Tables that treat some operations, and may name no other.
PARTIAL = [
    ("flexattn.ir.ranges", "BOOL_RULES"),
    ("flexattn.ir.printer", "INFIX"),
    ("flexattn.passes.simplify", "RULES"),
    ("flexattn.passes.fold", "INT"),
    ("flexattn.passes.fold", "FLOAT"),
    ("flexattn.passes.fold", "COMPARE"),
    ("flexattn.passes.fold", "BOOLS"),
]
# What no mod can ask for: conversions that narrowing puts in.
NOT_TRACED = {"to_i32", "to_i64"}


def lacking(operations: Collection[str]) -> list[str]:
    """One line for each table that lacks rows for some of ``operations``."""
    lines = []
    for module, name, row in TOTAL:
        missing = sorted(set(operations) - set(_table(module, name)))
        if missing:
            path = module.replace(".", "/") + ".py"
            lines.append(f"{path}: {name} lacks {', '.join(missing)} ({row})")
    missing = sorted(set(operations) - traced() - NOT_TRACED)
    if missing:
        lines.append(
            f"flexattn/trace/tape.py: no group holds {', '.join(missing)} (its dtype rule)"
        )
    return lines


def traced() -> set[str]:
    groups = (
        *(tape.ARITHMETIC, tape.COMPARISONS, tape.BITWISE, tape.SHIFTS, tape.FLOAT_UNARY),
        *(tape.FLOAT_BINARY, tape.ROUNDING, tape.TESTS, tape.CASTS, tape.OTHERS),
    )
    return set().union(*groups)


def _table(module: str, name: str) -> Mapping[str, object]:
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def test_every_operation_has_its_rows() -> None:
    lines = lacking(OPS)
    assert not lines, "rows still to write:\n" + "\n".join(lines)


@pytest.mark.parametrize(("module", "name"), [*PARTIAL, *(entry[:2] for entry in TOTAL)])
def test_no_table_has_rows_for_what_is_no_operation(module: str, name: str) -> None:
    assert set(_table(module, name)) <= set(OPS)


def test_the_tracer_records_no_operation_that_the_table_lacks() -> None:
    assert traced() <= set(OPS)


def test_a_new_operation_is_told_every_row_it_needs() -> None:
    lines = lacking([*OPS, "erfinv"])
    assert len(lines) == len(TOTAL) + 1
    assert all("erfinv" in line for line in lines)
    assert lines[0].startswith("flexattn/ir/ranges.py: RULES lacks erfinv")


def test_every_row_says_what_the_interpreter_needs() -> None:
    for name, op in OPS.items():
        assert op.name == name and callable(op.eager)
        assert op.takes in ("float", "int", "bool", "number", "integral", "any")
        assert op.gives in ("same", "bool", "float", "int", "i32", "i64")
