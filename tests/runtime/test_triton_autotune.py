"""Tiles are measured when that is asked for, once per GPU and kernel, and kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexattn.kernel.targets import target
from flexattn.kernel.triton_tiles import Tile, candidates, choose_tile
from flexattn.runtime import counters
from flexattn.runtime.triton_autotune import FILE, tuned_tile

CASE = ("forward", target("sm_90"), "bf16", 128, 128)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_AUTOTUNE", "1")


def never(tile: Tile) -> float:
    raise AssertionError("measured")


def test_nothing_is_measured_unasked(cache_dir: Path) -> None:
    assert tuned_tile(*CASE, device="H200", measure=never) == choose_tile(*CASE)
    assert tuned_tile(*CASE) == choose_tile(*CASE)
    assert not (cache_dir / FILE).exists()


def test_the_fastest_is_kept(cache_dir: Path, asked: None) -> None:
    wanted = candidates(*CASE)[-1]
    seen: list[Tile] = []

    def measure(tile: Tile) -> float:
        seen.append(tile)
        if len(seen) == 2:
            raise RuntimeError("out of resource: shared memory")
        return 1.0 if tile == wanted else 2.0

    assert tuned_tile(*CASE, device="H200", measure=measure) == wanted != choose_tile(*CASE)
    assert tuple(seen) == candidates(*CASE)
    assert tuned_tile(*CASE, device="H200", measure=never) == wanted
    counters.clear_cache()
    assert tuned_tile(*CASE, device="H200", measure=never) == wanted
    with pytest.raises(AssertionError, match="measured"):
        tuned_tile(*CASE, device="another GPU", measure=never)
    with pytest.raises(AssertionError, match="measured"):
        tuned_tile(*CASE, device="H200", block=(128, 128), measure=never)


def test_a_damaged_file_is_no_file(cache_dir: Path, asked: None) -> None:
    cache_dir.mkdir()
    for text in ("{", "[]", '{"a": 1}', '{"a": [1, 2]}'):
        (cache_dir / FILE).write_text(text)
        counters.clear_cache()
        tuned_tile(*CASE, device="H200", measure=lambda tile: float(tile.bn))
        assert "H200: forward bf16 128,128 plain" in (cache_dir / FILE).read_text()
