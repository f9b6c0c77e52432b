"""A recipe's formula, which is written as code, as HTML that reads like mathematics.

Single letters are variables in italics; longer names and words stay upright. What stands in
brackets after a name is its subscript, ``^`` raises, ``//`` is a floor of a quotient.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<name>[A-Za-z_]\w*)|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)"
    r"|(?P<sign>\.\.\.|//|<=|>=|==|!=|.))",
    re.DOTALL,
)
SIGNS = {
    "<=": "≤", ">=": "≥", "!=": "≠", "==": "=", "*": "·", "-": "−", "%": "mod", "...": "…",
    "&": "∧", "|": "∨", "~": "¬",
}  # fmt: skip
LOGIC = {"and": "∧", "or": "∨", "not": "¬"}
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "theta": "θ", "lambda": "λ", "mu": "μ",
    "sigma": "σ", "tau": "τ", "phi": "φ",
}  # fmt: skip
AROUND = {"floor": "⌊⌋", "ceil": "⌈⌉"}
COMPARISONS = frozenset({"<", ">", "<=", ">=", "==", "!="})
PRODUCTS = frozenset({"*", "/", "%"})
OPEN, CLOSE, BREAKS = frozenset("([{"), frozenset(")]}"), frozenset(",;:")
# Words that may stand between variables; three others in a row make a sentence.
CONDITIONS = frozenset({"and", "or", "not", "where", "if", "keep"})
JOINTS = CONDITIONS | frozenset({"in", "else", "over", "of", "sum", "mean"})
SENTENCE = 3


@dataclass(frozen=True)
class Token:
    text: str
    kind: str
    spaced: bool


@dataclass(frozen=True)
class Piece:
    """What has been written: HTML, with ``sign`` as in the formula unless it is an operand."""

    html: str
    spaced: bool
    sign: str = ""


def joined(pieces: Sequence[Piece]) -> str:
    return "".join((" " if p.spaced and n else "") + p.html for n, p in enumerate(pieces))


def formula_html(text: str) -> str:
    """The formula as HTML.

    >>> formula_html("keep = q - kv < W and d[b, q] >= 2")
    '<b>keep</b> ⇔ <i>q</i> − <i>kv</i> &lt; <i>W</i> ∧ <i>d</i><sub><i>b</i>, <i>q</i></sub> ≥ 2'
    >>> formula_html("s' = s * 2^-k")
    '<i>s</i>′ = <i>s</i> · 2<sup>−<i>k</i></sup>'
    >>> formula_html("keep = q // block == kv // block")
    '<b>keep</b> ⇔ ⌊<i>q</i> / block⌋ = ⌊<i>kv</i> / block⌋'
    """
    tokens = [Token(m[0].strip(), str(m.lastgroup), bool(m["space"])) for m in TOKEN.finditer(text)]
    return Writer(tokens).everything()


class Writer:
    """Goes through the tokens once, from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.lowered = 0  # how deep in subscripts

    def everything(self) -> str:
        written = self.sequence(logic=False)
        while self.at < len(self.tokens):  # a bracket that nothing opened
            written += html.escape(self.take().text, quote=False) + self.sequence(logic=False)
        return written

    def peek(self, ahead: int = 0) -> Token:
        place = self.at + ahead
        return self.tokens[place] if 0 <= place < len(self.tokens) else Token("", "end", True)

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def sequence(self, logic: bool, bars: bool = False) -> str:
        """All up to a closing bracket, or up to a bar.

        Args:
            logic: Whether ``and`` and ``or`` around it are signs.
        """
        pieces: list[Piece] = []
        inherited, logic = logic, self.is_logic(logic)
        while (token := self.peek()).kind != "end" and token.text not in CLOSE:
            if bars and token.text == "|":
                break
            if token.text in BREAKS:
                pieces.append(Piece(self.take().text, token.spaced, token.text))
                logic = self.is_logic(inherited)
            elif token.text == "//" and pieces and not pieces[-1].sign:
                self.quotient(pieces, logic)
            elif token.text in LOGIC or token.text == "in":
                pieces.append(self.joint(pieces, logic))
            elif token.kind in ("name", "number") or token.text in OPEN or self.opens_bars():
                pieces.append(Piece(self.operand(logic), token.spaced))
            else:
                pieces.append(self.sign())
        return joined(pieces)

    def opens_bars(self) -> bool:
        """Of |x|; with room on both sides the bar is an ``or``."""
        return self.peek().text == "|" and not (self.at and self.peek(1).spaced)

    def is_logic(self, inherited: bool) -> bool:
        """Whether ``and`` and ``or`` of the clause that begins here join conditions, not words."""
        depth, names, most, compares = 0, 0, 0, False
        wanted = inherited or self.peek().text == "keep"
        for token in self.tokens[self.at :]:
            depth += (token.text in OPEN) - (token.text in CLOSE)
            if depth < 0 or (depth == 0 and token.text in BREAKS):
                break
            if depth == 0:
                compares |= token.text in COMPARISONS
                joins = token.text in JOINTS or token.kind != "name"
                names = 0 if joins else names + 1
                most = max(most, names)
        return (wanted or compares) and most < (SENTENCE if compares else SENTENCE - 1)

    def joint(self, pieces: list[Piece], logic: bool) -> Piece:
        token = self.take()
        if token.text == "in":
            return Piece("in" if self.in_a_sentence() else "∈", True, "in")
        after_break = bool(pieces) and pieces[-1].sign in BREAKS
        after_operand = bool(pieces) and not pieces[-1].sign
        a_word = not logic or after_break or (token.text == "not" and after_operand)
        return Piece(token.text if a_word else LOGIC[token.text], token.spaced, token.text)

    def in_a_sentence(self) -> bool:
        """Whether the ``in`` just taken has two words before it or after it."""
        before = self.peek(-3), self.peek(-2)
        after = self.peek(), self.peek(1)
        return any(
            a.kind == b.kind == "name" and not {a.text, b.text} & CONDITIONS
            for a, b in (before, after)
        )

    def quotient(self, pieces: list[Piece], logic: bool) -> None:
        """``a // b``: what is multiplied or divided before it belongs to ``a``."""
        spaced = self.take().spaced
        first = len(pieces) - 1
        while first >= 2 and pieces[first - 1].sign in PRODUCTS and not pieces[first - 2].sign:
            first -= 2
        gap = " " if spaced else ""
        whole = f"⌊{joined(pieces[first:])}{gap}/{gap}{self.operand(logic)}⌋"
        pieces[first:] = [Piece(whole, pieces[first].spaced)]

    def sign(self) -> Piece:
        token, before = self.take(), self.peek(-2)
        if token.text == "=" and before.text == "keep":
            return Piece("⇔", True, "=")
        if token.text == "<" and not self.peek().spaced:
            return Piece("⟨", token.spaced, "<")
        if token.text == ">" and not token.spaced:
            return Piece("⟩", False, ">")
        if token.text == "." and token.spaced:  # of two vectors
            return Piece("·", True, ".")
        written = SIGNS.get(token.text, html.escape(token.text, quote=False))
        return Piece(written, token.spaced, token.text)

    def operand(self, logic: bool) -> str:
        """A name, number or group with all that hangs on it: prime, subscript, call, power."""
        token = self.take()
        if token.kind in ("name", "number"):
            written = self.called(token, logic) if token.kind == "name" else token.text
        elif token.text == "|":
            written = f"|{self.sequence(logic, bars=True)}" + self.closed()
        else:
            written = html.escape(token.text) + self.sequence(logic) + self.closed()
        return self.hung(written, token, logic)

    def called(self, token: Token, logic: bool) -> str:
        """A name, or a function with its arguments where those have signs of their own."""
        if self.peek() == Token("(", "sign", False) and token.text in AROUND:
            self.take()
            left, right = AROUND[token.text]
            inside = self.sequence(logic)
            self.closed()
            return left + inside + right
        if token.text == "sqrt" and self.peek().text == "(":
            return "√"
        alone = self.peek(-2).kind == "name" and self.peek().kind == "name"
        return token.text if token.text == "a" and alone else name_html(token.text)

    def hung(self, written: str, token: Token, logic: bool) -> str:
        while not self.peek().spaced:
            text = self.peek().text
            if text == "'":
                self.take()
                belongs = self.peek() == Token("s", "name", False)  # q's
                written += "’" if belongs else "′"
                written += self.take().text if belongs else ""
            elif text == "^":
                self.take()
                written += f"<sup>{self.exponent(logic)}</sup>"
            elif text == "(" and token.kind == "name":
                written += self.take().text + self.sequence(logic) + self.closed()
            elif text == "[" and token.kind == "name":
                written += self.subscript()
            else:
                break
        return written

    def subscript(self) -> str:
        """Lowered once; what is a subscript in a subscript keeps its brackets."""
        self.take()
        self.lowered += 1
        inside = self.sequence(logic=False)
        self.lowered -= 1
        closer = self.closed()
        return f"[{inside}{closer}" if self.lowered else f"<sub>{inside}</sub>"

    def exponent(self, logic: bool) -> str:
        """Without the brackets that only hold it together."""
        minus = "−" if self.peek().text == "-" else ""
        if minus:
            self.take()
        if self.peek().text != "(":
            return minus + (self.operand(logic) if self.peek().kind != "end" else "")
        self.take()
        inside = self.sequence(logic)
        self.closed()
        return f"{minus}({inside})" if minus else inside

    def closed(self) -> str:
        """The bracket or bar that ends a group; of [a, b) it is another than began it."""
        return html.escape(self.take().text) if self.peek().kind != "end" else ""


def name_html(name: str) -> str:
    """A letter in italics, a Greek name as its letter, and ``r_kv`` with a subscript."""
    if name == "keep":
        return "<b>keep</b>"
    if name == "log2":
        return "log<sub>2</sub>"
    base, _, index = name.rpartition("_")
    if base and is_variable(index):
        return f"{name_html(base)}<sub>{name_html(index)}</sub>"
    if name in GREEK:
        return f"<i>{GREEK[name]}</i>"
    return f"<i>{name}</i>" if is_variable(name) else html.escape(name)


def is_variable(name: str) -> bool:
    return len(name) == 1 or name == "kv"
