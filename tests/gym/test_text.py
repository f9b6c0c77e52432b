"""The packed text: borders, targets, order, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attention_gym.errors import GymInputError
from attention_gym.training.data import START, PackedText, documents, source_files

pytestmark = pytest.mark.null


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_skipped.py").write_text("never = 1\n")
    for number in range(30):
        body = (
            f"import os\nx = {number}\ndef f{number}():\n    return {number}\nclass C:\n    y = 1\n"
        )
        (tmp_path / f"file{number:02}.py").write_text(body)
    return tmp_path


def text(folder: Path, seq_len: int = 16, *, seed: int = 0, held_out: bool = False) -> PackedText:
    return PackedText(folder, seq_len, seed=seed, max_bytes=10**6, held_out=held_out)


def test_documents_are_top_level_definitions(folder: Path) -> None:
    found = list(documents(folder, seed=0, max_bytes=10**6))
    assert len(found) == 90
    assert b"def f7():\n    return 7" in found
    assert not any(b"never" in d for d in found)


def test_every_byte_of_a_document_has_its_number_and_start(folder: Path) -> None:
    data = text(folder)
    starts = (data.tokens == START).nonzero().flatten()
    assert torch.equal(data.document[starts], torch.arange(len(starts)))
    assert torch.equal(data.document.diff().nonzero().flatten() + 1, starts[1:])
    first = data.tokens[starts[0] + 1 : starts[1]].tolist()
    kept = [d for n, d in enumerate(documents(folder, seed=0, max_bytes=10**6)) if n % 20]
    assert bytes(first) == kept[0]


def test_targets_are_the_next_tokens(folder: Path) -> None:
    batch = text(folder).batch(3, 4)
    assert batch.tokens.shape == batch.targets.shape == batch.document.shape == (4, 16)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_the_order_depends_on_the_seed_alone(folder: Path) -> None:
    a, b, c = text(folder), text(folder), text(folder, seed=1)
    b.batch(5, 2)
    assert torch.equal(a.batch(2, 2).tokens, b.batch(2, 2).tokens)
    assert not torch.equal(a.batch(2, 2).tokens, c.batch(2, 2).tokens)


def test_an_epoch_shows_every_sequence_once(folder: Path) -> None:
    data = text(folder)
    for epoch in range(2):
        first = epoch * data.sequences
        numbers = [data._sequence(first + i) for i in range(data.sequences)]
        assert sorted(numbers) == list(range(data.sequences))


def test_held_out_documents_are_not_trained_on(folder: Path) -> None:
    everything = list(documents(folder, seed=0, max_bytes=10**6))
    trained, held = text(folder), text(folder, held_out=True)
    assert len(trained.tokens) + len(held.tokens) == sum(len(d) + 1 for d in everything)
    assert int(held.document[-1]) + 1 == len(everything[::20])


def test_the_busiest_sequence(folder: Path) -> None:
    data = text(folder, seq_len=40)
    counts = [len(data.batch(0, 16).document[i].unique()) for i in range(16)]
    assert len(data.busiest(16).unique()) == max(counts) > min(counts)


def test_no_source_files(tmp_path: Path) -> None:
    with pytest.raises(GymInputError, match="--source"):
        source_files(tmp_path)


def test_text_shorter_than_a_sequence(folder: Path) -> None:
    with pytest.raises(GymInputError, match="--seq-len"):
        text(folder, seq_len=10**6)
