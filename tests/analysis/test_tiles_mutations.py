"""Every rule of the prover that is a function: made wrong, a mask shows it.

A module's functions are read from the module, so that a new one without a row here fails, unless
`NO_RULES` says that it proves nothing.
"""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy as np
import pytest
from mutations import (
    Row,
    after,
    assert_caught,
    backwards,
    before,
    covered,
    first_of,
    for_op,
    for_stage,
    given,
    guards_inverted,
    inverted,
    never,
    opposite,
    renamed,
    swapped,
)

from flexattn.analysis.tiles import forms
from flexattn.analysis.tiles.truth import NO, YES

UNORDERED = "SHUFFLED[q] == SHUFFLED[k]"
TEXTS = "(TEXT[q] == TEXT[k]) & (TEXT[q] >= 0)"
WINDOW = "(q - k < 9) & (k - q <= 3)"
ODD = "(q - k) % 16 < 3"
TREES = "TREE[q // 8, k // 8]"
EXISTS = "(FLAGS[q] & (LOOSE[q] != LOOSE[k])) | (((q * k) % 8 == 3) & ((q * k) % 4 == 1))"
ROWS = "(q // 25 == k // 25) & (q % 25 >= k % 25)"
OUTSIDE = f"~({ROWS})"
RIDDLE = "(q // 25 == k // 25) & ((q * k) % 8 == 3) & ((q * k) % 4 == 1)"
FLAGGED = "FLAGS[q] & FLAGS[k] & (LOOSE[q] >= LOOSE[k])"
LOOSELY = "LOOSE[q] < LOOSE[k]"
WILD = "(LOOSE[q] * LOOSE[k]) % 64 < 1"
PER_HEAD = "(q * 2 + h * 9 < k) ^ (b == 1)"

COMPARISONS: list[Row] = [
    ("prover.compare", "q * 2 < k + 5", renamed(lt="le")),
    ("prover.compare", "q * 2 <= k + 5", renamed(le="lt")),
    ("prover.compare", "q * 2 > k + 5", renamed(gt="ge")),
    ("prover.compare", "q * 2 >= k + 5", renamed(ge="gt")),
    ("prover.compare", UNORDERED, renamed(eq="lt")),
    ("prover.compare", "IDS[q] != IDS[k]", renamed(ne="eq")),
    ("compare._check_floats", "NANS[q] < NANS[k]", given(None)),
    ("compare._exists", EXISTS, given(YES)),
    ("compare._transfer", TEXTS, after(guards_inverted)),
    ("compare._within", TEXTS, after(lambda line: type(line)(line.places, None, ~line.values))),
    ("distance.Distances.truth", WINDOW, after(never)),
    ("distance.Distances.holds", ODD, after(inverted)),
    ("distance.Distances._counted", ODD, after(never)),
    ("distance.Distances._count_per_head", "(q - k + b) % 16 < 3", after(lambda n: n - 1)),
    ("distance._within", WINDOW, after(lambda ends: ends - 1)),
    ("distance._window", WINDOW, after(lambda ends: (ends[0] + 1, ends[1]))),
    ("distance._interval", WINDOW, after(lambda ends: ends and (ends[0] - 1, ends[1] + 1))),
    ("distance._solve", "q - k < 8", renamed(lt="le")),
    ("distance._solve", "q - k <= 8", renamed(le="lt")),
    ("distance._solve", "q - k > 8", renamed(gt="ge")),
    ("distance._solve", "q - k >= 8", renamed(ge="gt")),
    ("distance._solve", "(q - k) * 3 == 9", renamed(eq="ge")),
    ("distance._at_zero", "q - k + 3 < 9", after(lambda rest: rest * 2)),
    ("distance._is_square", ODD, given(True)),
    ("distance._per_diagonal", ODD, after(never)),
    ("distance._spread", ODD, after(lambda x: x[..., ::-1, :])),
    ("prover.of_table", TREES, after(never)),
    ("tables._sums", TREES, after(lambda sums: sums[::-1])),
    ("tables._range", TREES, after(first_of)),
    ("tables._is_dense", "TREE[q % 2 * 8, k // 96 + 3]", given(True)),
]
SETS: list[Row] = [
    ("compare.some_equal", UNORDERED, after(lambda found: (found[0] & NO, found[1]))),
    ("valuesets._is_decided_by_order", UNORDERED, given(True)),
    ("valuesets._same_order", UNORDERED, given(True)),
    ("valuesets._are_equal", "IDS[q] == OTHER[k]", given(True)),
    ("valuesets._steps", UNORDERED, given(True)),
    ("valuesets._dense", UNORDERED, given(True)),
    ("valuesets._survivors_step", "(LOOSE[q] == LOOSE[k]) & (LOOSE[q] > 2)", given(True)),
    ("valuesets._matrix", UNORDERED, after(inverted)),
    ("valuesets._members", UNORDERED, after(lambda pairs: (pairs[0][::2], pairs[1][::2]))),
    ("valuesets._distinct", UNORDERED, after(lambda pairs: (pairs[0], pairs[1] // 2))),
    ("valuesets._join", UNORDERED, given(True)),
    ("valuesets._ranked", UNORDERED, after(lambda found: (*found[:2], 0))),
    ("valuesets._bits", UNORDERED, after(lambda words: words & np.uint64(3))),
    ("valuesets._pick", UNORDERED, after(inverted)),
]
SINGLY: list[Row] = [
    ("singly.by_segments", OUTSIDE, after(lambda truth: truth and never(truth))),
    ("segments._joined", OUTSIDE, after(never)),
    (
        "segments.Cut.sizes",
        "(q == k) & ~((IDS[q] == IDS[k]) & (IDS[q] == 2))",
        after(lambda n: np.maximum(n - 1, 1)),
    ),
    ("segments._cut", "(k & q) != (k % 4)", after(lambda cut: (cut[0], cut[1] * 0, cut[2]))),
    ("segments._witnesses", RIDDLE, lambda f: lambda *a: (np.ones(len(a[3]), bool),) * 2),
    ("singly.witnesses", RIDDLE, after(lambda found: (~found[0], found[1]))),
    ("witness._share", ROWS, after(lambda places: -places)),
    (
        "singly._Work._by_many",
        RIDDLE,
        lambda f: lambda self, points: self._take(self.classes[self.open] * 0 + 1, ""),
    ),
    ("singly._Work._take", RIDDLE, for_stage("evaluation", lambda c: c + 1)),
    (
        "singly._Work._by_evaluation",
        RIDDLE,
        lambda f: lambda self: self._take(self.classes[self.open] * 0 + 1, ""),
    ),
    ("search.decide_singly", WILD, after(lambda classes: 2 - classes % 3)),
]
LINES: list[Row] = [
    ("lines.Line.rises", LOOSELY, given(True) and (lambda old: property(lambda self: True))),
    ("lines._rises", LOOSELY, given(True)),
    ("lines._surviving", FLAGGED, lambda f: lambda values, guard: (values, values)),
    ("lines.Line.near", ROWS, after(backwards)),
    ("lines.Line.on", LOOSELY, after(backwards)),
    ("lines.Line.values", LOOSELY, after(backwards)),
    ("lines.Line.extremes", LOOSELY, after(first_of)),
    ("lines.Line._find", "q * 2 < k", after(first_of)),
    ("lines.Places.ends", "q * 2 < k", after(first_of)),
    (
        "facts.Facts._sum",
        "LOOSE[q] + k + FEW[q] < 20",
        before(lambda self, terms, axis: (self, terms[:1], axis)),
    ),
    ("facts.Facts._span", "LOOSE[q] * 2**57 + LOOSE[k] * 2**57 > 5", given((0, 0))),
    ("facts._SMALL", "LOOSE[q] * 2**57 + LOOSE[k] * 2**57 > 5", lambda old: 1 << 80),
    ("facts.Facts.sides", "LOOSE[q] < k", after(swapped)),
    ("facts.Facts.single", "LAYERS[1, q // 8, k // 8]", after(lambda x: x * 0)),
    ("facts.Facts.at", WILD, after(inverted)),
    ("facts.Pairs._look_up", WILD, after(lambda x: x + 1)),
    ("facts._all", "FLAGS[q] & (LOOSE[q] > 3) & (q >= k)", before(lambda parts: (parts[:1],))),
    (
        "facts._input_ranges",
        "q * (b - 1) > -20",
        after(lambda ranges: {**ranges, "b": (5, 5)}),
    ),
    ("values.Ranges.is_narrow", "q * 65536 * 65536 > k", given(True)),
    ("values.Ranges._find", "q * 65536 * 65536 > k", given((0, 0))),
    ("values.Ranges.may_wrap", "q * 2**62 > 5", given(False)),
    ("values.Values._view", "LOOSE[q] < k", after(backwards)),
    ("values.Values._load", "LOOSE[(q * 3) % 96] < k", after(lambda x: x + 1)),
    ("values._safe_index", "negative index", after(lambda index: index * 0)),
]


def anti(found: forms.Linear) -> forms.Linear:
    """What is no function of the distance, said to be one."""
    return forms.Linear(1, -1)


FORMS: list[Row] = [
    ("forms.Forms._find_linear", "(q + k) % 16 < 3", for_op("input", anti)),
    ("forms.Forms._find_linear", "(q + k) % 16 < 3", for_op("add", anti)),
    ("forms.Forms._find_linear", "(q - 2 * k) % 16 < 3", for_op("sub", anti)),
    ("forms.Forms._find_linear", "(-(q + k)) % 16 < 3", for_op("neg", anti)),
    ("forms.Forms._find_linear", "((q + k) * 3) % 16 < 3", for_op("mul", anti)),
    ("forms.Forms._find_linear", "wide", for_op("to_i64", anti)),
    ("forms.Forms._find_linear", "detached", for_op("detach", anti)),
    ("forms.Linear.of_distance", "(q + k) % 16 < 3", lambda old: property(lambda self: True)),
    ("forms.Forms._find_distance", "q + k < 50", given(True)),
    ("forms.Forms._most", "q + TOP >= k", given(0)),
    ("forms.Forms._number", "(LOOSE[q] - k) * 2 < 50", given(0)),
    ("forms._small", "(q - k) * 2**62 > 5", lambda f: lambda found: found),
    *(
        ("forms.Forms.separate", text, for_op(op, lambda found: found.scale(-1)))
        for op, text in {
            "add": "LOOSE[q] + FEW[k] < 20",
            "sub": "LOOSE[q] - FEW[k] < 20",
            "neg": "-(LOOSE[q] + FEW[k]) < 20",
            "mul": "(LOOSE[q] + FEW[k]) * 3 < 20",
            "to_i64": "wide sum",
            "detach": "detached sum",
        }.items()
    ),
    ("forms.Sum.scale", "LOOSE[q] < FEW[k] * 3", lambda f: lambda self, by: self),
    ("forms.Sum.add", "LOOSE[q] + FEW[q] * 5 < k", lambda f: lambda self, other: self),
]
PROVER: list[Row] = [
    ("prover.Prover._find", LOOSELY, after(never)),
    ("prover.Prover._all", LOOSELY, after(never)),
    ("prover.Prover._grouped", FLAGGED, after(lambda g: type(g)(g.row, [], g.distance, g.other))),
    (
        "prover.Prover._joint",
        "(q > 50) & (torch.exp(REAL[q]) > 1) & (q >= k)",
        before(lambda self, items, ask, unknown: (self, items, ask, [])),
    ),
    (
        "prover.Prover._independent",
        "FLAGS[q] & FLAGS[k]",
        before(lambda self, p, r: (self, p, None)),
    ),
    (
        "prover.Prover._combine",
        f"({UNORDERED}) & (q >= k)",
        before(lambda self, pairs, others: (self, pairs, others[:1])),
    ),
    (
        "prover.Prover._guarded",
        "(q > k) & (LOOSE[q] == LOOSE[k]) & (LOOSE[q] >= 2)",
        lambda f: lambda *a, alone: f(*a, alone=True),
    ),
    (
        "prover.Prover._leaf",
        f"({UNORDERED}) | ((q >= k) & (LOOSE[q] > 3))",
        before(lambda self, item: (self, (item[0], True))),
    ),
    ("prover.Prover._rule", LOOSELY, after(opposite)),
    ("prover.Prover._sides", "LOOSE[q] < k", after(swapped)),
    (
        "prover.conjuncts",
        "(q * 2 < k) & (LOOSE[q] < LOOSE[k])",
        lambda f: lambda *a: list(f(*a))[:1],
    ),
]
STRUCTURE: list[Row] = [
    ("pieces.Pieces.forget", "(q < 40) | ((q - k) % 7 < 3)", given(None)),
    ("pieces.Pieces.add_dense", "q < 40", before(lambda self, c, *a: (self, c[..., ::-1, :], *a))),
    ("pieces.Pieces.add_patches", "q * 2 < k", before(lambda self, c, *a: (self, c[:, ::-1], *a))),
    ("pieces._runs_of", "q * 2 < k", after(lambda found: (*found[:3], ~found[3]))),
    (
        "pieces.Pieces._add",
        "q * 2 < k",
        before(lambda self, row, start, *a: (self, row, start * 0, *a)),
    ),
    ("pieces.Pieces._lowered", "q >= 0", lambda f: lambda self, found, ragged: found),
    (
        "pieces.Pieces.runs",
        "q * 2 < k",
        after(
            lambda runs: type(runs)(
                runs.rows, runs.cols, runs.slices, runs.first, runs.start, runs.stop, ~runs.full
            )
        ),
    ),
    (
        "pieces.share",
        PER_HEAD,
        after(
            lambda runs: type(runs)(
                runs.rows, runs.cols, runs.slices * 0, runs.first, runs.start, runs.stop, runs.full
            )
        ),
    ),
    ("search._classes", LOOSELY, lambda f: lambda *a, finest: f(*a, finest=True)),
    ("search._clipped", "q * 2 < k", after(lambda found: (YES, found[1]))),
    ("search._named", "q * 2 < k", after(lambda at: (*at[:2], at[3], at[2]))),
    ("search.Levels.tile", "q * 2 < k", after(lambda tile: (1, 1))),
    (
        "search.Search._split",
        "q * 2 < k",
        before(
            lambda self, level, tiles, factors: (
                self,
                level,
                (*tiles[:2], tiles[2] * 0, tiles[3]),
                factors,
            )
        ),
    ),
    ("search.Search._slice", PER_HEAD, after(lambda at: at * 0)),
    ("search.Search._truths", LOOSELY, after(lambda found: (never(found[0]), *found[1:]))),
    ("search.Search._keep", "q * 2 < k", lambda f: lambda *a: None),
    ("search.Search._sticking_out", "(k & q) != (k % 4)", given(YES)),
    (
        "frame.Axis.of_blocks",
        "q * 2 < k",
        after(lambda axis: type(axis)(axis.first, axis.first, axis.size)),
    ),
    (
        "frame.Axis.coarsen",
        "q * 2 < k",
        after(lambda axis: type(axis)(axis.first, axis.first, axis.size, axis.finer, axis.factor)),
    ),
    ("frame.Axis.owner", UNORDERED, after(lambda at: at[::-1])),
    ("frame.Axis.reduce", LOOSELY, before(lambda self, f, values: (self, np.minimum, values))),
    ("frame.Axis.join", LOOSELY, before(lambda self, f, values: (self, np.minimum, values))),
    ("frame._by_groups", LOOSELY, before(lambda f, values, size: (np.minimum, values, size))),
    ("frame.Frame.rows", LOOSELY, after(lambda x: x[..., ::-1, :])),
    ("frame.Frame.cols", LOOSELY, after(lambda x: x[..., ::-1])),
    ("frame.Frame.all", "q - k < 20 * b", after(lambda x: x * 0)),
    ("frame.Frame._pick", LOOSELY, after(lambda x: x[::-1])),
]
MUTATIONS = [*COMPARISONS, *SETS, *SINGLY, *LINES, *FORMS, *PROVER, *STRUCTURE]


@pytest.mark.parametrize("row", MUTATIONS, ids=[f"{place}: {text}" for place, text, _ in MUTATIONS])
def test_a_rule_made_wrong_is_caught(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(row, monkeypatch)


# Where things are kept and how they are passed on.
KEPT = """
facts.Facts._cover facts.Facts._far facts.Facts._places facts.Facts._use facts.Facts.col
facts.Facts.distances facts.Facts.joint facts.Facts.line facts.Facts.of_rows facts.Facts.row
facts.Pairs._value facts._as_query facts._grid forms.Forms.linear forms.Forms.of_distance
forms.Forms.reads
lines.Line.is_known lines.Places.again lines.Places.at lines.Places.everywhere lines.Places.line
lines.three pieces.Pieces._pack pieces.Pieces._unpack pieces.Pieces._width prover.Prover._note
prover.Prover.truth search.Levels.count search.Levels.top search.Search._prove search.Search._shape
search.Search._singly search.Search.run singly._Work._by_segments singly._Work._by_witness
singly._Work._frame singly._Work.run segments.Cut.of frame.Axis.sizes
"""
# What takes evaluated tiles, which random masks are for (`test_tiles_random`).
TAKEN = "pieces.Pieces.add_cells"
# What is asked, and of what: another choice would prove less, or count otherwise.
CHOICES = """
prover.Prover._is_whole prover._is_answered prover._is_comparison search.Search._weights
segments._jumps witness._points
"""
# Rows of tables have tests of their own, in test_tiles_tables.
TABLES = {"rewrites", "values", "bounds", "direction"}


def functions() -> set[str]:
    """The functions, methods and properties of the modules whose rules are above."""
    found = set()
    for name in {covered(place).split(".")[0] for place, _, _ in MUTATIONS} - TABLES:
        module = import_module(f"flexattn.analysis.tiles.{name}")
        inside = [
            x for x in vars(module).values() if getattr(x, "__module__", "") == module.__name__
        ]
        found |= {f"{name}.{x.__name__}" for x in inside if inspect.isfunction(x)}
        for owner in filter(inspect.isclass, inside):
            members = {m: v for m, v in vars(owner).items() if not m.startswith("__")}
            routines = (
                m for m, v in members.items() if inspect.isroutine(v) or isinstance(v, property)
            )
            found |= {f"{name}.{owner.__name__}.{m}" for m in routines}
    return found


def test_every_function_has_a_row_or_proves_nothing() -> None:
    rows = {covered(place) for place, _, _ in MUTATIONS}
    assert functions() - rows == {*KEPT.split(), *CHOICES.split(), TAKEN}
