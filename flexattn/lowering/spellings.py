"""The C++ target: how each operation is spelled, on scalars and on vectors of queries."""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.ir.nodes import BOOL, INTS, DType

SCALAR_TYPES: dict[DType, str] = {
    "bool": "bool",
    "i32": "int",
    "i64": "i64",
    "f32": "F",
    "f64": "F",
}
VECTOR_TYPES: dict[DType, str] = {"bool": "VM", "i32": "VI", "i64": "VL", "f32": "VF", "f64": "VF"}
# A bool is stored as an int, which has as many lanes as every vector needs.
STORED_TYPES: dict[DType, str] = {**SCALAR_TYPES, "bool": "int"}
CAPTURE_TYPES: dict[str, str] = {
    "bool": "unsigned char",
    "u8": "unsigned char",
    "i8": "signed char",
    "i16": "short",
    "i32": "int",
    "i64": "i64",
    "bf16": "bf16_t",
    "f16": "f16_t",
    "f32": "float",
    "f64": "double",
}


@dataclass(frozen=True)
class Spelling:
    """Templates for one kind of argument; ``{0} {1} …`` are the arguments, ``{V}`` their vector
    type. One text serves both forms unless ``vector`` is given."""

    scalar: str
    vector: str | None = None

    def form(self, *, vector: bool) -> str:
        return self.vector if vector and self.vector is not None else self.scalar


_Row = dict[str, Spelling]


def _all(scalar: str, vector: str | None = None) -> _Row:
    return dict.fromkeys(("bool", "int", "float"), Spelling(scalar, vector))


def _numbers(scalar: str, vector: str | None = None) -> _Row:
    return dict.fromkeys(("int", "float"), Spelling(scalar, vector))


def _floats(scalar: str, vector: str | None = None) -> _Row:
    return {"float": Spelling(scalar, vector)}


def _comparison(operator: str, **bool_row: Spelling) -> _Row:
    text = f"{{0}} {operator} {{1}}"
    return {**_numbers(text, f"to_mask({text})"), **bool_row}


def _functions(names: str) -> dict[str, _Row]:
    return {name: _floats(f"m_{name}({{0}})") for name in names.split()}


# Operation → kind of its last argument (bool, int, float) → spelling. The functions m_* are those
# of the template's math headers.
SPELLINGS: dict[str, _Row] = {
    "add": _numbers("{0} + {1}"),
    "sub": _numbers("{0} - {1}"),
    "mul": _numbers("{0} * {1}"),
    "neg": _numbers("-{0}"),
    "abs": _numbers("m_abs({0})"),
    "sign": _numbers("m_sign({0})"),
    "minimum": _numbers("m_minimum({0}, {1})"),
    "maximum": _numbers("m_maximum({0}, {1})"),
    "div": _floats("{0} / {1}"),
    "floordiv": _numbers("m_floordiv({0}, {1})"),
    "truncdiv": _numbers("m_truncdiv({0}, {1})"),
    "mod": _numbers("m_mod({0}, {1})"),
    "fmod": _numbers("m_fmod({0}, {1})"),
    "pow": _numbers("m_pow({0}, {1})"),
    "eq": _comparison("==", bool=Spelling("{0} == {1}", "~({0} ^ {1})")),
    "ne": _comparison("!=", bool=Spelling("{0} != {1}", "{0} ^ {1}")),
    "lt": _comparison("<"),
    "le": _comparison("<="),
    "gt": _comparison(">"),
    "ge": _comparison(">="),
    "and": {"bool": Spelling("{0} & {1}"), "int": Spelling("{0} & {1}")},
    "or": {"bool": Spelling("{0} | {1}"), "int": Spelling("{0} | {1}")},
    "xor": {"bool": Spelling("{0} ^ {1}"), "int": Spelling("{0} ^ {1}")},
    "not": {"bool": Spelling("!{0}", "~{0}"), "int": Spelling("~{0}")},
    "shl": {"int": Spelling("{0} << {1}")},
    "shr": {"int": Spelling("{0} >> {1}")},
    "where": {
        **_numbers("{0} ? {1} : {2}", "select({0}, {1}, {2})"),
        "bool": Spelling("{0} ? {1} : {2}", "({0} & {1}) | (~{0} & {2})"),
    },
    "to_float": {
        "bool": Spelling("F({0})", "select({0}, splat<VF>(1), splat<VF>(0))"),
        "int": Spelling("F({0})", "convert<VF>({0})"),
        "float": Spelling("{0}"),
    },
    "to_int": {
        "bool": Spelling("i64({0})", "convert<VL>(-{0})"),
        "int": Spelling("i64({0})", "convert<VL>({0})"),
        "float": Spelling("i64({0})", "convert<VL>({0})"),
    },
    "to_i32": {
        "bool": Spelling("int({0})", "convert<VI>(-{0})"),
        "int": Spelling("int({0})", "convert<VI>({0})"),
    },
    "to_i64": {
        "bool": Spelling("i64({0})", "convert<VL>(-{0})"),
        "int": Spelling("i64({0})", "convert<VL>({0})"),
    },
    "to_bool": {
        "bool": Spelling("{0}"),
        **_numbers("{0} != 0", "to_mask({0} != splat<{V}>(0))"),
    },
    **_functions("floor ceil round trunc exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sigmoid"),
    **_functions("tanh erf erfc sin cos tan asin acos atan sinh cosh asinh acosh atanh"),
    "atan2": _floats("m_atan2({0}, {1})"),
    "isnan": _floats("{0} != {0}", "to_mask({0} != {0})"),
    "isinf": _floats("m_abs({0}) == INF", "to_mask(m_abs({0}) == INF)"),
    "detach": _all("{0}"),
    "override_grad": _all("{0}"),
}


def kind(dtype: DType) -> str:
    """``bool``, ``int`` or ``float``: the key of a row of ``SPELLINGS``."""
    return "bool" if dtype == BOOL else "int" if dtype in INTS else "float"
