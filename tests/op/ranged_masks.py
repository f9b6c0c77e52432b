"""Masks with their ranges, and the block lists that stand for them by the definition of ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node
from flexattn.ir.program import Ranges

FAR = 1 << 40
Ends = Callable[[int, int, int], list[tuple[int, int]]]

Q, KV, H = Input("q_idx", I64), Input("kv_idx", I64), Input("h", I64)


@dataclass(frozen=True)
class Ranged:
    """A mask three times: as a user's function, as ranges in nodes, and as ranges in Python.

    Attributes:
        mask: mask_mod.
        ranges: What is under test.
        rows: (b, h, q_idx) → low and high of each piece.
        cols: (b, h, kv_idx) → likewise.
        ints: Numbers that the nodes read.
        captures: Tensors that the nodes read.
    """

    mask: Callable[..., Tensor]
    ranges: Ranges
    rows: Ends
    cols: Ends
    ints: list[int] = field(default_factory=list)
    captures: list[Tensor] = field(default_factory=list)


# Nodes ------------------------------------------------------------------------------------------


def node(x: Node | int) -> Node:
    return Const(x, I64) if isinstance(x, int) else x


def op(name: str, *args: Node | int, dtype: str = I64) -> Node:
    return Apply(name, [node(arg) for arg in args], dtype)


def add(a: Node | int, b: Node | int) -> Node:
    return op("add", a, b)


def sub(a: Node | int, b: Node | int) -> Node:
    return op("sub", a, b)


def number(i: int) -> Node:
    return Input(f"n{i}", I64)


def pieces(*ends: tuple[Node | int, Node | int]) -> tuple[tuple[Node, Node], ...]:
    return tuple((node(low), node(high)) for low, high in ends)


# Masks ------------------------------------------------------------------------------------------


def causal(M: int, N: int) -> Ranged:
    return Ranged(
        lambda b, h, q, kv: q >= kv,
        Ranges(pieces((0, add(Q, 1))), pieces((KV, FAR))),
        lambda b, h, q: [(0, q + 1)],
        lambda b, h, kv: [(kv, FAR)],
    )


def aligned_at_the_end(M: int, N: int) -> Ranged:
    shift = N - M
    return Ranged(
        lambda b, h, q, kv: kv <= q + shift,
        Ranges(pieces((0, add(add(Q, number(0)), 1))), pieces((sub(KV, number(0)), FAR))),
        lambda b, h, q: [(0, q + shift + 1)],
        lambda b, h, kv: [(kv - shift, FAR)],
        [shift],
    )


def window(M: int, N: int, W: int = 37) -> Ranged:
    return Ranged(
        lambda b, h, q, kv: (q >= kv) & (q - kv < W),
        Ranges(pieces((add(sub(Q, number(0)), 1), add(Q, 1))), pieces((KV, add(KV, number(0))))),
        lambda b, h, q: [(q - W + 1, q + 1)],
        lambda b, h, kv: [(kv, kv + W)],
        [W],
    )


def window_by_head(M: int, N: int) -> Ranged:
    widths = torch.tensor([3, 20, 64, 150])
    width = Load(0, (H,), I64)
    return Ranged(
        lambda b, h, q, kv: (q >= kv) & (q - kv < widths[h]),
        Ranges(pieces((add(sub(Q, width), 1), add(Q, 1))), pieces((KV, add(KV, width)))),
        lambda b, h, q: [(q - int(widths[h]) + 1, q + 1)],
        lambda b, h, kv: [(kv, kv + int(widths[h]))],
        [],
        [widths],
    )


def prefix(M: int, N: int, P: int = 45) -> Ranged:
    inside = op("lt", KV, number(0), dtype=BOOL)
    return Ranged(
        lambda b, h, q, kv: (q >= kv) | (kv < P),
        Ranges(pieces((0, number(0)), (0, add(Q, 1))), pieces((op("where", inside, 0, KV), FAR))),
        lambda b, h, q: [(0, P), (0, q + 1)],
        lambda b, h, kv: [(0 if kv < P else kv, FAR)],
        [P],
    )


def sink_and_window(M: int, N: int, S: int = 6, W: int = 40) -> Ranged:
    sink = op("lt", KV, number(0), dtype=BOOL)
    return Ranged(
        lambda b, h, q, kv: (q >= kv) & ((kv < S) | (q - kv < W)),
        Ranges(
            pieces(
                (0, op("minimum", number(0), add(Q, 1))),
                (add(sub(Q, number(1)), 1), add(Q, 1)),
            ),
            pieces((op("where", sink, KV, FAR), FAR), (KV, add(KV, number(1)))),
        ),
        lambda b, h, q: [(0, min(S, q + 1)), (q - W + 1, q + 1)],
        lambda b, h, kv: [(kv if kv < S else FAR, FAR), (kv, kv + W)],
        [S, W],
    )


def chunked(M: int, N: int, C: int = 50) -> Ranged:
    def start(index: Node) -> Node:
        return op("mul", op("floordiv", index, number(0)), number(0))

    return Ranged(
        lambda b, h, q, kv: (q >= kv) & (q // C == kv // C),
        Ranges(pieces((start(Q), add(Q, 1))), pieces((KV, add(start(KV), number(0))))),
        lambda b, h, q: [(q // C * C, q + 1)],
        lambda b, h, kv: [(kv, kv // C * C + C)],
        [C],
    )


def documents(M: int, N: int, count: int = 5) -> Ranged:
    """Causal in documents, found through the table of their starts; ids begin at 7."""
    length = max(M, N)
    cuts = np.sort(np.random.default_rng(length).choice(length, count, replace=False))
    ids = torch.from_numpy(np.searchsorted(cuts, np.arange(length), side="right")) + 7
    starts = torch.tensor([int((ids < value).sum()) for value in range(7, 7 + count + 2)])
    begin = starts.to(torch.int32)

    def place(index: Node, step: int) -> Node:
        own = Load(0, (index,), I64)
        return Load(1, (sub(add(own, step), number(0)),), I64)

    return Ranged(
        lambda b, h, q, kv: (q >= kv) & (ids[q] == ids[kv]),
        Ranges(pieces((place(Q, 0), add(Q, 1))), pieces((KV, place(KV, 1)))),
        lambda b, h, q: [(int(starts[ids[q] - 7]), q + 1)],
        lambda b, h, kv: [(kv, int(starts[ids[kv] - 6]))],
        [7],
        [ids, begin],
    )


def far_ahead(M: int, N: int) -> Ranged:
    """Most rows keep nothing, for want of keys."""
    shift = N - 20
    return Ranged(
        lambda b, h, q, kv: (kv >= q + shift) & (kv < q + shift + 30),
        Ranges(
            pieces((add(Q, number(0)), add(add(Q, number(0)), 30))),
            pieces((add(sub(KV, number(0)), -29), add(sub(KV, number(0)), 1))),
        ),
        lambda b, h, q: [(q + shift, q + shift + 30)],
        lambda b, h, kv: [(kv - shift - 29, kv - shift + 1)],
        [shift],
    )


MASKS: dict[str, Callable[[int, int], Ranged]] = {
    make.__name__: make
    for make in (
        *(causal, aligned_at_the_end, window, window_by_head, prefix, sink_and_window),
        *(chunked, documents, far_ahead),
    )
}


# Any ranges at all --------------------------------------------------------------------------------


def of_tables(count: int) -> Ranges:
    """``count`` pieces whose ends are captured tables int32 [batch, head, index, piece, 2].

    Captures 0 (by q_idx) and 1 (by kv_idx).
    """
    b = Input("b", I64)

    def ends(capture: int, index: Node) -> tuple[tuple[Node, Node], ...]:
        return tuple(
            (
                Load(capture, (b, H, index, node(piece), node(0)), I64),
                Load(capture, (b, H, index, node(piece), node(1)), I64),
            )
            for piece in range(count)
        )

    return Ranges(ends(0, Q), ends(1, KV))


def random_table(
    rng: np.random.Generator, heads: tuple[int, int], given: int, solved: int, count: int
) -> Tensor:
    """A table for ``of_tables``: steps of all heights, ends far outside, pieces that are empty."""
    steps = rng.integers(0, 5, (*heads, given, count, 2)) * rng.integers(
        0, 1 + 3 * solved // given, (*heads, 1, count, 2)
    )
    steps[rng.random(steps.shape) < 0.9] *= rng.integers(0, 2)
    begin = rng.integers(-solved // 2, solved + 20, (*heads, 1, count, 2))
    ends = np.sort(begin, -1) + np.cumsum(steps, 2)
    return torch.from_numpy(ends.astype(np.int32))


def ends_of(table: Tensor) -> Ends:
    """What ``of_tables`` says of it."""
    found = table.numpy()
    return lambda b, h, index: [(int(low), int(high)) for low, high in found[b, h, index]]


# Their blocks -------------------------------------------------------------------------------------


def classes_of(
    ends: Ends, heads: tuple[int, int], lengths: tuple[int, int], block: tuple[int, int]
) -> Tensor:
    """0 empty, 1 partial, 2 full: uint8 [B, H, rows, cols], block by block as `Ranges` says.

    ``lengths`` and ``block`` are of the given index, then of the one the ranges are of.
    """
    (given, solved), (rows, cols) = lengths, block
    found = torch.zeros((*heads, -(-given // rows), -(-solved // cols)), dtype=torch.uint8)
    for b, h, r in np.ndindex(*heads, found.shape[2]):
        first, last = r * rows, min(r * rows + rows, given) - 1
        pairs = list(zip(ends(b, h, first), ends(b, h, last)))
        for c in range(found.shape[3]):
            begin, end = c * cols, c * cols + cols
            inside = first + rows <= given and end <= solved
            # The piece reaches into the block for the query that reaches furthest; it holds the
            # block for the one that holds least.
            met = [(max(a[0], begin), min(z[1], end, solved)) for a, z in pairs]
            visited = any(low < high for low, high in met)
            whole = any(z[0] <= begin and end <= a[1] for a, z in pairs)
            if visited or (whole and inside):
                found[b, h, r, c] = 2 if whole and inside else 1
    return found


def tables_of(classes: Tensor) -> list[Tensor]:
    """``[kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices]``."""
    tables = []
    for kind in (1, 2):
        listed = classes == kind
        tables.append(listed.sum(-1, dtype=torch.int32))
        tables.append((~listed).to(torch.uint8).argsort(dim=-1, stable=True).to(torch.int32))
    return tables
