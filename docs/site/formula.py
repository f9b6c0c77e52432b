"""A recipe's formula, which is written as code, as HTML that reads like mathematics."""

from __future__ import annotations

import html
import re

WORDS = {
    "and": "∧", "or": "∨", "not": "¬", "in": "∈", "<=": "≤", ">=": "≥", "!=": "≠", "==": "=",
    "*": "·", "keep": "<b>keep</b>", "where": "where", "if": "if", "the": "the", "of": "of",
}  # fmt: skip
UPRIGHT = frozenset({"log", "exp", "tanh", "min", "max", "clip", "clamp", "floor", "sum", "cos"})
TOKEN = re.compile(
    r"(?P<quote>s')|(?P<name>[A-Za-z_]\w*)|(?P<number>\d[\d.]*(?:e-?\d+)?)|(?P<power>\^)"
    r"|(?P<open>\[)|(?P<close>\])|(?P<floor>//)|(?P<sign><=|>=|==|!=|\*)|(?P<other>.)",
    re.DOTALL,
)


def formula_html(text: str) -> str:
    """Names in italics, brackets as subscripts, comparisons and logic as signs.

    >>> formula_html("keep = q - kv < W and d[b, q] >= 2")
    '<b>keep</b> = <i>q</i> - <i>kv</i> &lt; <i>W</i> ∧ <i>d</i><sub><i>b</i>, <i>q</i></sub> ≥ 2'
    >>> formula_html("s' = s * 2^-k")
    '<i>s</i>′ = <i>s</i> · 2<sup>-<i>k</i></sup>'
    """
    out, depth, raised = [], 0, False
    for match in TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match[0]
        if raised and piece not in ("-", "(") and kind not in ("name", "number"):
            out.append("</sup>")
            raised = False
        if kind == "power":
            out.append("<sup>")
            raised = True
        elif kind == "open":
            after_name = bool(out) and out[-1].startswith(("<i>", "</sub>"))
            depth += 1
            out.append("<sub>" if after_name and depth == 1 else "[")
        elif kind == "close":
            depth -= 1
            opened = "".join(out).count("<sub>") > "".join(out).count("</sub>")
            out.append("</sub>" if opened and depth == 0 else "]")
        else:
            out.append(_piece(kind, piece))
    if raised:
        out.append("</sup>")
    return "".join(out)


def _piece(kind: str, piece: str) -> str:
    if kind == "quote":
        return "<i>s</i>′"
    if kind == "name":
        if piece in WORDS or piece in UPRIGHT:
            return WORDS.get(piece, piece)
        return f"<i>{piece}</i>"
    if kind == "sign":
        return WORDS[piece]
    return html.escape(piece, quote=False)
