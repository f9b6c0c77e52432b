"""Formulas on pages: what is written as code reads as the same mathematics."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

import pytest

from attention_gym.absent import ABSENT
from attention_gym.gallery import load, names

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "site"))
import formula

TAGS = {"sub": "_{", "/sub": "}", "sup": "^{", "/sup": "}"}


def plain(text: str) -> str:
    """The HTML of a formula with subscripts as _{…}, powers as ^{…} and no other tags."""
    written = re.sub(r"<(/?\w+)>", lambda m: TAGS.get(m[1], ""), formula.formula_html(text))
    return written.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


CASES = {
    # Powers take all that is raised, and nothing else.
    "|q - kv|^p[h] + 1": "|q − kv|^{p_{h}} + 1",
    "T / 2^ceil(log2 d)": "T / 2^{⌈log_{2} d⌉}",
    "max(0, s - t)^(1 / (a - 1)), t": "max(0, s − t)^{1 / (a − 1)}, t",
    "(D[q, kv] - m_r)^2 / (2 sigma^2)": "(D_{q, kv} − m_{r})^{2} / (2 σ^{2})",
    "2^-(q + 1)": "2^{−(q + 1)}",
    # A floor holds the whole product before it, as in Python, and no more.
    "a - reach * tokens // frames": "a − ⌊reach · tokens / frames⌋",
    "h // (Hq / Hkv)": "⌊h / (Hq / Hkv)⌋",
    "i // d % e // f": "⌊⌊i / d⌋ mod e / f⌋",
    "floor((q + 1) / floor)": "⌊(q + 1) / floor⌋",
    # Subscripts once; deeper ones keep brackets. Brackets after nothing are brackets.
    "start[document[q]]": "start_{document[q]}",
    "[i >= L - P] + x": "[i ≥ L − P] + x",
    "s'[h] = W[h, g] s[g]": "s′_{h} = W_{h, g} s_{g}",
    "frame_q - r_kv + q_block": "frame_{q} − r_{kv} + q_block",
    "[a, b) and c": "[a, b) and c",
    # Logic is signs between conditions, words between words.
    "keep = not (q < kv and a[q]) or valid[kv]": "keep ⇔ ¬ (q < kv ∧ a_{q}) ∨ valid_{kv}",
    "keep = a & (b | ~c)": "keep ⇔ a ∧ (b ∨ ¬c)",
    "keep = q >= kv, or kv not noisy": "keep ⇔ q ≥ kv, or kv not noisy",
    "keep = q <= 1 and the same for columns": "keep ⇔ q ≤ 1 and the same for columns",
    "keep = q text or kv": "keep ⇔ q text or kv",
    "s' = s + a[h] or s - a[h]": "s′ = s + a_{h} or s − a_{h}",
    # In: of a set, or of a sentence.
    "keep = kv // B in top[b, h]": "keep ⇔ ⌊kv / B⌋ ∈ top_{b, h}",
    "s' = s, D in 72, 80": "s′ = s, D ∈ 72, 80",
    "q - kv in {1, 2, ...}": "q − kv ∈ {1, 2, …}",
    "buckets in powers of two": "buckets in powers of two",
    "near as in natten_2d": "near as in natten_2d",
    # Other signs.
    "factor <x[q], y[kv]>": "factor ⟨x_{q}, y_{kv}⟩",
    "centre of q's window": "centre of q’s window",
    "norm(q) . norm(k) / sqrt(D)": "norm(q) · norm(k) / √(D)",
}


@pytest.mark.null
@pytest.mark.parametrize("text", CASES)
def test_it_reads_as_mathematics(text: str) -> None:
    assert plain(text) == CASES[text]


@pytest.mark.null
def test_its_examples() -> None:
    found = doctest.testmod(formula)
    assert found.attempted and not found.failed


@pytest.mark.null
@pytest.mark.parametrize("name", [*names(), *(row.name for row in ABSENT)])
def test_every_formula_keeps_its_words_and_nests(name: str) -> None:
    absent = {row.name: row.formula for row in ABSENT}
    text = absent[name] if name in absent else load(name).formula
    written, opened = formula.formula_html(text), []
    for tag in re.findall(r"<(/?\w+)>", written):
        if tag.startswith("/"):
            assert opened.pop() == tag[1:]
        else:
            opened.append(tag)
    assert not opened
    bare = re.sub(r"<[^>]+>|&\w+;|[_\W]", "", written)
    replaced = {*formula.SIGNS, *formula.LOGIC, *formula.GREEK, *formula.AROUND, "in", "sqrt"}
    kept = [word for word in re.findall(r"[A-Za-z]+", text) if word not in replaced]
    assert all(word in bare for word in kept)


@pytest.mark.null
@pytest.mark.parametrize("text", ["", "(", "a[", "a ^", "|", ")", "x //", "'", "a[q", "-", "a in"])
def test_what_is_no_formula_is_written_as_far_as_it_goes(text: str) -> None:
    formula.formula_html(text)
