"""Tokens per second of the same model with each contender, on the same batches, taking turns."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch

from attention_gym.training.attention import CONTENDERS, Contender
from attention_gym.training.data import PackedText
from attention_gym.training.model import ByteTransformer


@dataclass(frozen=True)
class Speed:
    """One measured row.

    Attributes:
        contender: What was measured.
        tokens_per_second: Median over the rounds: mask, forward and backward.
        loss: Of the first batch, to show which contenders compute the same model.
    """

    contender: Contender
    tokens_per_second: float
    loss: float


def compare(
    model: ByteTransformer,
    data: PackedText,
    *,
    batch: int,
    cap: float,
    rounds: int = 3,
    budget: float = 15.0,
) -> list[Speed]:
    """Measure all contenders in turns.

    Args:
        model: Copied, and left as it is.
        data: Where batches come from.
        batch: Sequences in a batch.
        cap: Soft cap of the contenders that have one.
        rounds: Measured rounds, after one that builds kernels and warms caches.
        budget: Seconds; start no further round after then; one is always measured.
    """
    begin = time.perf_counter()
    model = copy.deepcopy(model)
    seconds: dict[Contender, list[float]] = {c: [] for c in CONTENDERS}
    losses: dict[Contender, float] = {}
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - begin > budget:
            break
        sample = data.batch(number, batch)
        for contender in CONTENDERS:
            model.zero_grad(set_to_none=True)
            start = time.perf_counter()
            attend = contender.prepare(sample.document, cap if contender.capped else None)
            loss = model.loss(sample.tokens, sample.targets, attend)
            loss.backward()
            if number:
                seconds[contender].append(time.perf_counter() - start)
            losses.setdefault(contender, loss.item())
    tokens = batch * data.seq_len
    return [Speed(c, tokens / statistics.median(seconds[c]), losses[c]) for c in CONTENDERS]


def kept_share(data: PackedText, batch: int) -> float:
    """Share of (query, key) pairs that the first batch's mask keeps."""
    document = data.batch(0, batch).document
    same = document[:, :, None] == document[:, None, :]
    return float(torch.tril(same).float().mean())
