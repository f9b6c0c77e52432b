"""What one attention call costs: floating-point operations and bytes, block-sparse and dense.

Counted as in the literature: two operations per multiply-add, matrix products only (the mods
and the softmax are left out), every tensor moved to or from memory once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One call.

    Attributes:
        B: Batches.
        Hq: Query heads.
        Hkv: Key heads.
        M: Queries.
        N: Keys.
        D: Head dimension of query and key.
        Dv: Head dimension of value.
        itemsize: Bytes per element of query, key, value and output.
    """

    B: int
    Hq: int
    Hkv: int
    M: int
    N: int
    D: int
    Dv: int
    itemsize: int = 4

    @property
    def pairs(self) -> int:
        """(query, key) pairs over all heads, as if nothing were masked."""
        return self.B * self.Hq * self.M * self.N

    @property
    def tensor_bytes(self) -> int:
        """query, key, value and output, each once."""
        queries = self.B * self.Hq * self.M * (self.D + self.Dv)
        keys = self.B * self.Hkv * self.N * (self.D + self.Dv)
        return self.itemsize * (queries + keys)

    @property
    def row_bytes(self) -> int:
        """One float32 per query: the lse."""
        return 4 * self.B * self.Hq * self.M


@dataclass(frozen=True)
class Cost:
    """Operations and memory traffic."""

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Operations per byte: the x axis of a roofline."""
        return self.flops / self.bytes if self.bytes else 0.0

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The roofline's least time on a machine with these peaks."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def forward_cost(shape: Shape, pairs: int | None = None) -> Cost:
    """The fused forward over ``pairs`` computed (query, key) pairs; None is all.

    A partial block counts in full: all its pairs are computed.
    """
    pairs = shape.pairs if pairs is None else pairs
    return Cost(2 * pairs * (shape.D + shape.Dv), shape.tensor_bytes + shape.row_bytes)


def backward_cost(shape: Shape, pairs: int | None = None) -> Cost:
    """The fused backward: S again, dP, dQ, dK and dV.

    Reads query, key, value, output and its gradient and writes the gradients of the first three.
    """
    pairs = shape.pairs if pairs is None else pairs
    flops = 2 * pairs * (3 * shape.D + 2 * shape.Dv)
    return Cost(flops, 2 * shape.tensor_bytes + shape.row_bytes)


def unfused_cost(shape: Shape, *, backward: bool = False) -> Cost:
    """The same with the scores in memory: each matrix M x N is written once and read once.

    Forward: the scores and the probabilities. Backward: the probabilities are read twice, and
    the gradients of both matrices are written and read.
    """
    fused = backward_cost(shape) if backward else forward_cost(shape)
    passes = 6 if backward else 4
    flops = fused.flops - (2 * shape.pairs * shape.D if backward else 0)
    return Cost(flops, fused.bytes - shape.row_bytes + passes * shape.itemsize * shape.pairs)


def computed_pairs(blocks: int, block_size: tuple[int, int], shape: Shape, batch_heads: int) -> int:
    """Pairs computed by ``blocks`` listed blocks of a mask of ``batch_heads`` (batch, head) pairs.

    A mask with fewer heads than the call is broadcast. Blocks that hang over the end count in
    full, so the result is at most that of the dense call.
    """
    per_mask = blocks * block_size[0] * block_size[1]
    return min(per_mask * (shape.B * shape.Hq // max(batch_heads, 1)), shape.pairs)
