"""The training job: it learns, compares honestly, and a kill costs nothing but time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_gym.cli.app import main
from attention_gym.training import checkpoint
from attention_gym.training.attention import CONTENDERS
from attention_gym.training.data import PackedText
from attention_gym.training.loop import Settings, Trainer
from attention_gym.training.model import ByteTransformer, ModelSize
from attention_gym.training.sample import write
from attention_gym.training.speed import compare

SMALL = (
    "--seq-len 128 --batch 2 --dim 32 --layers 2 --heads 2 --max-bytes 60000 --rounds 0 --sample 0"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of a few kinds of lines: quickly learned, and the same on every machine."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(60):
        lines = [f"def f{i}(x):\n    return x + {i * number % 7}\n" for i in range(20)]
        (folder / f"m{number:02}.py").write_text("\n".join(lines))
    return folder


def settings(source: Path, **changes: Any) -> Settings:
    fixed: dict[str, Any] = {
        "source": source, "seq_len": 128, "batch": 2, "max_bytes": 60_000, "rate": 1e-2,
        "model": ModelSize(dim=32, layers=2, heads=2),
    }  # fmt: skip
    return Settings(**(fixed | changes))


def test_it_learns_and_repeats(source: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        trainer = Trainer(settings(source, steps=40), tmp_path / name, resume=False)
        list(trainer.run())
        runs.append(trainer)
    losses = runs[0].losses
    assert losses[0] == pytest.approx(5.55, abs=0.1)  # log(257): nothing known yet
    assert losses[-1] < 2.6
    assert runs[1].losses == losses
    assert runs[0].held_out_loss() < 3.0


def test_contenders_compute_the_same_model(source: Path) -> None:
    torch.manual_seed(0)
    model = ByteTransformer(ModelSize(dim=32, layers=2, heads=2))
    for layer in model.layers:
        layer.qkv.weight.data.mul_(20)  # scores of a trained model's size, so that a cap is felt
    data = PackedText(source, 128, seed=0, max_bytes=60_000)
    batch = data.batch(0, 2)
    assert len(batch.document.unique()) > 4
    found: dict[bool, list[tuple[float, torch.Tensor]]] = {True: [], False: []}
    for contender in CONTENDERS:
        model.zero_grad()
        attend = contender.prepare(batch.document, 2.0 if contender.capped else None)
        loss = model.loss(batch.tokens, batch.targets, attend)
        loss.backward()
        gradient = model.layers[0].qkv.weight.grad
        found[contender.capped].append((loss.item(), gradient.clone()))
    for (loss, gradient), (other, other_gradient) in found.values():
        assert loss == pytest.approx(other, rel=1e-5)
        torch.testing.assert_close(gradient, other_gradient, rtol=1e-4, atol=1e-6)
    assert (found[True][0][1] - found[False][0][1]).abs().max() > 1e-3


def test_the_comparison_ends_in_time(source: Path) -> None:
    torch.manual_seed(0)
    model = ByteTransformer(ModelSize(dim=32, layers=1, heads=2))
    data = PackedText(source, 128, seed=0, max_bytes=60_000)
    rows = compare(model, data, batch=1, cap=30.0, rounds=10**6, budget=0.5)
    assert [row.contender for row in rows] == list(CONTENDERS)
    assert all(row.tokens_per_second > 0 for row in rows)


def test_sdpa_refuses_the_cap_it_cannot_compute(source: Path) -> None:
    sdpa = next(c for c in CONTENDERS if c.name.startswith("scaled"))
    with pytest.raises(ValueError, match="soft cap"):
        sdpa.prepare(torch.zeros(1, 8, dtype=torch.int64), 30.0)


def test_a_sample_repeats(source: Path) -> None:
    torch.manual_seed(0)
    model = ByteTransformer(ModelSize(dim=32, layers=1, heads=2))
    first, second, third = (write(model, cap=30.0, length=12, seed=s) for s in (1, 1, 2))
    assert first == second != third
    assert first.startswith("def ")


def command(source: Path, out: Path, *more: str) -> list[str]:
    line = f"-m attention_gym train {SMALL} --steps 40 --checkpoint-every 5"
    return [sys.executable, *line.split(), "--source", str(source), "--out", str(out), *more]


# Tests run beside one another; a team of threads would mostly wait for cores.
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_as_if_nothing_had_happened(source: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(command(source, whole), check=True, timeout=240, capture_output=True, env=ALONE)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(source, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ALONE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (killed / checkpoint.NAME).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = settings(source, rate=Settings().rate).identity()
    done = len(checkpoint.load(killed, config)["losses"])
    assert 0 < done < 40 and done % 5 == 0
    subprocess.run(
        command(source, killed, "--resume"),
        check=True,
        timeout=240,
        capture_output=True,
        env=ALONE,
    )
    states = [checkpoint.load(folder, config) for folder in (whole, killed)]
    assert states[0]["losses"] == states[1]["losses"] and len(states[0]["losses"]) == 40
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name


@pytest.fixture(scope="module")
def report(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run through the command line, with everything it prints."""
    out = tmp_path_factory.mktemp("train") / "out"
    line = command(source, out)
    line[line.index("--rounds") + 1] = "1"
    line[line.index("--sample") + 1] = "20"
    line[line.index("--steps") + 1] = "25"
    done = subprocess.run(line, check=True, timeout=240, capture_output=True, text=True, env=ALONE)
    return out, done.stdout


def test_what_a_run_prints(report: tuple[Path, str]) -> None:
    _, printed = report
    for words in (
        "mask of one sequence", "█", "loss", "tokens/s", "step    25 of 25",
        "scaled_dot_product_attention has no soft cap", "sample", "def ", "held out", "▁",
    ):  # fmt: skip
        assert words in printed, words


def test_what_a_run_leaves(report: tuple[Path, str]) -> None:
    out, _ = report
    data = json.loads((out / "report.json").read_text())
    assert data["steps"] == len(data["losses"]) == 25
    assert data["losses"][-1] < data["losses"][0]
    assert [(row["soft_cap"], row["tokens_per_second"] > 0) for row in data["speed"]] == [
        (True, True), (True, True), (False, True), (False, True)
    ]  # fmt: skip
    for name in ("mask.png", "loss.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert all(Path(name).exists() for name in data["files"])


def test_a_checkpoint_is_not_replaced_unasked(
    report: tuple[Path, str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = report
    before = (out / checkpoint.NAME).read_bytes()
    assert main(command(source, out)[3:]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command(source, out)[3:], "--resume", "--seed", "5"]) == 1
    assert "seed 0, now 5" in capsys.readouterr().err
    assert (out / checkpoint.NAME).read_bytes() == before


def test_json_of_a_finished_run(
    report: tuple[Path, str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = report
    line = command(source, out, "--resume", "--json")[3:]
    line[line.index("--steps") + 1] = "26"
    assert main(line) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["steps"] == 26 and data["speed"] == [] and data["sample"] == ""
