"""Splicing: includes are inlined once, the mods region is replaced, nothing else changes."""

from __future__ import annotations

import pytest

from flexattn import template
from flexattn.lowering.spellings import SPELLINGS

pytestmark = pytest.mark.null


def test_without_mods_the_identities_stay():
    text = template.render("forward.cpp")
    assert "HAS_SCORE_MOD = false" in text
    assert text.count("struct ForwardArgs {") == 1 and text.count("struct Mods {") == 1


def test_mods_replace_the_region_and_only_that():
    text = template.render("forward.cpp", mods="// mine")
    assert "// mine" in text and "HAS_SCORE_MOD = false" not in text
    assert "struct Site {" in text and "flexattn_forward" in text


def test_head_and_defines_come_first():
    text = template.render("args.h", head=["one \\", ""], defines={"FLEX_ISA": 2})
    assert text.startswith("// one\n//\n#define FLEX_ISA 2\n")


def test_every_function_that_lowering_spells_is_provided():
    spelled = {
        name
        for row in SPELLINGS.values()
        for spelling in row.values()
        for name in template._FUNCTION.findall(spelling.scalar + (spelling.vector or ""))
    }
    assert spelled <= template.providers().keys()
