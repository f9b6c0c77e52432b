"""The command that does the main job: ``train``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attention_gym.cli.options import new_command
from attention_gym.cli.report import console, emit
from attention_gym.errors import GymInputError
from attention_gym.picture import draw_curve, draw_density
from attention_gym.plot import THEMES, loss_figure, mask_figure, save
from attention_gym.recipe import Recipe
from attention_gym.training import checkpoint
from attention_gym.training.attention import dense_mask
from attention_gym.training.loop import Settings, Step, Trainer
from attention_gym.training.model import ModelSize
from attention_gym.training.sample import write
from attention_gym.training.speed import Speed, compare, kept_share

EXAMPLES = (
    "train\ntrain --steps 1000 --out out/long\ntrain --steps 2000 --out out/long --resume\n"
    "train --demo --out out/demo"
)
DEMO = {"steps": 300, "batch": 1, "minutes": 1.0}
PRINT_EVERY = 20  # steps between lines where there is no terminal for a progress bar


def add_commands(commands: Any, recipe: Recipe | None) -> None:
    parser = new_command(
        commands, "train", "train a small byte-level transformer on Python's own library",
        train, EXAMPLES,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="folder for all files")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    how.add_argument("--restart", action="store_true", help="start over, replacing the checkpoint")
    how.add_argument("--demo", action="store_true", help="start over, ending within two minutes")
    parser.add_argument("--source", type=Path, help="folder of .py files, the standard library's")
    defaults = Settings()
    for name, help in (
        ("steps", "steps in all"),
        ("minutes", "stop after so many, 0 for never"),
        ("checkpoint-every", "steps between checkpoints"),
        ("seq-len", "bytes in a sequence"),
        ("batch", "sequences in a step"),
        ("cap", "soft cap of the attention scores"),
        ("rate", "highest learning rate"),
        ("seed", "decides weights, data order and the sample"),
        ("max-bytes", "bytes of source text read"),
    ):
        value = getattr(defaults, name.replace("-", "_"))
        shown = f"{help}, {value} if not given"
        parser.add_argument(f"--{name}", type=type(value), metavar="N", help=shown)
    for name in ("dim", "layers", "heads"):
        value = getattr(defaults.model, name)
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"of the model, {value}")
    parser.add_argument(
        "--rounds", type=int, default=3, help="timed steps per attention, 3; 0: none"
    )
    parser.add_argument("--sample", type=int, default=200, help="bytes to write at the end, 200")


def settings(options: argparse.Namespace) -> Settings:
    names = ("steps", "minutes", "checkpoint_every", "seq_len", "batch", "cap", "rate", "seed",
             "max_bytes", "source")  # fmt: skip
    asked = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    size = {n: getattr(options, n) for n in ("dim", "layers", "heads")}
    model = ModelSize(**{n: v for n, v in size.items() if v is not None})
    return Settings(**((DEMO if options.demo else {}) | asked | {"model": model}))


def train(options: argparse.Namespace) -> int:
    exists = (options.out / checkpoint.NAME).exists()
    if exists and not (options.resume or options.restart or options.demo):
        raise GymInputError(
            f"{options.out} already holds a checkpoint.",
            why="a new run would replace it.",
            fix="continue it with --resume, replace it with --restart, or give another --out.",
        )
    trainer = Trainer(settings(options), options.out, resume=options.resume)
    if not options.json:
        announce(trainer)
    steps = follow(trainer, quiet=options.json)
    report = finish(trainer, steps, options)
    if options.json:
        print(json.dumps(report, indent=2))
    return 0


def announce(trainer: Trainer) -> None:
    """What is trained on what, with a picture of the first mask."""
    out, s = console(), trainer.settings
    parameters = sum(p.numel() for p in trainer.model.parameters())
    out.print(
        f"[bold]text[/]   {len(trainer.data.tokens):,} bytes of Python source from {s.source}\n"
        f"[bold]model[/]  {parameters:,} parameters, {s.model.layers} layers, "
        f"{s.model.heads} heads, scores capped at {s.cap:g}\n"
        f"[bold]step[/]   {s.batch} sequences of {s.seq_len} bytes; a byte sees the bytes "
        f"before it in its own document"
    )
    if trainer.done:
        out.print(f"[bold]resumed[/] after step {trainer.done} from {trainer.folder}")
    keep = dense_mask(trainer.data.busiest())[0, 0]
    out.print(f"\n[bold]mask[/] of one sequence, {s.seq_len} × {s.seq_len}, darker = kept more")
    out.print(draw_density(keep))


def follow(trainer: Trainer, *, quiet: bool) -> list[Step]:
    """Train to the end, showing progress."""
    out = console()
    if quiet:
        return list(trainer.run())
    if not out.is_terminal:
        steps = []
        for step in trainer.run():
            steps.append(step)
            if step.number % PRINT_EVERY == 0 or trainer.done == trainer.settings.steps:
                out.print(
                    f"step {step.number + 1:>5} of {trainer.settings.steps}  loss {step.loss:.3f}  "
                    f"{step.tokens_per_second:,.0f} tokens/s"
                )
        return steps
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )  # fmt: skip
    steps = []
    with Progress(*columns, console=out) as progress:
        task = progress.add_task(
            "", total=trainer.settings.steps, completed=trainer.done, loss=float("nan"), speed=0.0
        )
        for step in trainer.run():
            steps.append(step)
            progress.update(task, advance=1, loss=step.loss, speed=step.tokens_per_second)
    return steps


def speed_rows(speeds: list[Speed]) -> list[dict[str, Any]]:
    return [
        {
            "attention": s.contender.name,
            "soft_cap": s.contender.capped,
            "tokens_per_second": round(s.tokens_per_second),
            "loss_of_one_batch": round(s.loss, 5),
        }
        for s in speeds
    ]


def finish(trainer: Trainer, steps: list[Step], options: argparse.Namespace) -> dict[str, Any]:
    """Measure, write a sample, draw and save; print it all unless JSON is wanted."""
    s = trainer.settings
    rows = []
    if options.rounds > 0:
        speeds = compare(
            trainer.model, trainer.data, batch=s.batch, cap=s.cap, rounds=options.rounds
        )
        rows = speed_rows(speeds)
    text = (
        write(trainer.model, cap=s.cap, length=options.sample, seed=s.seed)
        if options.sample
        else ""
    )
    report = {
        "steps": trainer.done,
        "seconds": steps[-1].seconds if steps else 0.0,
        "losses": trainer.losses,
        "held_out_loss": trainer.held_out_loss(),
        "kept_share": kept_share(trainer.data, s.batch),
        "speed": rows,
        "sample": text,
        "files": files(trainer),
    }
    (trainer.folder / "report.json").write_text(json.dumps(report, indent=2))
    if not options.json:
        show(report, trainer)
    return report


def files(trainer: Trainer) -> list[str]:
    """Draw the mask and the loss beside the checkpoint; the names of all files."""
    folder, theme = trainer.folder, THEMES["light"]
    keep = dense_mask(trainer.data.busiest())[0, 0]
    save(mask_figure(keep, "causal within a document, one sequence", theme), folder / "mask.png")
    save(loss_figure(trainer.losses, theme), folder / "loss.png")
    names = (checkpoint.NAME, "report.json", "mask.png", "loss.png")
    return [str(folder / name) for name in names]


def show(report: dict[str, Any], trainer: Trainer) -> None:
    out = console()
    if report["speed"]:
        out.print()
        kept = f"{report['kept_share']:.0%}"
        emit(
            report["speed"],
            as_json=False,
            title=f"one step, forward and backward; the mask keeps {kept} of all pairs",
        )
        out.print(
            "scaled_dot_product_attention has no soft cap, so it is compared on the model without; "
            "equal losses show equal models."
        )
    out.print(
        f"\n[bold]loss[/] over {report['steps']} steps; held out: {report['held_out_loss']:.3f}"
    )
    out.print(draw_curve(report["losses"]))
    if report["sample"]:
        out.print("\n[bold]sample[/]\n")
        out.print(report["sample"], markup=False)
    out.print("\n[bold]files[/] " + "  ".join(report["files"]))
