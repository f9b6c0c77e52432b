"""The JavaScript target: how each operation is spelled, on numbers and booleans.

Numbers are doubles. A float result of a float32 mod is rounded after every operation (``F``), a
whole one is exact below 2^53. The functions ``m.*`` are those of `codegen_templates/javascript`.
"""

from __future__ import annotations

_Row = dict[str, str]


def _all(text: str) -> _Row:
    return dict.fromkeys(("bool", "int", "float"), text)


def _numbers(text: str) -> _Row:
    return {"int": text, "float": f"F({text})"}


def _comparison(operator: str) -> _Row:
    return dict.fromkeys(("int", "float"), f"{{0}} {operator} {{1}}")


def _bitwise(name: str, bools: str) -> _Row:
    return {"bool": bools, "int": f"m.{name}({{0}}, {{1}})"}


def _functions(names: str, home: str = "Math") -> dict[str, _Row]:
    return {name: {"float": f"F({home}.{name}({{0}}))"} for name in names.split()}


# Operation → kind of its last argument (bool, int, float) → spelling.
SPELLINGS: dict[str, _Row] = {
    "add": _numbers("{0} + {1}"),
    "sub": _numbers("{0} - {1}"),
    "mul": {"int": "m.mul({0}, {1})", "float": "F({0} * {1})"},
    "neg": {"int": "0 - {0}", "float": "-{0}"},
    "abs": _numbers("Math.abs({0})"),
    "sign": _numbers("m.sign({0})"),
    "minimum": _numbers("Math.min({0}, {1})"),
    "maximum": _numbers("Math.max({0}, {1})"),
    "div": {"float": "F({0} / {1})"},
    "floordiv": {"int": "m.floorDiv({0}, {1})", "float": "F(m.floatFloorDiv({0}, {1}))"},
    "truncdiv": {"int": "m.truncDiv({0}, {1})", "float": "F(Math.trunc(F({0} / {1})))"},
    "mod": {"int": "m.mod({0}, {1})", "float": "F(m.floatMod({0}, {1}))"},
    "fmod": {"int": "m.rest({0}, {1})", "float": "F({0} % {1})"},
    "pow": {"int": "m.ipow({0}, {1})", "float": "F(m.pow({0}, {1}))"},
    "eq": _all("{0} === {1}"),
    "ne": _all("{0} !== {1}"),
    "lt": _comparison("<"),
    "le": _comparison("<="),
    "gt": _comparison(">"),
    "ge": _comparison(">="),
    "and": _bitwise("and", "{0} && {1}"),
    "or": _bitwise("or", "{0} || {1}"),
    "xor": _bitwise("xor", "{0} !== {1}"),
    "not": {"bool": "!{0}", "int": "m.not({0})"},
    "shl": {"int": "m.shl({0}, {1})"},
    "shr": {"int": "m.shr({0}, {1})"},
    "where": _all("{0} ? {1} : {2}"),
    "to_float": {"bool": "Number({0})", "int": "F({0})", "float": "{0}"},
    "to_int": {"bool": "Number({0})", "int": "{0}", "float": "m.toInt({0})"},
    "to_i32": {"bool": "Number({0})", "int": "{0}"},
    "to_i64": {"bool": "Number({0})", "int": "{0}"},
    "to_bool": {"bool": "{0}", "int": "{0} !== 0", "float": "{0} !== 0"},
    **_functions("floor ceil trunc exp expm1 log log2 log10 log1p sqrt"),
    **_functions("tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh"),
    **_functions("round erf erfc sigmoid", "m"),
    "exp2": {"float": "F(Math.pow(2, {0}))"},
    "rsqrt": {"float": "F(1 / Math.sqrt({0}))"},
    "atan2": {"float": "F(Math.atan2({0}, {1}))"},
    "isnan": {"float": "{0} !== {0}"},
    "isinf": {"float": "Math.abs({0}) === Infinity"},
    "detach": _all("{0}"),
    "override_grad": _all("{0}"),
}
