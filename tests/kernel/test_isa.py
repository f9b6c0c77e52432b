"""No kernel is ever built for instructions that the CPU lacks."""

from __future__ import annotations

import pytest

from flexattn.errors import ArgumentError
from flexattn.kernel import isa
from flexattn.kernel.isa import ISAS, detect, host

pytestmark = pytest.mark.null

AVX2 = frozenset(["sse2", "avx2", "fma", "f16c"])
AVX512 = AVX2 | frozenset(["avx512f", "avx512bw", "avx512dq", "avx512vl"])
AMX = AVX512 | frozenset(["avx512_bf16", "amx_tile", "amx_bf16"])


@pytest.mark.parametrize(
    ("machine", "flags", "level"),
    [
        ("x86_64", frozenset(), "portable"),
        ("x86_64", frozenset({"avx2"}), "portable"),  # no FMA
        ("x86_64", AVX2, "avx2"),
        ("x86_64", AVX2 | {"avx512f"}, "avx2"),  # the first AVX512 machines lack the rest
        ("AMD64", AVX512, "avx512"),
        ("x86_64", AVX512 | {"avx512_bf16"}, "avx512bf16"),
        ("x86_64", AVX2 | {"avx512_bf16"}, "avx2"),
        ("x86_64", AMX, "amx"),
        ("x86_64", AMX - {"amx_tile"}, "avx512bf16"),
        ("aarch64", AVX512, "portable"),
    ],
)
def test_the_best_level_that_the_flags_allow(machine, flags, level):
    assert detect(machine, flags).name == level


def test_a_level_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("FLEXATTN_ISA", "portable")
    assert host() is ISAS["portable"]


@pytest.mark.parametrize(
    ("flags", "permitted", "level", "with_pairs"),
    [
        (AVX512 | {"avx512_bf16"}, False, "avx512bf16", "avx512bf16"),
        (AMX, True, "amx", "amx"),
        (AMX, False, "avx512", "avx512bf16"),  # pairs are slow where tiles should be used
    ],
)
def test_tiles_need_permission(monkeypatch, flags, permitted, level, with_pairs):
    monkeypatch.delenv("FLEXATTN_ISA", raising=False)
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(isa, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(isa, "_tiles_permitted", lambda: permitted)
    assert host().name == level and host(pairs=True).name == with_pairs
    monkeypatch.setenv("FLEXATTN_ISA", "avx512bf16")
    assert host().name == "avx512bf16"
    monkeypatch.setenv("FLEXATTN_ISA", "amx")
    if not permitted:
        with pytest.raises(ArgumentError, match="avx512"):
            host()


def test_a_level_that_the_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(isa, "_cpu_flags", lambda: AVX2)
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("FLEXATTN_ISA", "avx512")
    with pytest.raises(ArgumentError, match="illegal instruction"):
        host()


def test_an_unknown_level_is_refused(monkeypatch):
    monkeypatch.setenv("FLEXATTN_ISA", "sse9")
    with pytest.raises(ArgumentError, match="portable"):
        host()


def test_compiler_options_name_exactly_what_is_checked():
    for level in ISAS.values():
        switched_on = {
            flag.removeprefix("-m").replace("avx512bf16", "avx512_bf16").replace("amx-", "amx_")
            for flag in level.flags
        }
        assert switched_on == level.cpu_flags
