"""The training loop: deterministic batches, AdamW, checkpoints, and resuming from one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from attention_gym.errors import GymInputError
from attention_gym.training import checkpoint
from attention_gym.training.attention import flex
from attention_gym.training.data import PackedText, standard_library
from attention_gym.training.model import ByteTransformer, ModelSize


@dataclass(frozen=True)
class Settings:
    """What decides a run's numbers, but for ``steps``, ``minutes`` and ``checkpoint_every``.

    Attributes:
        steps: Steps in all, resumed ones included; the learning rate falls towards the last.
        minutes: Stop early after so long, 0 for never.
        checkpoint_every: Steps between checkpoints.
        seq_len: Tokens per sequence.
        batch: Sequences per step.
        cap: Soft cap of the attention scores.
        rate: Highest learning rate.
        seed: Decides weights and data order.
        max_bytes: How much text to read.
        source: Folder of source files.
        model: Size of the model.
    """

    steps: int = 300
    minutes: float = 0.0
    checkpoint_every: int = 50
    seq_len: int = 2048
    batch: int = 2
    cap: float = 30.0
    rate: float = 1.5e-3
    seed: int = 0
    max_bytes: int = 8_000_000
    source: Path = field(default_factory=standard_library)
    model: ModelSize = field(default_factory=ModelSize)

    def __post_init__(self) -> None:
        positive = {
            "steps": self.steps, "checkpoint-every": self.checkpoint_every,
            "seq-len": self.seq_len, "batch": self.batch, "cap": self.cap, "rate": self.rate,
            "max-bytes": self.max_bytes, "dim": self.model.dim, "layers": self.model.layers,
            "heads": self.model.heads,
        }  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise GymInputError(f"--{name} is {value}.", fix=f"give a --{name} above 0.")
        if self.model.dim % (2 * self.model.heads):
            raise GymInputError(
                f"a model of dim {self.model.dim} cannot have {self.model.heads} heads.",
                why="rotary positions need an even, whole number of channels per head.",
                fix="give a --dim that is a multiple of twice --heads.",
            )

    def identity(self) -> dict[str, object]:
        """What must be the same for a checkpoint to be continued."""
        config = asdict(self) | {"source": str(self.source)}
        for name in ("steps", "minutes", "checkpoint_every"):
            del config[name]
        return config


@dataclass(frozen=True)
class Step:
    """What one step gave.

    Attributes:
        number: From 0.
        loss: Mean cross entropy per byte, natural log.
        seconds: Since the run (or its continuation) began.
        tokens_per_second: Of this step, the making of its mask included.
    """

    number: int
    loss: float
    seconds: float
    tokens_per_second: float


class Trainer:
    """A model with its data and optimizer.

    Args:
        settings: All numbers of the run.
        folder: Where the checkpoint lies.
        resume: Continue from the checkpoint in ``folder`` when there is one.
    """

    def __init__(self, settings: Settings, folder: Path, *, resume: bool) -> None:
        self.settings, self.folder = settings, folder
        self.data = self._text(held_out=False)
        torch.manual_seed(settings.seed)
        self.model = ByteTransformer(settings.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        self.losses: list[float] = []
        if resume and (folder / checkpoint.NAME).exists():
            state = checkpoint.load(folder, settings.identity())
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses = list(state["losses"])

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return len(self.losses)

    def run(self) -> Iterator[Step]:
        """Train to the last step, yielding after each; a checkpoint is written on the way."""
        settings, begin = self.settings, time.perf_counter()
        saved = self.done
        while self.done < settings.steps:
            start = time.perf_counter()
            number = self.done
            loss = self._step(number)
            self.losses.append(loss)
            now = time.perf_counter()
            if self.done % settings.checkpoint_every == 0:
                self.save()
                saved = self.done
            yield Step(number, loss, now - begin, settings.batch * settings.seq_len / (now - start))
            if settings.minutes and now - begin > settings.minutes * 60:
                break
        if saved < self.done:
            self.save()

    def save(self) -> None:
        state = {
            "config": self.settings.identity(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }
        checkpoint.save(self.folder, state)

    @torch.no_grad()
    def held_out_loss(self, sequences: int = 16) -> float:
        """Mean loss over sequences of documents that were never trained on."""
        data, total = self._text(held_out=True), 0.0
        sequences = min(sequences, data.sequences)
        for number in range(sequences):
            batch = data.batch(number, 1)
            attend = flex(batch.document, self.settings.cap)
            total += self.model.loss(batch.tokens, batch.targets, attend).item()
        return total / sequences

    def _text(self, *, held_out: bool) -> PackedText:
        s = self.settings
        return PackedText(
            s.source, s.seq_len, seed=s.seed, max_bytes=s.max_bytes, held_out=held_out
        )

    def _step(self, number: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(number)
        batch = self.data.batch(number, self.settings.batch)
        attend = flex(batch.document, self.settings.cap)
        loss = self.model.loss(batch.tokens, batch.targets, attend)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def _rate(self, number: int) -> float:
        """Rises over 20 steps, then falls in a line to a tenth."""
        rise = min(1.0, (number + 1) / 20)
        fall = 1.0 - 0.9 * number / self.settings.steps
        return self.settings.rate * rise * fall
