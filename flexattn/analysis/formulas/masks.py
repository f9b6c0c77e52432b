"""Masks and their closed forms as formulas: ``0 ≤ k < q + 1`` in Unicode or LaTeX.

``q`` and ``k`` are positions below M and N; a range that goes further is cut there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy

from flexattn.analysis.closed.linear import linear, minus, plus
from flexattn.analysis.closed.pieces import (
    BEGIN,
    END,
    Ascending,
    ClosedForm,
    OneRun,
    Piece,
    Positive,
    Repeat,
    StartTable,
)
from flexattn.analysis.formulas.printers import as_latex, as_text, tex_name
from flexattn.analysis.formulas.symbols import Expr, K, M, N, Q, expression, raw, to_sympy
from flexattn.analysis.formulas.tidy import Vocabulary, is_nonnegative, residue, share, tidy
from flexattn.ir.nodes import I64, Const, Input, Load, Node, walk

Numbers = Mapping[str, int | float]


@dataclass(frozen=True)
class _Dialect:
    """How formulas are joined in one kind of print."""

    show: Callable[[Expr], str]
    name: Callable[[str], str]
    below: str
    within: str
    union: str
    nothing: str
    such: str
    alike: str
    where: str
    ascending: str
    first: str
    one_run: str
    run: str


_TEXT = _Dialect(
    show=as_text,
    name=str,
    below="≤",
    within="{0} ∈ {1}",
    union=" ∪ ",
    nothing="∅",
    such="{{{0} : {1}}}",
    alike="{0} ≡ {1} (mod {2})",
    where=", where ",
    ascending="{0} ascends",
    first="{0} is the first {1} with {2} ≥ v",
    one_run="{0} holds in one run",
    run="{0} is where the run of {1} starts and stops",
)
_LATEX = _Dialect(
    show=as_latex,
    name=tex_name,
    below=r"\le",
    within=r"{0} \in {1}",
    union=r" \cup ",
    nothing=r"\emptyset",
    such=r"\{{{0} : {1}\}}",
    alike=r"{0} \equiv {1} \pmod{{{2}}}",
    where=r" \text{ where } ",
    ascending=r"{0} \text{{ ascends}}",
    first=r"{0} \text{{ is the first }} {1} \text{{ with }} {2} \ge v",
    one_run=r"{0} \text{{ holds in one run}}",
    run=r"{0} \text{{ is where the run of }} {1} \text{{ starts and stops}}",
)


def to_text(
    node: Node, numbers: Numbers | None = None, captures: Sequence[str] | None = None
) -> str:
    """The graph ``node`` as one formula in Unicode.

    Args:
        numbers: Values of lifted numbers by name (``n0``); others are printed as ``n_0``.
        captures: Names of the captures, in order; ``c_0`` and so on by default.
    """
    return _graph(node, _words(numbers, captures), _TEXT)


def to_latex(
    node: Node, numbers: Numbers | None = None, captures: Sequence[str] | None = None
) -> str:
    """The graph ``node`` as LaTeX for math mode; arguments as of ``to_text``."""
    return _graph(node, _words(numbers, captures), _LATEX)


def form_text(
    form: ClosedForm, numbers: Numbers | None = None, captures: Sequence[str] | None = None
) -> str:
    """What ``form`` keeps, as in ``max(0, q − 1023) ≤ k < q + 1``; arguments as of ``to_text``."""
    return _form(form, _form_words(form, numbers, captures), _TEXT)


def form_latex(
    form: ClosedForm, numbers: Numbers | None = None, captures: Sequence[str] | None = None
) -> str:
    """What ``form`` keeps, as LaTeX for math mode; arguments as of ``to_text``."""
    return _form(form, _form_words(form, numbers, captures), _LATEX)


def form_notes(
    form: ClosedForm,
    numbers: Numbers | None = None,
    captures: Sequence[str] | None = None,
    *,
    latex: bool = False,
) -> list[str]:
    """What ``form`` relies on and what its tables hold, a sentence each.

    That accesses stay inside their captures, and entries in 32 bits, is left out.
    """
    words, dialect = _form_words(form, numbers, captures), _LATEX if latex else _TEXT
    notes = []
    for need in form.requires:
        match need:
            case Ascending(capture):
                notes.append(dialect.ascending.format(dialect.name(words.capture(capture))))
            case OneRun(capture):
                notes.append(dialect.one_run.format(dialect.name(words.capture(capture))))
            case Positive(node) if not isinstance(tidy(node, words), Const):
                notes.append(dialect.show(raw(sympy.Gt, to_sympy(node, words), sympy.Integer(0))))
    at = K if form.solved == "kv_idx" else Q
    for number, table in zip(sorted(words.tables), form.tables, strict=True):
        name, captured = words.capture(number), words.capture(table.capture)
        leading = [to_sympy(index, words) for index in _leading(form, number)]
        entry = dialect.show(raw(sympy.Indexed, sympy.IndexedBase(captured), *leading, at))
        if isinstance(table, StartTable):
            sought = raw(sympy.Indexed, sympy.IndexedBase(name), *leading, sympy.Symbol("v"))
            notes.append(dialect.first.format(dialect.show(sought), dialect.show(at), entry))
        else:
            notes.append(dialect.run.format(dialect.name(name), entry))
    return notes


def _graph(node: Node, words: Vocabulary, dialect: _Dialect) -> str:
    root, named = share(tidy(node, words))
    text = dialect.show(expression(root, words))
    if not named:
        return text
    parts = [
        f"{dialect.show(expression(name, words))} = {dialect.show(expression(part, words))}"
        for name, part in named
    ]
    return f"{text}{dialect.where}{', '.join(parts)}"


def _words(numbers: Numbers | None, captures: Sequence[str] | None) -> Vocabulary:
    return Vocabulary(numbers or {}, tuple(captures or ()))


def _form_words(
    form: ClosedForm, numbers: Numbers | None, captures: Sequence[str] | None
) -> Vocabulary:
    count = len(captures) if captures is not None else _captures_before(form)
    tables, bases, made = {}, {}, {"start": 0, "run": 0}
    for number, table in enumerate(form.tables, count):
        kind = "start" if isinstance(table, StartTable) else "run"
        tables[number] = f"{kind}_{made[kind]}"
        made[kind] += 1
        if isinstance(table, StartTable):
            bases[number] = table.base
    positive = frozenset(need.node for need in form.requires if isinstance(need, Positive))
    return Vocabulary(numbers or {}, tuple(captures or ()), tables, bases, positive)


def _captures_before(form: ClosedForm) -> int:
    """How many captures the program has: derived tables are the last that the pieces read."""
    return max((node.capture for node in _loads(form)), default=-1) + 1 - len(form.tables)


def _leading(form: ClosedForm, table: int) -> tuple[Node, ...]:
    """The indices of a derived table before its last."""
    return next((node.indices[:-1] for node in _loads(form) if node.capture == table), ())


def _loads(form: ClosedForm) -> Iterator[Load]:
    parts = [node for piece in form.pieces for node in vars(piece).values()]
    parts += [node for piece in form.pieces if piece.repeat for node in vars(piece.repeat).values()]
    roots = [node for node in parts if isinstance(node, Node)]
    return (node for node in walk(*roots) if isinstance(node, Load))


def _form(form: ClosedForm, words: Vocabulary, dialect: _Dialect) -> str:
    solved, length = (K, N) if form.solved == "kv_idx" else (Q, M)
    name = dialect.show(solved)
    conditions = [_conditions(piece, solved, length, words, dialect) for piece in form.pieces]
    if len(conditions) == 1:
        return ", ".join(conditions[0])
    sets = []
    for piece, parts in zip(form.pieces, conditions):
        if len(parts) > 1:
            sets.append(dialect.such.format(name, ", ".join(parts)))
        else:
            low, high = map(dialect.show, _ends(piece, length, words))
            sets.append(f"[{low}, {high})")
    return dialect.within.format(name, dialect.union.join(sets) or dialect.nothing)


def _conditions(
    piece: Piece, solved: Expr, length: Expr, words: Vocabulary, dialect: _Dialect
) -> list[str]:
    """The range of a piece, then what else holds in it."""
    low, high = map(dialect.show, _ends(piece, length, words))
    parts = [f"{low} {dialect.below} {dialect.show(solved)} < {high}"]
    if piece.repeat is not None:
        parts.append(_repeat(piece.repeat, solved, words, dialect))
    if piece.when is not None:
        parts.append(dialect.show(to_sympy(piece.when, words)))
    return parts


def _ends(piece: Piece, length: Expr, words: Vocabulary) -> tuple[Expr, Expr]:
    low, high = tidy(piece.low, words), tidy(piece.high, words)
    return _low(low, words), length if _is_end(high) else expression(high, words)


def _is_end(node: Node) -> bool:
    """Whether it is END, or END and a little."""
    assert isinstance(END, Const)
    found = linear(node)
    return not found.terms and found.constant >= END.value // 2


def _low(low: Node, words: Vocabulary) -> Expr:
    """The low end, cut to 0 unless its shape shows that it is no less."""
    found = linear(low)
    if low is BEGIN or (not found.terms and found.constant <= 0):
        return sympy.Integer(0)
    expr = expression(low, words)
    if is_nonnegative(low, words):
        return expr
    return raw(sympy.Max, sympy.Integer(0), *(expr.args if expr.func is sympy.Max else (expr,)))


def _repeat(repeat: Repeat, solved: Expr, words: Vocabulary, dialect: _Dialect) -> str:
    """``k ≡ r (mod m)`` for one position in a period, else a range of remainders."""
    period, shift, begin, end = (
        tidy(node, words) for node in (repeat.period, repeat.shift, repeat.begin, repeat.end)
    )
    modulus = expression(period, words)
    if minus(end, begin) is Const(1, I64):
        single = residue(minus(begin, shift), period)
        shown = (dialect.show(x) for x in (solved, expression(single, words), modulus))
        return dialect.alike.format(*shown)
    name = "kv_idx" if solved is K else "q_idx"
    dividend = expression(plus(Input(name, I64), shift), words)
    text = dialect.show(raw(sympy.Mod, dividend, modulus))
    low, high = (dialect.show(expression(node, words)) for node in (begin, end))
    if end is not period:
        text = f"{text} < {high}"
    if begin is not Const(0, I64) or end is period:
        text = f"{low} {dialect.below} {text}"
    return text
