"""The argument lists of `kernel/spec.py` against the structs of `args.h`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import codegen_templates
from flexattn.kernel.config import KEYS, QUERIES, tile
from flexattn.kernel.isa import ISAS
from flexattn.kernel.spec import DOUBLES, MODS, SPECS

pytestmark = pytest.mark.null

ARGS_H = (Path(codegen_templates.__file__).parent / "cpp" / "args.h").read_text()


def struct_fields(name: str) -> list[tuple[str, str]]:
    """(type, name) of every field of a struct, nested structs flattened."""
    body = re.search(rf"struct {name} {{(.*?)\n}};", ARGS_H, re.S).group(1)
    fields: list[tuple[str, str]] = []
    for declaration in re.sub(r"//[^\n]*", "", body).split(";"):
        words = declaration.replace("*", " * ").replace(",", " , ").split()
        if not words:
            continue
        names = [word for word, after in zip(words, [*words[1:], ","]) if after == ","]
        first = words.index(names[0])
        kind = " ".join(words[:first])
        if kind in ("BlockTables", "Mods"):
            fields += struct_fields(kind)
        else:
            fields += [(kind, field) for field in names]
    return fields


def test_tiles_are_those_of_the_templates():
    text = (Path(codegen_templates.__file__).parent / "cpp" / "simd.h").read_text()
    with_amx, without = re.search(r"constexpr int BM = FLEX_TILES \? (\d+) : (\d+);", text).groups()
    keys = int(re.search(r"constexpr int BN = (\d+);", text)[1])
    assert tile("bf16", ISAS["amx"]) == (int(with_amx), keys)
    assert tile("f32", ISAS["amx"]) == tile("bf16", ISAS["avx512bf16"]) == (int(without), keys)
    assert (int(without), keys) == (QUERIES, KEYS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_fields_are_those_of_the_struct(spec):
    assert [field for _, field in struct_fields(spec.arguments)] == [*spec.fields, *MODS]


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_every_field_has_eight_bytes_and_doubles_are_marked(spec):
    for kind, field in struct_fields(spec.arguments):
        assert kind in ("i64", "double") or "*" in kind, (kind, field)
        assert (kind == "double") == (field in DOUBLES), field
