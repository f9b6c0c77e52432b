"""The suite masks: fresh closures, no mask built twice, memory that is seen, ratios refused."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexattn.__main__ import main
from flexattn.bench import mask_builds, masks, report, suites
from flexattn.bench.mask_cases import CASES, Case, documents
from flexattn.op.create import create_block_mask

pytestmark = pytest.mark.null

SMALL = Case("causal", lambda tokens, turn: lambda b, h, q, k: q + turn >= k, lengths=(512,))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_turn_is_another_closure_with_other_values(case: Case) -> None:
    zero, q, k = torch.tensor(0), torch.arange(0, 4096, 97)[:, None], torch.arange(4096)
    first, second = (case.make(4096, turn) for turn in (1, 2))
    assert first is not second
    kept = [mod(zero, zero, q, k) for mod in (first, second)]
    assert torch.equal(*kept) == (case.name == "causal")


def test_documents_are_sorted_and_as_long_as_they_say() -> None:
    ids = documents(1 << 18, 3, 2)
    assert ids.shape == (2, 1 << 18) and bool((ids.diff(dim=1) >= 0).all())
    for row in ids:
        lengths = row.bincount()
        lengths = lengths[lengths > 0][:-1]  # the last one is cut
        assert int(lengths.min()) >= 64 and int(lengths.max()) <= 8192
    assert not torch.equal(ids[0], ids[1])


def test_a_build_is_made_before_its_clock_and_timed_once() -> None:
    made, built = [], []

    def builds() -> Any:
        for i in count():
            made.append(i)
            yield lambda i=i: built.append(i)

    timing = mask_builds.fresh_timing(builds(), 5)
    assert timing.rounds == 5 and built == made == [0, 1, 2, 3, 4]


def test_the_first_build_finds_nothing_cached(tmp_path: Path, monkeypatch: Any) -> None:
    from flexattn import cache_info

    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(tmp_path))
    seen = []
    create_block_mask(lambda b, h, q, k: q >= k, None, None, 64, 64, device="cpu")
    mask_builds.first_seconds(
        lambda: seen.append((os.environ["FLEXATTN_CACHE_DIR"], cache_info().traces))
    )
    (folder, traces), = seen  # fmt: skip
    assert folder != str(tmp_path) and traces == 0 and not Path(folder).exists()
    assert os.environ["FLEXATTN_CACHE_DIR"] == str(tmp_path)


def test_peaks_are_seen_and_what_was_there_before_is_not_counted() -> None:
    before = np.ones(1 << 20)
    found = mask_builds.traced_peak(lambda: np.ones(1 << 20).sum())
    assert 8 << 20 <= found < 9 << 20
    assert mask_builds.traced_peak(lambda: None) < 10_000
    size = 64 << 20
    resident = mask_builds.resident_peak(lambda: torch.ones(size // 4))
    assert resident is None or 0.9 * size < resident < 1.5 * size
    assert before.all()


def test_pytorchs_builder_is_left_out_where_it_does_not_fit(monkeypatch: Any) -> None:
    assert mask_builds.peer_fits((1, 1, 4096, 4096))
    assert not mask_builds.peer_fits((1, 1, 65536, 65536))
    monkeypatch.setattr(mask_builds, "_available", lambda: 1e6)
    assert not mask_builds.peer_fits((1, 1, 4096, 4096))


def test_stored_bytes_are_those_of_the_runs() -> None:
    long = create_block_mask(lambda b, h, q, k: q >= k, None, None, 8192, 8192, device="cpu")
    found = mask_builds.stored_bytes(long)
    assert found == long._runs.nbytes
    given = type(long).from_kv_blocks(torch.ones(1, 1, 1, dtype=torch.int32),
                                      torch.zeros(1, 1, 1, 1, dtype=torch.int32))  # fmt: skip
    assert mask_builds.stored_bytes(given) == 8


def test_shares_add_up_to_all_tiles() -> None:
    table = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.5

    def wild(b: Any, h: Any, q: Any, k: Any) -> Any:
        return table[(q * 31 + k * 17) % 64]

    for mod in (wild, lambda b, h, q, k: q >= k):
        found = mask_builds.shares(mod, (1, 1, 1024, 1024), (128, 128))
        assert sum(found.values()) == pytest.approx(1.0)
        assert (found["closed form"] == 1.0) == (mod is not wild)


def test_a_ratio_is_refused_where_the_machine_is_too_noisy(monkeypatch: Any) -> None:
    monkeypatch.setattr(mask_builds, "LONGEST", 60.0)
    for noise, expected in ((9.0, None), (0.0, 1.0)):
        timing = masks.fresh_timing(iter([lambda: None] * 3), 3)
        quiet = type(timing)(1e-3, noise, 3)
        monkeypatch.setattr(masks, "fresh_timing", lambda builds, rounds, t=quiet: t)
        assert masks.mask_row(SMALL, 512, 1, True)["over_torch"] == expected
        monkeypatch.undo()


def test_the_suite_from_the_command_line(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(masks, "CASES", (SMALL,))
    monkeypatch.setitem(suites.SUITES, "masks", (masks.masks, masks.steps()))
    chart = tmp_path / "masks.svg"
    assert main(["bench", "masks", "--rounds", "2", "--json", "--plot", str(chart)]) == 0
    row, = json.loads(capsys.readouterr().out)["rows"]  # fmt: skip
    assert row["mask"] == "causal" and row["tokens"] == 512
    assert row["first_ms"] > 0 and row["ours_ms"] > 0 and row["torch_ms"] > 0
    assert row["stored_mb"] < row["peak_mb"] + 1
    assert "<svg" in chart.read_text()
    assert main(["bench", "masks", "--rounds", "2", "--no-peers"]) == 0
    assert "causal" in capsys.readouterr().out


def test_cells_tell_noise_from_what_was_not_measured() -> None:
    assert report._cell("over_torch", None) == "noisy"
    assert report._cell("torch_ms", masks.NOT_MEASURED) == "–"
