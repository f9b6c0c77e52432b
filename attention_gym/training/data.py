"""Pack Python source files into sequences of bytes with a document number for every byte."""

from __future__ import annotations

import os
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attention_gym.errors import GymInputError

START = 256  # stands before every document; the other tokens are bytes
VOCABULARY = 257
HELD_OUT = 20  # one document in so many is never trained on
SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"})
# A document is a top-level class or function, or a run of other statements.
CUT = re.compile(rb"\n(?=(?:def|class|async def|@))")


@dataclass(frozen=True)
class Batch:
    """Tokens of B sequences.

    Attributes:
        tokens: [B, S] int64: a byte, or `START`.
        targets: [B, S] int64: the token after each.
        document: [B, S] int64: number of the document each token belongs to.
    """

    tokens: Tensor
    targets: Tensor
    document: Tensor


def standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def source_files(root: Path) -> list[Path]:
    """The ``.py`` files under ``root``, without tests and installed packages, in a fixed order.

    Raises:
        GymInputError: There are none.
    """
    files = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - SKIPPED)
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    if not files:
        raise GymInputError(
            f"no Python source files under {root}.",
            why="training reads real text: the standard library, unless told otherwise.",
            fix="give a folder that holds .py files with --source.",
        )
    return files


def documents(root: Path, *, seed: int, max_bytes: int) -> Iterator[bytes]:
    """Documents in an order that depends on the seed alone, until ``max_bytes`` are given out."""
    files = source_files(root)
    random.Random(seed).shuffle(files)
    given = 0
    for path in files:
        for document in CUT.split(path.read_bytes()):
            if document.strip():
                given += len(document)
                yield document
        if given >= max_bytes:
            return


class PackedText:
    """Documents end to end as one stream, cut into sequences without regard to their borders.

    Args:
        root: Folder of source files.
        seq_len: Tokens per sequence.
        seed: Decides the order of files and, anew for each epoch, of sequences.
        max_bytes: How much to read.
        held_out: Keep only the held-out documents, or only the others.
    """

    def __init__(
        self, root: Path, seq_len: int, *, seed: int, max_bytes: int, held_out: bool = False
    ) -> None:
        chosen = [
            document
            for number, document in enumerate(documents(root, seed=seed, max_bytes=max_bytes))
            if (number % HELD_OUT == 0) == held_out
        ]
        lengths = torch.tensor([len(d) + 1 for d in chosen])
        starts = lengths.cumsum(0) - lengths
        joined = bytearray(b"".join(b"\0" + d for d in chosen))
        self.tokens = torch.frombuffer(joined, dtype=torch.uint8).to(torch.int16)
        self.tokens[starts] = START
        self.document = torch.repeat_interleave(torch.arange(len(chosen)), lengths)
        self.seq_len, self.seed = seq_len, seed
        self.sequences = (len(self.tokens) - 1) // seq_len
        if self.sequences < 1:
            raise GymInputError(
                f"the text under {root} is shorter than one sequence of {seq_len} bytes.",
                fix="give a smaller --seq-len or a folder with more files.",
            )

    def batch(self, step: int, size: int) -> Batch:
        """The batch of one step: the same for the same seed, whenever it is asked for."""
        numbers = [self._sequence(step * size + i) for i in range(size)]
        start = torch.tensor(numbers)[:, None] * self.seq_len
        index = start + torch.arange(self.seq_len)
        return Batch(self.tokens[index].long(), self.tokens[index + 1].long(), self.document[index])

    def busiest(self, among: int = 64) -> Tensor:
        """Document numbers [1, S] of the sequence with most documents among the first ones."""
        document = self.batch(0, min(among, self.sequences)).document
        borders = document.diff(dim=1).ne(0).sum(1)
        return document[borders.argmax()][None]

    def _sequence(self, number: int) -> int:
        epoch, place = divmod(number, self.sequences)
        order = torch.Generator().manual_seed(self.seed * 7919 + epoch)
        return int(torch.randperm(self.sequences, generator=order)[place])
