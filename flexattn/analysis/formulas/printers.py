"""Writes the expressions of `symbols` as text and as LaTeX, arguments in their own order."""

from __future__ import annotations

import re
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE, precedence, precedence_traditional
from sympy.printing.str import StrPrinter

from flexattn.analysis.formulas.symbols import Expr

SIGNS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "=", "!=": "≠"}
SMALL = {2: "²", 3: "³"}
TEX_SIGNS = {"<": "<", "<=": r"\le", ">": ">", ">=": r"\ge", "==": "=", "!=": r"\neq"}


def as_text(expr: Expr, *, arranged: bool = True) -> str:
    """``expr`` on one line, in Unicode; sums in their own order, or, if not arranged, by powers."""
    text = str(_Text({"order": "none" if arranged else None}).doprint(expr))
    return text.replace("-", "−").replace("*", "·")


def as_latex(expr: Expr, *, arranged: bool = True) -> str:
    """``expr`` as LaTeX, for math mode; sums as in ``as_text``."""
    return str(_Latex({"order": "none" if arranged else None}).doprint(expr))


def tex_name(name: str) -> str:
    """A name of source code: ``ids`` upright, ``c_0`` with its index lowered."""
    if re.fullmatch(r"[a-zA-Z](_\d+)?", name):
        head, _, index = name.partition("_")
        return f"{head}_{{{index}}}" if index else head
    head, _, index = name.rpartition("_")
    if index.isdigit():
        return rf"\mathrm{{{_escaped(head)}}}_{{{index}}}"
    return rf"\mathrm{{{_escaped(name)}}}"


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _order(expr: Expr) -> int:
    """How tightly ``expr`` binds, where sympy's tables say nothing useful."""
    if expr.is_Relational or expr.func.__name__ in ("BitAnd", "BitOr", "BitXor"):
        return PRECEDENCE["Relational"]
    if expr.func.__name__ in ("ITE", "Piecewise"):
        return 0
    return int(precedence(expr))


def _signed_terms(expr: Expr, order: str | None) -> list[tuple[bool, Expr]]:
    """Whether each term of a sum is taken away, and the term without its sign."""
    found = []
    for term in expr.args if order == "none" else expr.as_ordered_terms():
        first = term.args[0] if term.is_Mul else term
        minus = bool(first.is_Number and first < 0)
        if minus and term.is_Mul:
            rest = term.args[1:] if first == -1 else (-first, *term.args[1:])
            term = rest[0] if len(rest) == 1 else sympy.Mul(*rest, evaluate=False)
        elif minus:
            term = -first
        found.append((minus, term))
    return found


class _Text(StrPrinter):  # type: ignore[misc]
    """sympy's text with the signs of mathematics."""

    def parenthesize(self, item: Expr, level: int, strict: bool = False) -> str:
        order = _order(item)
        text: str = self._print(item)
        return f"({text})" if order < level or (not strict and order == level) else text

    def _print_Add(self, expr: Expr, order: Any = None) -> str:
        text = ""
        for minus, term in _signed_terms(expr, self._settings["order"]):
            sign = (" - " if text else "-") if minus else " + " if text else ""
            text += sign + self.parenthesize(term, PRECEDENCE["Add"], strict=not minus)
        return text

    def _print_Pow(self, expr: Expr, rational: bool = False) -> str:
        base, power = expr.args
        if power.is_Integer and power in SMALL:
            return self.parenthesize(base, PRECEDENCE["Pow"]) + SMALL[int(power)]
        return str(super()._print_Pow(expr, rational)).replace("**", "^")

    def _print_Relational(self, expr: Expr) -> str:
        level = PRECEDENCE["Relational"]
        sides = (self.parenthesize(side, level) for side in expr.args)
        return f" {SIGNS[expr.rel_op]} ".join(sides)

    def _joined(self, expr: Expr, sign: str, level: str) -> str:
        return sign.join(self.parenthesize(arg, PRECEDENCE[level]) for arg in expr.args)

    def _print_And(self, expr: Expr) -> str:
        return self._joined(expr, " ∧ ", "And")

    def _print_Or(self, expr: Expr) -> str:
        return self._joined(expr, " ∨ ", "And")  # ∧ in brackets: few know which binds tighter

    def _print_Xor(self, expr: Expr) -> str:
        return self._joined(expr, " ⊕ ", "Or")

    def _print_Equivalent(self, expr: Expr) -> str:
        return self._joined(expr, " ⇔ ", "Or")

    def _print_BitAnd(self, expr: Expr) -> str:
        return self._joined(expr, " & ", "Add")

    def _print_BitOr(self, expr: Expr) -> str:
        return self._joined(expr, " | ", "Add")

    def _print_BitXor(self, expr: Expr) -> str:
        return self._joined(expr, " ^ ", "Add")

    def _print_BitNot(self, expr: Expr) -> str:
        return "~" + self.parenthesize(expr.args[0], PRECEDENCE["Func"])

    def _print_Not(self, expr: Expr) -> str:
        return "¬" + self.parenthesize(expr.args[0], PRECEDENCE["Func"])

    def _print_Truth(self, expr: Expr) -> str:
        return f"[{self._print(expr.args[0])}]"

    def _print_Mod(self, expr: Expr) -> str:
        return " mod ".join(self.parenthesize(arg, PRECEDENCE["Mul"]) for arg in expr.args)

    def _print_floor(self, expr: Expr) -> str:
        return f"⌊{self._print(expr.args[0])}⌋"

    def _print_ceiling(self, expr: Expr) -> str:
        return f"⌈{self._print(expr.args[0])}⌉"

    def _print_Abs(self, expr: Expr) -> str:
        return f"|{self._print(expr.args[0])}|"

    def _listed(self, expr: Expr) -> str:
        return ", ".join(map(self._print, expr.args))

    def _print_Max(self, expr: Expr) -> str:
        return f"max({self._listed(expr)})"

    def _print_Min(self, expr: Expr) -> str:
        return f"min({self._listed(expr)})"

    def _print_Indexed(self, expr: Expr) -> str:
        indices = ", ".join(map(self._print, expr.args[1:]))
        return f"{expr.args[0].label}[{indices}]" if indices else str(expr.args[0].label)

    def _print_Piecewise(self, expr: Expr) -> str:
        (a, c), (b, _) = expr.args
        return self._chosen(c, a, b)

    def _print_ITE(self, expr: Expr) -> str:
        return self._chosen(*expr.args)

    def _chosen(self, c: Expr, a: Expr, b: Expr) -> str:
        first, *others = (self.parenthesize(x, 0) for x in (a, c, b))
        return f"{first} if {others[0]} else {others[1]}"

    def _print_Float(self, expr: Expr) -> str:
        return repr(float(expr))

    def _print_Infinity(self, expr: Expr) -> str:
        return "∞"

    def _print_NegativeInfinity(self, expr: Expr) -> str:
        return "-∞"

    def _print_BooleanTrue(self, expr: Expr) -> str:
        return "true"

    def _print_BooleanFalse(self, expr: Expr) -> str:
        return "false"


class _Latex(LatexPrinter):  # type: ignore[misc]
    """sympy's LaTeX, where it neither sorts nor evaluates."""

    def parenthesize(
        self, item: Expr, level: int, is_neg: bool = False, strict: bool = False
    ) -> str:
        order = min(_order(item), int(precedence_traditional(item)))
        text: str = self._print(item)
        inside = order < level or (not strict and order == level)
        return rf"\left({text}\right)" if inside else text

    def _needs_mul_brackets(self, expr: Expr, first: bool = False, last: bool = False) -> bool:
        return _order(expr) < PRECEDENCE["Mul"] or expr.func is sympy.Mod

    def _print_Symbol(self, expr: Expr, style: str = "plain") -> str:
        return tex_name(expr.name)

    def _print_Add(self, expr: Expr, order: Any = None) -> str:
        text = ""
        for minus, term in _signed_terms(expr, self._settings["order"]):
            sign = (" - " if text else "-") if minus else " + " if text else ""
            text += sign + self.parenthesize(term, PRECEDENCE["Add"], strict=not minus)
        return text

    def _print_Relational(self, expr: Expr) -> str:
        level = PRECEDENCE["Relational"]
        sides = (self.parenthesize(side, level) for side in expr.args)
        return f" {TEX_SIGNS[expr.rel_op]} ".join(sides)

    def _joined(self, expr: Expr, sign: str, level: str) -> str:
        return f" {sign} ".join(self.parenthesize(arg, PRECEDENCE[level]) for arg in expr.args)

    def _print_And(self, expr: Expr) -> str:
        return self._joined(expr, r"\wedge", "And")

    def _print_Or(self, expr: Expr) -> str:
        return self._joined(expr, r"\vee", "And")

    def _print_Xor(self, expr: Expr) -> str:
        return self._joined(expr, r"\oplus", "Or")

    def _print_Equivalent(self, expr: Expr, altchar: Any = None) -> str:
        return self._joined(expr, r"\Leftrightarrow", "Or")

    def _print_BitAnd(self, expr: Expr) -> str:
        return self._joined(expr, r"\mathbin{\&}", "Add")

    def _print_BitOr(self, expr: Expr) -> str:
        return self._joined(expr, r"\mathbin{|}", "Add")

    def _print_BitXor(self, expr: Expr) -> str:
        return self._joined(expr, r"\mathbin{\wedge}", "Add")

    def _print_BitNot(self, expr: Expr) -> str:
        return r"\mathord{\sim} " + self.parenthesize(expr.args[0], PRECEDENCE["Func"])

    def _print_Not(self, expr: Expr) -> str:
        return r"\neg " + self.parenthesize(expr.args[0], PRECEDENCE["Func"])

    def _print_Truth(self, expr: Expr) -> str:
        return rf"\left[{self._print(expr.args[0])}\right]"

    def _print_Mod(self, expr: Expr, exp: Any = None) -> str:
        text = r" \bmod ".join(self.parenthesize(arg, PRECEDENCE["Mul"]) for arg in expr.args)
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"

    def _print_Max(self, expr: Expr, exp: Any = None) -> str:
        return self._extreme(r"\max", expr, exp)

    def _print_Min(self, expr: Expr, exp: Any = None) -> str:
        return self._extreme(r"\min", expr, exp)

    def _extreme(self, name: str, expr: Expr, exp: Any) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"{name}{power}\left({', '.join(map(self._print, expr.args))}\right)"

    def _print_Indexed(self, expr: Expr) -> str:
        name = tex_name(str(expr.args[0].label))
        indices = ", ".join(map(self._print, expr.args[1:]))
        return f"{name}[{indices}]" if indices else name

    def _print_Piecewise(self, expr: Expr) -> str:
        (a, c), (b, _) = expr.args
        return self._chosen(c, a, b)

    def _print_ITE(self, expr: Expr) -> str:
        return self._chosen(*expr.args)

    def _chosen(self, c: Expr, a: Expr, b: Expr) -> str:
        first, condition, other = (self._print(x) for x in (a, c, b))
        rows = rf"{first} & \text{{if }} {condition} \\ {other} & \text{{otherwise}}"
        return rf"\begin{{cases}} {rows} \end{{cases}}"
