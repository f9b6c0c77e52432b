"""The Triton target: how each operation is spelled, on tensors and scalars that broadcast."""

from __future__ import annotations

from flexattn.ir.nodes import BOOL, INTS, DType

TYPES: dict[DType, str] = {
    "bool": "tl.int1",
    "i32": "tl.int32",
    "i64": "tl.int64",
    "f32": "tl.float32",
    "f64": "tl.float64",
}

_Row = dict[str, str]


def _all(text: str) -> _Row:
    return dict.fromkeys(("bool", "int", "float"), text)


def _numbers(text: str) -> _Row:
    return dict.fromkeys(("int", "float"), text)


def _divisions(name: str) -> _Row:
    return {"int": f"m_int_{name}({{0}}, {{1}})", "float": f"m_{name}({{0}}, {{1}})"}


def _functions(prefix: str, names: str) -> dict[str, _Row]:
    return {name: {"float": f"{prefix}{name}({{0}})"} for name in names.split()}


_NAN = "propagate_nan=tl.PropagateNan.ALL"

# Operation → kind of its last argument (bool, int, float) → spelling. The functions m_* are those
# of the template's part functions.py; {T} is the type of the result.
SPELLINGS: dict[str, _Row] = {
    "add": _numbers("{0} + {1}"),
    "sub": _numbers("{0} - {1}"),
    "mul": _numbers("{0} * {1}"),
    "neg": {"int": "-{0}", "float": "-1.0 * {0}"},  # -x is 0 - x in Triton, which loses -0.0
    "abs": _numbers("tl.abs({0})"),
    "sign": {"int": "m_int_sign({0})", "float": "m_sign({0})"},
    "minimum": {"int": "tl.minimum({0}, {1})", "float": f"tl.minimum({{0}}, {{1}}, {_NAN})"},
    "maximum": {"int": "tl.maximum({0}, {1})", "float": f"tl.maximum({{0}}, {{1}}, {_NAN})"},
    "div": {"float": "m_div({0}, {1})"},
    "floordiv": _divisions("floordiv"),
    "truncdiv": _divisions("truncdiv"),
    "mod": _divisions("mod"),
    "fmod": _divisions("fmod"),
    "pow": {"int": "{0}", "float": "m_pow({0}, {1})"},  # integers: see the emitter
    "eq": _all("{0} == {1}"),
    "ne": _all("{0} != {1}"),
    "lt": _numbers("{0} < {1}"),
    "le": _numbers("{0} <= {1}"),
    "gt": _numbers("{0} > {1}"),
    "ge": _numbers("{0} >= {1}"),
    "and": {"bool": "{0} & {1}", "int": "{0} & {1}"},
    "or": {"bool": "{0} | {1}", "int": "{0} | {1}"},
    "xor": {"bool": "{0} ^ {1}", "int": "{0} ^ {1}"},
    "not": {"bool": "~{0}", "int": "~{0}"},
    "shl": {"int": "{0} << {1}"},
    "shr": {"int": "{0} >> {1}"},
    "where": _all("tl.where({0}, {1}, {2})"),
    "to_float": {**_all("{0}.to({T})"), "float": "{0}"},
    "to_int": _all("{0}.to({T})"),
    "to_bool": {"bool": "{0}", **_numbers("{0} != 0")},
    "to_i32": {"bool": "{0}.to({T})", "int": "{0}.to({T})"},
    "to_i64": {"bool": "{0}.to({T})", "int": "{0}.to({T})"},
    **_functions("tl.", "floor ceil exp exp2 log log2 rsqrt erf sin cos"),
    **_functions("m_", "round trunc expm1 log10 log1p sqrt sigmoid tanh erfc tan"),
    **_functions("m_", "asin acos atan sinh cosh asinh acosh atanh"),
    "atan2": {"float": "m_atan2({0}, {1})"},
    "isnan": {"float": "{0} != {0}"},
    "isinf": {"float": 'tl.abs({0}) == float("inf")'},
    "detach": _all("{0}"),
    "override_grad": _all("{0}"),
}


def kind(dtype: DType) -> str:
    """``bool``, ``int`` or ``float``: the key of a row of ``SPELLINGS``."""
    return "bool" if dtype == BOOL else "int" if dtype in INTS else "float"
